"""What the compiler makes of every kernel, ahead of time, for two architectures and without a GPU."""

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton has no wheel for this platform")

SCRIPT = """
import dataclasses, json, sys
from screen_kernels.compile_report import resources, table
found = resources(is_brief=sys.argv[1] == "brief")
sys.stderr.write(table(found))
json.dump([dataclasses.asdict(r) for r in found], sys.stdout)
"""


def python(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A fresh process that compiles into an empty cache."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(folder), "TRITON_DEFAULT_FP_FUSION": "1"} | variables
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("extent", ["brief", pytest.param("whole", marks=pytest.mark.long)])
def test_no_kernel_spills_and_all_read_and_write_sixteen_bytes_at_once(tmp_path: Path, extent: str) -> None:
    run = python("-W", "error", "-c", SCRIPT, extent, folder=tmp_path)
    assert run.returncode == 0, run.stderr[-4000:]
    found = json.loads(run.stdout)
    n_variants = {"edit_tokens": 4, "pool_shift": 3, "add_norm": 1, "split_half": 2}
    n_variants |= {"norm_change": 2, "activation_change": 4, "pool_change": 2}
    n_variants |= {"attention_change": 4, "attention_whole_rows": 2, "frame_rows": 2}
    assert {k: len({r["variant"] for r in found if r["kernel"] == k}) for k in n_variants} == n_variants
    met = Counter((r["kernel"], r["arch"]) for r in found)
    # in brief half of the pairs, but each kernel on both
    assert set(met) == {(k, arch) for k in n_variants for arch in ("sm_80", "sm_90")}
    assert len(found) == sum(2 * n if extent == "whole" or n == 1 else n for n in n_variants.values())
    assert not [r for r in found if r["spill_bytes"]], run.stderr
    # what pooling writes is a thousandth of what it reads
    narrow = [r for r in found if (r["load_bytes"], r["store_bytes"]) != (16, 16)]
    assert {(r["kernel"], r["load_bytes"], r["store_bytes"]) for r in narrow} <= {("pool_change", 16, 8)}, run.stderr
    assert not [r for r in found if not 0 < r["registers"] <= 255], run.stderr


def test_compiling_is_refused_in_a_process_that_interprets(tmp_path: Path) -> None:
    run = python("-m", "screen_kernels.compile_report", folder=tmp_path, TRITON_INTERPRET="1")
    assert run.returncode != 0
    assert "TRITON_INTERPRET is set, so nothing can be compiled; unset it and start a new process" in run.stderr
