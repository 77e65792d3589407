"""hits.parquet of whole screens: random genes for the null, what p rests on, and the response that all share."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy import stats

from screen.cli.main import main
from screen.running.configuration import load_config
from screen.running.prepare import prepare
from screen.stats import deg
from screen.stats.hits import _ROW, SCHEMA, _table
from screen.store.store import ScreenStore
from tests.support.tiny import tiny, write

NAMED = [f"ENSG{100_000 + 7 * i:011d}" for i in range(6)]


def run(folder: Path, more: Sequence[str] = (), **sections: Any) -> Path:
    config = tiny(library=sections.pop("library")) | sections
    assert main(["run", str(write(config, folder / "s.yaml")), "--out", str(folder / "out"), *more]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six named genes, overexpressed, beside 40 random ones."""
    folder = tmp_path_factory.mktemp("null")
    return run(folder, library={"genes": NAMED, "modes": ["overexpress"]}, null={"n": 40, "seed": 3})


def test_random_genes_are_labelled_unranked_and_what_p_rests_on(small: Path) -> None:
    hits = pl.read_parquet(small / "hits.parquet").filter(time=1)
    assert hits.filter("is_null").height == 40
    assert set(hits.filter(~pl.col("is_null"))["target"]) == set(NAMED)
    assert not set(hits.filter("is_null")["target"]) & set(NAMED)
    assert hits.filter("is_null")["strength_rank"].null_count() == 40
    assert hits.filter("is_null")["q_value"].null_count() == 40
    tested = hits.filter(~pl.col("is_null")).sort("strength", descending=True)
    assert tested["strength_rank"].is_sorted()
    assert (tested["n_pool"] == 40).all()
    pool = hits.filter("is_null")["null_z"].to_numpy()
    for row in tested.iter_rows(named=True):
        assert row["p_value"] == pytest.approx((1 + (pool >= row["null_z"]).sum()) / 41)
    np.testing.assert_allclose(tested["q_value"], stats.false_discovery_control(tested["p_value"]), rtol=1e-12)
    store = ScreenStore.open(small / "screen.zarr")
    assert store.blocks[0].read("perturbations/is_null").sum() == 40


def test_random_joint_edits_that_share_genes_count_for_fewer(tmp_path: Path) -> None:
    library = {"genes": NAMED[:3], "combos": "joint", "modes": ["overexpress"]}
    hits = pl.read_parquet(run(tmp_path, library=library, null={"n": 60, "seed": 3}) / "hits.parquet").filter(time=1)
    genes = hits.filter("is_null")["target"].str.split("+").explode()
    repeats, pool = len(genes) / genes.n_unique(), hits.filter("is_null")["null_z"].to_numpy()
    # 55 genes are left for 180 places
    assert repeats > 3
    (row,) = hits.filter(~pl.col("is_null")).to_dicts()
    assert row["n_pool"] == int(60 / repeats)
    assert row["p_value"] == pytest.approx((repeats + (pool >= row["null_z"]).sum()) / (repeats + 60))


def test_the_same_seed_draws_the_same_genes_and_another_others(tmp_path: Path) -> None:
    drawn = []
    for seed in (3, 3, 4):
        config = tiny(library={"genes": NAMED, "modes": ["mask", "overexpress"]}, output={"min_cells": 2})
        config["null"] = {"n": 20, "seed": seed}
        screen = prepare(load_config(write(config, tmp_path / "s.yaml")))
        drawn.append(screen.library.ids(screen.vocabulary))
        assert sum(screen.library.is_null) == 40
        assert not any(
            must for must, null in zip(screen.library.must_screen, screen.library.is_null, strict=True) if null
        )
    assert drawn[0] == drawn[1] != drawn[2]


def test_more_random_genes_than_there_are_is_refused(tmp_path: Path, capsys: Any) -> None:
    config = tiny(library={"genes": NAMED, "modes": ["overexpress"]}) | {"null": {"n": 56}}
    assert main(["plan", str(write(config, tmp_path / "s.yaml"))]) == 2
    assert "only 55 genes beside those of the library" in capsys.readouterr().err


