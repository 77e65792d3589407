"""A small real data set, a small trained checkpoint, and the scripts that made them.

`build_data` writes the cells, `train` the checkpoint, `evaluate` says how good it is.
"""

from pathlib import Path

DATA = Path(__file__).parent / "data"
