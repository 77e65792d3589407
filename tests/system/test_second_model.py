"""A second family of models, of another package, end to end: nothing in the generic rooms knows it."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import polars as pl
import pytest
import yaml
from scipy import sparse

import screen
from screen.cli.main import main
from screen.errors import ConfigError
from screen.models.registry import family
from screen.running.configuration import load_config
from screen.running.prepare import prepare
from screen.store.reader import StoreReader
from tests.models.delta.test_forward import worst_error
from tests.support.places import ROOT
from tests.support.stores import assert_same_arrays
from tests.support.toy import write_checkpoint

N_GENES, N_CELLS = 24, 14
MODES = ["mask", "pad", "delete", "overexpress"]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip leaves of an installed package that has a family of models: the entry point."""
    folder = tmp_path_factory.mktemp("site")
    metadata = folder / "tower-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tower\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[perturbscreen.models]\ntower = tests.support.toy\n")
    return folder


@pytest.fixture
def tower(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is installed in this process."""
    monkeypatch.syspath_prepend(str(package))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells without states, a vocabulary and weights."""
    folder, rng = tmp_path_factory.mktemp("tower"), np.random.default_rng(0)
    ids = [f"ENSG{i:011d}" for i in range(N_GENES)]
    rows = ["ensembl_id\tsymbol\ttoken_id\trow_id\tmedian"]
    rows += [f"{e}\tG{i}\t{i + 4}\t{i + 4}\t1.0" for i, e in enumerate(ids)]
    (folder / "genes.tsv").write_text("\n".join(rows) + "\n")
    counts = rng.poisson(0.9, (N_CELLS, N_GENES)).astype(np.float32)
    adata = ad.AnnData(sparse.csr_matrix(counts))
    adata.var["ensembl_id"] = ids
    adata.obs["donor"] = [f"d{i % 2}" for i in range(N_CELLS)]
    adata.write_h5ad(folder / "cells.h5ad")
    write_checkpoint(folder / "tower.pt", N_GENES + 4)
    return folder


def config(folder: Path, name: str = "screen.yaml", **changes: Any) -> Path:
    content: dict[str, Any] = {
        "model": {
            "kind": "tower",
            "checkpoint": str(folder / "tower.pt"),
            "vocabulary": str(folder / "genes.tsv"),
        },
        "cells": {"h5ad": str(folder / "cells.h5ad")},
        "library": {"genes": "all", "modes": MODES},
        "output": {"strata": ["donor"], "store_dtype": "float32", "keep_gene_cosine": True, "min_cells": 2},
    } | changes
    path = folder / name
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("screen.running.unit_sizes.MAX_ROWS", 64)
    monkeypatch.setattr("screen.running.unit_sizes.MIN_CELLS", 4)


@pytest.mark.usefixtures("tower")
def test_its_changes_are_carried_without_a_line_of_its_own(folder: Path, tmp_path: Path) -> None:
    path = config(folder)
    for at_once in (False, True):
        assert worst_error(prepare(load_config(path)), at_once) <= 1e-9
    assert main(["run", str(path), "--out", str(tmp_path / "a"), "--precision", "delta32"]) == 0
    assert (
        main(["run", str(path), "--out", str(tmp_path / "b"), "--engine", "reference", "--precision", "float64"]) == 0
    )
    ours, exact = (StoreReader.open(tmp_path / name / "screen.zarr").blocks[0] for name in "ab")
    assert np.abs(ours.read("gene_cosine/t0") - exact.read("gene_cosine/t0")).max() <= 1e-6


@pytest.mark.usefixtures("tower", "small_units")
def test_plan_run_resume_tables_and_export(folder: Path, tmp_path: Path, capsys: Any) -> None:
    path, out = config(folder), tmp_path / "out"
    assert main(["plan", str(path)]) == 0
    assert "read out at the source" in capsys.readouterr().out
    assert main(["run", str(path), "--out", str(out), "--batch-tokens", "60"]) == 0
    assert main(["verify", str(out)]) == 0
    assert main(["run", str(path), "--out", str(tmp_path / "plain"), "--engine", "reference"]) == 0
    packed, plain = (StoreReader.open(d / "screen.zarr") for d in (out, tmp_path / "plain"))
    assert packed.n_units > 1
    names = [*(f"items/{n}" for n in ("cell", "perturbation", "is_screened_t0", "effects")), "embedding/t0"]
    for name in [*names, "gene_cosine/t0"]:
        ours, theirs = packed.blocks[0].read(name), plain.blocks[0].read(name)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6, err_msg=name)
    assert np.abs(packed.blocks[0].read("embedding/t0")).max() > 0.1
    hits = pl.read_parquet(out / "hits.parquet")
    assert set(hits["mode"]) == set(MODES) and set(hits["time"]) == {0} and set(hits["stratum"]) == {"d0", "d1"}
    assert (hits["strength"].drop_nulls() > 0).any()
    # resumed: some units are forgotten, the same command computes them again, byte for byte
    before = {p: p.read_bytes() for p in out.rglob("c.*") if p.is_file() and "commits" not in p.parts}
    for marker in sorted((out / "screen.zarr/library/0/commits").glob("c.*"))[1:3]:
        marker.unlink()
    assert main(["status", str(out)]) == 1
    assert main(["run", str(path), "--out", str(out), "--batch-tokens", "60"]) == 0
    assert {p: p.read_bytes() for p in before} == before
    assert main(["deg", str(out), "--top", "3"]) == 0
    assert main(["export", str(out), "--h5ad", str(tmp_path / "x.h5ad")]) == 0
    exported = ad.read_h5ad(tmp_path / "x.h5ad")
    assert exported.n_obs == int(packed.blocks[0].read("items/is_screened_t0").sum())
    assert {"true_cls", "perturbed_cls", "mean_cos_similarity"} <= set(exported.obsm)
    assert {"donor", "time", "perturbation"} <= set(exported.obs)