def test_genes_that_the_user_chose_are_no_null(tmp_path: Path, capsys: Any) -> None:
    names = [f"ENSG{100_000 + 7 * i:011d}" for i in range(40)]
    out = run(tmp_path, library={"genes": names, "modes": ["overexpress"]})
    assert pl.read_parquet(out / "hits.parquet")["p_value"].null_count() == 80
    assert "no null perturbations to compare with" in capsys.readouterr().out


def test_a_small_screen_gets_random_genes_by_itself_as_many_as_there_are(tmp_path: Path, capsys: Any) -> None:
    def nulls(genes: Any, modes: list[str]) -> dict[str, int]:
        config = tiny(library={"genes": genes, "modes": modes}) | {"null": None}
        screen = prepare(load_config(write(config, tmp_path / "s.yaml")))
        random = zip(screen.library.perturbations, screen.library.is_null, strict=True)
        return Counter(p.mode for p, is_null in random if is_null)

    # a knock-out needs genes that five cells have, and less than twenty have them
    assert nulls(NAMED, ["overexpress", "delete"]) == {"overexpress": 55}
    # too few are left for a p-value; and all genes are their own null
    assert nulls([f"ENSG{100_000 + 7 * i:011d}" for i in range(45)], ["overexpress"]) == {}
    assert nulls("all", ["overexpress"]) == {}
    config = tiny(library={"genes": NAMED}) | {"null": {"n": 7}}
    assert main(["plan", str(write(config, tmp_path / "s.yaml"))]) == 2
    assert "7 give no p-value; ask for 20 or more, or for 0" in capsys.readouterr().err


def test_the_section_null_needs_no_quotes(tmp_path: Path) -> None:
    path = write(tiny(library={"genes": NAMED}), tmp_path / "s.yaml")
    text = path.read_text()
    assert "'null':" in text
    path.write_text(text.replace("'null':", "null:").replace("n: 0", "n: 30"))
    assert load_config(path).null.n == 30


def test_a_random_gene_that_is_asked_for_later_is_ranked_and_the_other_random_ones_stay(tmp_path: Path) -> None:
    sections: dict[str, Any] = {"null": {"n": 25}, "output": {"min_cells": 2, "store_dtype": "float32"}}
    before = pl.read_parquet(run(tmp_path, library={"genes": NAMED}, **sections) / "hits.parquet")
    asked = before.filter("is_null", pl.col("n_cells") > 0)["target"][0]
    out = run(tmp_path, ["--add"], library={"genes": [*NAMED, asked]}, **sections)
    after = pl.read_parquet(out / "hits.parquet").filter(time=1)
    assert after.filter(target=asked)["is_null"].to_list() == [False]
    assert after.filter("is_null").height == 25
    kept = before.filter("is_null", pl.col("target") != asked)["target"].unique()
    assert set(kept) <= set(after.filter("is_null")["target"])


def test_the_response_that_all_share_is_projected_out(small: Path) -> None:
    hits = pl.read_parquet(small / "hits.parquet").filter(time=2)
    table = deg.scan(small).filter(time=2).sort("perturbation", "feature").collect()
    mean = {str(k[0]): g["mean_delta"].to_numpy().astype(float) for k, g in table.group_by("perturbation")}
    total = np.sum(list(mean.values()), axis=0)
    for row in hits.iter_rows(named=True):
        own = mean[row["perturbation"]]
        shared = (total - own) / np.linalg.norm(total - own)
        assert row["universal_cosine"] == pytest.approx(own @ shared / np.linalg.norm(own), abs=1e-5)
        assert row["specific_strength"] == pytest.approx(np.sqrt(np.mean((own - own @ shared * shared) ** 2)), rel=1e-4)
        assert row["specific_strength"] <= row["strength"] * (1 + 1e-9)


