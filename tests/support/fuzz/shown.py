"""What must never happen, shown on purpose: for the test that it is noticed."""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np

from tests.support.fuzz.format import Format


def _show(kind: str) -> Format:
    def read(folder: Path) -> None:
        if not (folder / "damaged").exists():
            return
        if kind == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "hang":
            time.sleep(60)
        if kind == "memory":
            np.ones(2**33)
        raise KeyError("indptr")

    def damage(folder: Path, rng: random.Random) -> str:
        (folder / "damaged").touch()
        return "one"

    return Format(lambda folder: None, damage, read, 0)


SHOWN = {f"shows {kind}": _show(kind) for kind in ("crash", "hang", "traceback", "memory")}
