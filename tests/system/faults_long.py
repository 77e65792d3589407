"""Dozens of kills in one go: minutes, so `make test-long` runs it and `make test` does not."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import faults
from tests.support.fault_screen import Screen, leftovers, undisturbed

MODES = ["mask", "pad", "delete", "overexpress"]


def kill_from_the_start(screen: Screen, rng: random.Random) -> bool:
    """A run in a fresh interpreter, killed while it imports or works. False if it was over."""
    command = [sys.executable, "-m", faults.__name__, "run", str(screen.config), "--out", str(screen.directory)]
    with screen.kept():
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.1, 5))
        running.kill()
        return running.wait() == -signal.SIGKILL


@pytest.mark.parametrize("seed", [1, 2])
def test_dozens_of_kills_at_random_moments_change_nothing_in_the_end(tmp_path: Path, seed: int) -> None:
    rng, n_killed, n_finished, start = random.Random(seed), 0, 0, time.monotonic()
    (tmp_path / "undisturbed").mkdir()
    with undisturbed(tmp_path / "undisturbed", MODES) as (commands, folder):
        screen = Screen(commands, folder / "s.yaml", tmp_path / "out", folder / "out")
        while n_killed < 40:
            is_killed = kill_from_the_start(screen, rng) if n_killed % 5 == 4 else screen.kill(rng, most_units=3)
            n_killed += is_killed
            if not is_killed or n_killed == 40:
                screen.finish()
                assert leftovers(screen.directory) == []
                assert screen.verify().code == 0
                shutil.rmtree(screen.directory)
                n_finished += 1
    print(f"{n_killed} kills, {n_finished} screen(s) finished, {time.monotonic() - start:.0f} s")  # noqa: T201
