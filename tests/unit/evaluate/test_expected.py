"""Positive controls: looked up as they are named, found or not, from options, files and the configuration."""

from pathlib import Path

import polars as pl
import pytest

from screen.cli.main import main
from screen.edits import MASK
from screen.errors import ConfigError
from screen.evaluate.evaluation import evaluate
from screen.evaluate.expected import TOP_SHARE, expected_table, read_expect
from screen.results.results import Results, open_results
from tests.support.store_fixture import GENES
from tests.support.tiny import tiny, write

EXPECT = {GENES[2]: [GENES[5], "NOGENE", GENES[2]], "NOEDIT": [GENES[5]]}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("expected")
    config = tiny() | {"library": [{"genes": list(GENES[2:6]), "modes": [MASK.name]}], "expect": EXPECT}
    assert main(["run", str(write(config, folder / "s.yaml")), "--out", str(folder / "out")]) == 0
    return open_results(folder / "out")


def test_the_configurations_own_are_looked_up_and_agree_with_the_table_of_genes(results: Results) -> None:
    found = evaluate(results).expected
    assert found.select("edit", "gene").unique(maintain_order=True).rows() == [
        (e, g) for e, genes in EXPECT.items() for g in genes
    ]
    known = found.drop_nulls("rank")
    assert not known.is_empty()
    for row in known.iter_rows(named=True):
        genes = results.differential(row["edit"], row["stratum"], row["time"])
        own = genes.filter(feature=row["gene"]).row(0, named=True)
        assert (row["change"], row["fdr"]) == (own["mean_delta"], own["fdr"])
        larger = genes.filter(pl.col("mean_delta").abs() > abs(own["mean_delta"]), pl.col("feature") != row["edit"])
        assert row["rank"] == larger.height + 1 and row["n_genes"] == genes.height - 1
        assert row["is_found"] == (own["fdr"] < 0.05 and row["rank"] <= TOP_SHARE * row["n_genes"])
    notes = {(r["edit"], r["gene"]): r["note"] for r in found.iter_rows(named=True) if r["rank"] is None}
    assert "no gene" in notes[(GENES[2], "NOGENE")] and notes[(GENES[2], GENES[2])] == "the edited gene itself"
    assert "no gene" in notes[("NOEDIT", GENES[5])]


def test_what_moves_most_is_found_and_what_moves_least_is_not(results: Results) -> None:
    genes = results.differential(GENES[3]).filter(pl.col("feature") != GENES[3])
    ordered = genes.sort(pl.col("mean_delta").abs(), descending=True)["feature"].to_list()
    rank = expected_table(results, {GENES[3]: [ordered[0], ordered[-1]]}).group_by("gene").agg(pl.col("rank").min())
    assert dict(rank.rows())[ordered[0]] == 1
    assert not expected_table(results, {GENES[3]: [ordered[-1]]})["is_found"].all()


def test_options_and_files_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("IFNAR1: [STAT1, IRF9]\n")
    (tmp_path / "b.yaml").write_text("expect:\n  IFNAR1: [STAT1, IRF9]\n")
    want = {"IFNAR1": ["STAT1", "IRF9"]}
    assert [read_expect([str(tmp_path / n)]) for n in ("a.yaml", "b.yaml")] == [want, want]
    assert read_expect(["IFNAR1=STAT1, IRF9", "A+B=C"]) == {**want, "A+B": ["C"]}
    for text in ("IFNAR1=", "=STAT1"):
        with pytest.raises(ConfigError, match="an edited gene and a list of genes that must respond"):
            read_expect([text])
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        read_expect([str(tmp_path / "none.yaml")])


def test_the_command_shows_them_without_a_real_screen(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(results.directory)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Positive controls: ")
    assert (results.directory / "evaluation.json").is_file()
    assert [p.name for p in (results.directory / "evaluation").iterdir()] == ["expected.parquet"]
