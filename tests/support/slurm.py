"""A Slurm that is not there: sbatch, squeue and scancel as scripts that answer as a real one may."""

import os
import shutil
import sys
from pathlib import Path

ACCEPTS = '[ "$1" = --test-only ] && { echo "sbatch: Job 1 to start at 2026-01-01T00:00:00" >&2; exit 0; }\n'
REFUSES = """echo "sbatch: error: invalid partition specified: gpu" >&2
echo "sbatch: error: Batch job submission failed: Invalid partition name specified" >&2
exit 1"""
HANGS = "exec sleep 1000"
TAKES = ACCEPTS + 'touch "$(dirname "$0")/asked"; echo "Submitted batch job 4711"'
REFUSES_LATER = ACCEPTS + REFUSES
STARTS = (
    ACCEPTS
    + """cp "$1" "$0.$$.sh"
(bash "$0.$$.sh" > "$0.$$.log" 2>&1; rm -f "$(dirname "$0")/queue/$$") < /dev/null > /dev/null 2>&1 &
mkdir -p "$(dirname "$0")/queue"; echo $! > "$(dirname "$0")/queue/$$"
echo "Submitted batch job $$\""""
)
"""Runs the job at once, on this machine."""
LISTS_PENDING, LISTS_NONE = 'echo "4711 PENDING (Resources)"', "exit 0"
LISTS_STARTED = """cd "$(dirname "$0")/queue" && for job in *; do echo "$job RUNNING (None)"; done"""
CANCELS = """p="$(dirname "$0")/queue/$1"; [ -f "$p" ] && pkill -P "$(cat "$p")"; exit 0"""


def slurm_in(folder: Path, sbatch: str | None, squeue: str = LISTS_PENDING) -> dict[str, str]:
    """The environment of a command that finds these commands, and `python`, before all others."""
    folder.mkdir(exist_ok=True)
    for name, script in {"sbatch": sbatch, "squeue": squeue, "scancel": CANCELS}.items():
        if script is not None:
            path = folder / name
            path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
            path.chmod(0o755)
    return dict(os.environ) | {
        "PATH": os.pathsep.join([str(folder), str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    }