@pytest.mark.usefixtures("tower")
def test_workers_find_the_family_as_well(package: Path, folder: Path, tmp_path: Path) -> None:
    path = config(folder, "workers.yaml", library={"genes": "all", "modes": ["delete"]})
    assert main(["run", str(path), "--out", str(tmp_path / "one")]) == 0
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (package, ROOT, ROOT / "kernels")))}
    command = [sys.executable, "-m", "screen.cli", "run", str(path), "--out", str(tmp_path / "two"), "--workers", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_arrays(tmp_path / "one", tmp_path / "two")


WRONG: Sequence[tuple[dict[str, Any], str]] = (
    ({"predict": {"pred_tps": [1]}}, "reads out the source itself"),
    ({"library": {"genes": "all", "perturbation_sequence": ["src", "tgt"]}}, "reads the source alone"),
    ({"enrich": {"gene_sets": ["x.gmt"]}}, "embeddings only"),
)


@pytest.mark.usefixtures("tower")
@pytest.mark.parametrize(("changes", "message"), WRONG, ids=itertools.count())
def test_what_such_a_model_cannot_do_is_refused(
    changes: dict[str, Any], message: str, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    assert main(["run", str(config(folder, "wrong.yaml", **changes)), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("tower")
def test_an_unknown_kind_names_those_that_there_are() -> None:
    assert family("tower").load.__module__ == "tests.support.toy"
    with pytest.raises(ConfigError, match=r'model.kind is "towr"; there are .*tower.*did you mean "tower"'):
        family("towr")


@pytest.mark.usefixtures("tower")
def test_a_check_says_that_there_is_nothing_to_hold_it_against(folder: Path, tmp_path: Path, capsys: Any) -> None:
    path = config(folder)
    assert main(["check", str(path), "--out", str(tmp_path / "found")]) == 0
    said, noise = capsys.readouterr()
    assert "Traceback" not in said + noise
    text = " ".join(said.split())
    assert (
        f"On {N_CELLS} cells of 2 types (donor): this model reads out the source itself, so no later state is" in text
    )
    assert "the ranking of edits agrees at Spearman for mask" in text
    found = screen.check(path)
    assert max(map(len, str(found).splitlines())) <= 80
    assert found.figures["prediction"] == found.figures["source"] == [] and found.figures["times"] == [0]
    assert {s["mode"] for s in found.figures["effects"]["stability"]} == set(MODES)
    assert found.cells.columns == ["cell", "cell_idx", "stratum", "time"] and found.cells.height == N_CELLS
    assert json.loads((tmp_path / "found" / "check.json").read_text()) == found.figures
    few = screen.check(path, cells=3)
    assert "its effects were not judged" in " ".join(str(few).split())
