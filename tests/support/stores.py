"""What two screens' stores hold, compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr


def every_array(directory: Path) -> dict[str, Any]:
    """Name -> values of every array of the store in an output directory; of commit markers only their checksums."""
    root = zarr.open_group(directory / "screen.zarr", mode="r", use_consolidated=False)
    found = {name: array[...] for name, array in root.members(max_depth=None) if isinstance(array, zarr.Array)}
    for name, values in found.items():
        if name.endswith("commits"):
            # who computed a unit, and when, may differ
            found[name] = np.array([json.dumps(json.loads(str(x))["files"]) if x else "" for x in values])
    return found


def assert_same_arrays(one: Path, two: Path) -> None:
    """Every array of two output directories, bit for bit."""
    a, b = every_array(one), every_array(two)
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
