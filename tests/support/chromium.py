"""The Chromium that tests drive: found here, or installed where that can be done. `python -m tests.support.chromium`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

VARIABLE = "PERTURBSCREEN_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = (
    f"no Chromium: {VARIABLE} names none, and none of {', '.join(NAMES)} is on PATH. Install one (`apt-get install chromium`), "
    f"or set {VARIABLE} to its path"
)


def chromium() -> Path | None:
    """Where it is: what the variable names, else the first on PATH; None if there is none."""
    if named := os.environ.get(VARIABLE):
        return Path(named) if os.access(named, os.X_OK) else None
    return next((Path(found) for name in NAMES if (found := shutil.which(name))), None)


def install() -> bool:
    """Whether Debian's could be installed; only for root, or where sudo asks for no password."""
    as_root = _as_root()
    if as_root is None or shutil.which("apt-get") is None:
        return False
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
        if subprocess.run([*as_root, "apt-get", *arguments], env=environment, check=False).returncode:
            return False
    return True


def _as_root() -> list[str] | None:
    """What to put before a command that only root may run; None where nobody here may."""
    if os.geteuid() == 0:
        return []
    if (
        shutil.which("sudo")
        and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    ):
        return ["sudo", "-n"]
    return None


def main() -> int:
    """Exit code: 0 where there is one at the end."""
    if chromium() is None and VARIABLE not in os.environ:
        sys.stdout.write("installing chromium ...\n")
        sys.stdout.flush()
        install()
    found = chromium()
    sys.stderr.write("" if found else f"{MISSING}\n")
    return int(found is None)


if __name__ == "__main__":
    sys.exit(main())
