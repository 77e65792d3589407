"""Reads damaged files of one format in this process: `python -m tests.support.fuzz FORMAT [SEED ...]`.

Seeds come as arguments, for a replay, or one per line on standard input. A line of JSON is printed before and after each.
"""

import json
import os
import random
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from screen.errors import ScreenError
from tests.support.fuzz.format import Format
from tests.support.fuzz.shown import SHOWN

MORE_BYTES = 2 * 2**30
"""Address space beyond what the process has once everything is loaded and valid files are read."""


def main() -> None:
    """Reads seeds until there are none."""
    warnings.simplefilter("ignore")
    form, seeds = _named(sys.argv[1]), [int(a) for a in sys.argv[2:]]
    # what commands print is not for the one who reads these lines
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, Path(os.devnull).open("w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        valid = Path(folder) / "valid"
        valid.mkdir()
        form.make(valid)
        work = Path(folder) / "work"
        for _ in range(2):
            shutil.copytree(valid, work)
            form.read(work)
            shutil.rmtree(work)
        limit = _address_space() + MORE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        _print({"ready": True, "rss": _peak()})
        for seed in seeds or _asked():
            shutil.copytree(valid, work)
            _print({"begins": seed})
            _print({"seed": seed, **_one(form, work, seed), "rss": _peak()})
            shutil.rmtree(work)


def _named(name: str) -> Format:
    if name in SHOWN:
        return SHOWN[name]
    # which takes seconds
    from tests.support.fuzz.formats import FORMATS

    return FORMATS[name]


def _one(form: Format, work: Path, seed: int) -> dict[str, Any]:
    """What was done to the files, and what came of it."""
    done = "nothing yet"
    try:
        done = form.damage(work, random.Random(seed))
    except Exception as error:
        return {"outcome": "no damage", "damage": f"{type(error).__name__}: {error}"}
    _print({"damaged": seed, "damage": done})
    try:
        form.read(work)
    except ScreenError as error:
        is_ours = error.exit_code in (1, 2) and "\n\n" not in str(error)
        return {"outcome": "refused" if is_ours else "wrong", "damage": done, "said": str(error)[:500]}
    except BaseException as error:
        said = "".join(traceback.format_exception(error)[-4:])
        return {"outcome": "wrong", "damage": done, "said": said[-3000:]}
    return {"outcome": "answered", "damage": done}


def _asked() -> Iterator[int]:
    for line in sys.stdin:
        yield int(line)


def _print(line: dict[str, Any]) -> None:
    sys.__stdout__.write(json.dumps(line) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
