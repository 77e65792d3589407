"""A first configuration names what the file holds, whatever its columns are called, and can be read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from screen.cells.metadata import texts
from screen.cli.main import main
from screen.demo import DATA
from screen.running.configuration import load_config
from screen.starting.look import Looked, look
from screen.starting.write import configuration


def file_of(path: Path, obs: dict[str, Sequence[object]], place: str = "X") -> Path:
    """Cells whose counts lie at a place; elsewhere are logarithms of them."""
    n = len(next(iter(obs.values())))
    counts = np.random.default_rng(0).poisson(2.0, (n, 30)).astype(np.float32)
    names = [f"c{i}" for i in range(n)]
    found = ad.AnnData(
        np.log1p(counts), obs=pd.DataFrame(obs, index=names), var=pd.DataFrame(index=[f"g{i}" for i in range(30)])
    )
    if place == "X":
        found.X = counts
    elif place == "raw":
        found.raw = ad.AnnData(counts, obs=found.obs, var=found.var)
    else:
        found.layers["other"], found.layers[place] = np.log1p(counts), counts
    found.write_h5ad(path)
    return path


def begun(looked: Looked, out: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(configuration(looked, out, None, None))
    return found


def test_the_demos_cells_get_a_configuration_that_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s.yaml"
    files = ["--model", str(DATA / "demo.ckpt"), "--vocabulary", str(DATA / "genes.tsv")]
    assert main(["init", str(DATA / "cells.h5ad"), *files, "--out", str(out)]) == 0
    assert f"perturbscreen plan {out}" in capsys.readouterr().out
    config = load_config(out)
    assert (config.cells.state_column, config.cells.source, config.cells.targets) == (
        "condition",
        "control",
        {1: "stimulated"},
    )
    assert config.cells.strata == config.output.strata == ["cell_type"]
    assert "TODO" not in out.read_text().partition("model:")[2]
    out.write_text(out.read_text().replace("max_cells: 300", "max_cells: 3"))
    assert main(["plan", str(out)]) == 0


def test_a_file_is_never_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s.yaml"
    out.write_text("mine")
    assert main(["init", str(DATA / "cells.h5ad"), "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["init", str(tmp_path / "none.h5ad"), "--out", str(tmp_path / "t.yaml")]) == 2
    assert not (tmp_path / "t.yaml").exists()


@pytest.mark.parametrize(("place", "layer"), [("X", None), ("raw", "raw"), ("umi", "umi")])
def test_counts_are_found_where_they_lie(place: str, layer: str | None, tmp_path: Path) -> None:
    looked = look(file_of(tmp_path / "x.h5ad", {"condition": ["a", "b"] * 20}, place))
    assert begun(looked, tmp_path / "s.yaml")["cells"].get("layer") == layer


def test_times_follow_one_another_and_the_first_is_the_source(tmp_path: Path) -> None:
    obs: dict[str, Sequence[object]] = {
        "n_genes": np.arange(60),
        "Donor_ID": ["p", "q", "r"] * 20,
        "timepoint": ["10h", "0h", "6h"] * 20,
        "predicted_celltype": ["T", "B"] * 30,
    }
    found = begun(look(file_of(tmp_path / "x.h5ad", obs)), tmp_path / "s.yaml")
    assert found["cells"]["source"] == "0h" and found["cells"]["targets"] == {1: "6h", 2: "10h"}
    assert found["predict"] == {"pred_tps": [1, 2]}
    assert found["cells"]["strata"] == found["output"]["strata"] == ["predicted_celltype"]
    assert found["deg"] == {"replicate": "Donor_ID"}


def test_without_states_there_is_one_state(tmp_path: Path) -> None:
    found = begun(look(file_of(tmp_path / "x.h5ad", {"quality": ["good"] * 40})), tmp_path / "s.yaml")
    assert set(found["cells"]) == {"h5ad"} and "predict" not in found


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
    lambda t: t.strip() == t
)


@given(st.lists(NAMES, min_size=3, max_size=3, unique=True), st.lists(NAMES, min_size=2, max_size=4, unique=True))
def test_whatever_columns_and_values_are_called_yaml_gives_them_back(columns: list[str], values: list[str]) -> None:
    levels = dict.fromkeys(values, 7)
    state, kind, donor = (f"{word}{c}" for word, c in zip(("state", "type", "donor"), columns, strict=True))
    looked = Looked(
        path=Path("x y.h5ad"), n_cells=9, counts=[values[0]], columns=dict.fromkeys((state, kind, donor, "n\n# a: b"), levels),
        state=state, source=values[0], targets=values[1:], cell_type=kind, donor=donor, genes=[],
    )  # fmt: skip
    found = begun(looked, Path("s.yaml"))
    assert found["cells"]["state_column"] == state and found["cells"]["source"] == values[0]
    assert list(found["cells"]["targets"].values()) == values[1:]
    assert found["output"]["strata"] == [kind] and found["deg"]["replicate"] == donor


def test_a_value_that_is_missing_is_none(tmp_path: Path) -> None:
    looked = look(file_of(tmp_path / "x.h5ad", {"condition": ["a", None, "b", "a"] * 10}))
    assert looked.columns["condition"] == {"a": 20, "b": 10}
    assert texts(pd.Series(["a", None]))[1] not in looked.columns["condition"]