def test_a_screen_of_all_genes_is_its_own_null(tmp_path: Path, capsys: Any) -> None:
    out = run(tmp_path, library={"genes": "all", "modes": ["overexpress"]})
    hits = pl.read_parquet(out / "hits.parquet").filter(time=1)
    assert hits["p_value"].null_count() == 0
    assert 0 < hits["p_value"].min() < 1 / (1 + hits["n_pool"].max()), "the tail goes on where the pool ends"
    assert not list(out.glob(".means*"))


def test_deg_begins_with_what_is_recorded_and_any_setting_can_be_reset(
    small: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    shutil.copytree(small, out)
    gmt = tmp_path / "sets.gmt"
    gmt.write_text("one\t-\t" + "\t".join(f"ENSG{100_000 + 7 * i:011d}" for i in range(12)) + "\n")
    n_groups = pl.read_parquet(out / "hits.parquet").filter(pl.col("n_cells") > 0).height

    def made(*options: str) -> str:
        assert main(["deg", str(out), *options]) == 0
        return str(capsys.readouterr().out)

    assert "settings: test: sign, top: 3, min_delta: 0.001; by default" in made(
        "--test", "sign", "--top", "3", "--min-delta", "0.001", "--gene-sets", str(gmt)
    )
    assert deg.scan(out).collect().height <= 3 * n_groups
    said = made("--reset", "min_delta")
    assert "settings: test: sign, top: 3; by default" in said and "gene sets: sets.gmt" in said
    said = made("--reset", "all", "--top", "2")
    assert "settings: top: 2; by default test: " in said and "gene sets: none" in said
    assert deg.scan(out).collect().height == 2 * n_groups
    assert not (out / "enrichment" / "targets.parquet").exists()
    assert "the tables are as asked for already" in made()
    assert main(["deg", str(out), "--top", "2", "--reset", "top"]) == 2
    assert "top: both given and reset" in capsys.readouterr().err


def test_tables_of_an_earlier_version_are_made_anew(small: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    shutil.copytree(small, out)
    stamp = json.loads((out / "tables.json").read_text())
    del stamp["statistics"]
    (out / "tables.json").write_text(json.dumps(stamp))
    assert main(["deg", str(out)]) == 0
    assert "the tables are made anew" in capsys.readouterr().out


def test_a_directory_keeps_the_null_perturbations_it_was_made_with(tmp_path: Path, capsys: Any) -> None:
    library = {"genes": NAMED, "modes": ["overexpress"]}
    out = run(tmp_path, library=library, null={"n": 22})
    assert run(tmp_path, library=library, null=None) == out
    assert "is complete" in capsys.readouterr().out
    assert pl.read_parquet(out / "hits.parquet").filter("is_null", time=1).height == 22
    config = write(tiny(library=library) | {"null": {"n": 30}}, tmp_path / "s.yaml")
    assert main(["run", str(config), "--out", str(out)]) == 2
    assert "lacks 8 of the null perturbations" in capsys.readouterr().err
    assert main(["run", str(config), "--out", str(out), "--add"]) == 0
    assert pl.read_parquet(out / "hits.parquet").filter("is_null", time=1).height == 30


@given(st.lists(st.tuples(*[st.lists(st.sampled_from(["A", "B", ""]), max_size=3)] * 2, st.none() | st.integers(0, 9))))
def test_a_table_by_columns_is_that_by_rows(found: list[tuple[list[str], list[str], int | None]]) -> None:
    one = dict.fromkeys(_ROW) | {"perturbation": "p", "is_null": True, "time": 1, "n_cells": 3}
    rows = [[*(one | {"n_deg": n, "top_up": up, "top_down": down}).values()] for up, down, n in found]
    schema = {name: dtype for name, dtype in SCHEMA.items() if name in _ROW}
    assert list(schema) == list(_ROW)
    assert_frame_equal(_table(rows), pl.DataFrame(rows, schema=schema, orient="row"))
