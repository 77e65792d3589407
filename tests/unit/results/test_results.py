"""Results: everything that a finished directory holds, by the words of whoever asks; and what is said of one that is not."""

import json
import shutil
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import polars as pl
import pytest
import scanpy as sc

from screen.cli.main import main
from screen.errors import ConfigError, GeneError, StoreError
from screen.planning.layout import LOG1P
from screen.results.results import Results, open_results
from screen.stats import deg, enrich
from tests.support.store_fixture import GENES, full_disk, run, screen_of
from tests.support.tiny import tiny, write

SYMBOLS = {GENES[2]: "TNF", GENES[3]: "IL1B", GENES[4]: "CCL2", GENES[5]: "TWIN", GENES[6]: "TWIN", GENES[9]: "CD14"}
NOWHERE = GENES[29]
"""No cell expresses it."""
LIBRARY = [
    {"genes": [*GENES[2:7], NOWHERE], "modes": ["mask"]},
    {"genes": [GENES[7], GENES[2]], "modes": ["mask"], "combos": "joint"},
    {"genes": [GENES[4]], "modes": ["overexpress"], "perturbation_sequence": ["src", "tgt"], "pert_tps": [2]},
]
JOINT = f"src:mask:{GENES[2]}+{GENES[7]}"
SETS = {"first": list(GENES[:15]), "second": list(GENES[10:40])}


def screened(folder: Path, **output: Any) -> Path:
    """The directory of a screen of LIBRARY by cell type."""
    (folder / "genes.tsv").write_text("ensembl_id\tsymbol\n" + "".join(f"{e}\t{s}\n" for e, s in SYMBOLS.items()))
    (folder / "sets.gmt").write_text("".join(f"{n}\t\t" + "\t".join(g) + "\n" for n, g in SETS.items()))
    config = tiny(
        model={"gene_table": str(folder / "genes.tsv")},
        output={"strata": ["cell_type"], "allow_missing": True, "min_cells": 2, **output},
    )
    config |= {"library": LIBRARY, "enrich": {"gene_sets": [str(folder / "sets.gmt")], "max_fdr": 1, "ranked": 1}}
    assert main(["run", str(write(config, folder / "s.yaml")), "--out", str(folder / "out")]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return screened(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def results(out: Path) -> Results:
    return open_results(out)


def test_frames_are_the_files_of_the_directory(out: Path, results: Results) -> None:
    assert results.hits.equals(pl.read_parquet(out / "hits.parquet"))
    assert results.coverage.equals(pl.read_parquet(out / "coverage.parquet"))
    assert results.differential().equals(deg.scan(out).collect())
    assert results.gene_sets().equals(enrich.scan_scores(out).collect())
    assert results.gene_sets(table="changed").equals(enrich.scan(out).collect())
    assert results.gene_sets(table="targets").schema == enrich.TARGETS_SCHEMA
    assert results.gene_sets(table="ranked").schema == enrich.RANKED_SCHEMA
    assert results.provenance == json.loads((out / "provenance.json").read_text())
    assert "checkpoint" in results.provenance["library"][0]["config"]
    assert (results.strata, results.times, results.min_cells) == (["A", "B", "C"], [1, 2], 2)
    named = {part.partition("/")[0] for part in results.files.split(", ")}
    assert {p.name for p in out.iterdir()} == named | {"tables.json"}


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("TNF", {f"src:mask:{GENES[2]}"}),
        (GENES[3], {f"src:mask:{GENES[3]}"}),
        ("CCL2", {f"src:mask:{GENES[4]}", f"src+tgt@2:overexpress:{GENES[4]}"}),
        ("TWIN", {f"src:mask:{GENES[5]}", f"src:mask:{GENES[6]}"}),
        (f"TNF+{GENES[7]}", {JOINT}),
        (f"{GENES[7]}+TNF", {JOINT}),
        (JOINT, {JOINT}),
        (f"src:mask:{GENES[7]}+TNF", {JOINT}),
        ("src:mask:CCL2", {f"src:mask:{GENES[4]}"}),
    ],
)
def test_a_gene_is_found_by_symbol_id_or_perturbation(results: Results, name: str, ids: set[str]) -> None:
    found, everything = results.differential(name), results.differential()
    assert set(found["perturbation"]) == ids
    assert found.equals(everything.filter(pl.col("perturbation").is_in(list(ids))))
    assert set(results.gene_sets(name)["perturbation"]) == ids
    assert set(results.anndata(name).obs["perturbation"]) == ids


def test_stratum_time_and_mode_leave_the_rows_asked_for(results: Results) -> None:
    found = results.differential("CCL2", stratum="B", time=2, mode="overexpress")
    assert found.height == 61
    for column, value in {"stratum": "B", "time": 2, "mode": "overexpress", "target_symbol": "CCL2"}.items():
        assert found[column].unique().to_list() == [value]
    assert set(results.differential("CCL2", mode="mask")["time"]) == {1, 2}
    assert set(results.differential("mask:CCL2")["perturbation"]) == {f"src:mask:{GENES[4]}"}
    assert set(results.differential(mode="overexpress")["perturbation"]) == {f"src+tgt@2:overexpress:{GENES[4]}"}
    assert set(results.gene_sets(stratum="A", time=1)["stratum"]) == {"A"}
    assert set(results.anndata("CCL2", mode="mask").obs["perturbation"]) == {f"src:mask:{GENES[4]}"}
    assert set(results.anndata(mode="overexpress").obs["perturbation"]) == {f"src+tgt@2:overexpress:{GENES[4]}"}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("CCL3",), GeneError, ('no gene "CCL3" among the 61', 'did you mean "CCL2"')),
        (("tnf",), GeneError, ('did you mean "TNF"',)),
        (("TNF+NOPE",), GeneError, ('no gene "NOPE"',)),
        (("CD14",), GeneError, ('"CD14" was not perturbed in this screen', "7 genes were", "see the hits")),
        ((GENES[7],), GeneError, ("was not perturbed in this screen alone; jointly", JOINT)),
        (("TNF+IL1B",), GeneError, ("was not perturbed in this screen alone; jointly", JOINT)),
        (("src:msk:TNF",), GeneError, ('no perturbation "src:msk:TNF"',)),
        (("src:mask:tnf",), GeneError, ('no gene "tnf"', 'did you mean "src:mask:TNF"')),
        (("mask:CD14",), GeneError, ('"mask:CD14" was not perturbed',)),
        (("src:mask:CD14",), GeneError, ('"src:mask:CD14" was not perturbed',)),
        (("TNF", "a"), ConfigError, ('no stratum "a"; there are A, B, C', 'did you mean "A"')),
        (("TNF", None, 3), ConfigError, ("no time point 3; there are 1, 2",)),
        (
            ("TNF", None, None, "overexpress"),
            GeneError,
            ('"TNF" was not edited by mode "overexpress"', "there is mask"),
        ),
        ((None, None, None, "masc"), GeneError, ('mode "masc"', 'did you mean "mask"')),
    ],
)
def test_what_is_not_there_is_refused_naming_what_is(
    results: Results, arguments: tuple[Any, ...], error: type[Exception], words: tuple[str, ...]
) -> None:
    for ask in (results.differential, results.gene_sets):
        with pytest.raises(error) as refused:
            ask(*arguments)
        assert all(w in str(refused.value) for w in words), refused.value


def test_a_name_that_means_too_many_genes_is_refused(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("screen.store.find.MANY", 3)
    with pytest.raises(GeneError, match="means too many genes: their symbols are shared; use Ensembl IDs"):
        results.differential("TWIN+TWIN+TWIN")


def test_a_perturbation_that_no_cell_allows_has_no_row_and_is_named(results: Results) -> None:
    nobody = f"src:mask:{NOWHERE}"
    assert results.differential(NOWHERE).is_empty()
    assert results.unscreened.rows() == [(nobody, NOWHERE, 11, 0, 0)]
    assert results.coverage.filter(perturbation=nobody)["n_screened"].sum() == 0


def test_tables_of_gene_sets_are_refused_where_they_make_no_sense(results: Results) -> None:
    with pytest.raises(ConfigError, match=r'no table "score" of gene sets; there are scores.*did you mean "scores"'):
        results.gene_sets(table="score")
    with pytest.raises(ConfigError, match='"targets" is of no single perturbation'):
        results.gene_sets("TNF", table="targets")


def test_the_summary_says_what_was_run_what_stands_out_and_how_to_go_on(out: Path, results: Results) -> None:
    said = repr(results)
    assert said.splitlines()[:2] == [
        f"Results of {out}",
        "  8 perturbations (mask 7, overexpress 1) of 11 cells in 3 strata (A, B, C), time points 1, 2: "
        f"{results.store.blocks[0].n_items} edits",
    ]
    best = results.hits.filter(mode="mask").drop_nulls("strength_rank").row(0, named=True)
    assert f"strongest by mask: {best['target_symbol']} {best['strength']:.2g}, " in said
    assert "strongest by overexpress: CCL2 " in said
    assert "  no p for src:mask in " in said
    assert "1 perturbation asked for that no cell allows: .unscreened" in said
    assert "No perturbation shifts a gene set" in said
    assert said.endswith(".hits, .differential(GENE), .gene_sets(GENE), .coverage, .provenance, .store, .anndata(GENE)")


def test_a_part_is_exported_by_the_words_of_the_tables(
    out: Path, results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "x.h5ad")
    options = ["--gene", "TNF", "--gene", GENES[3], "--mode", "mask", "--stratum", "B", "--time", "2"]
    assert main(["export", str(out), "--h5ad", path, *options]) == 0
    written = ad.read_h5ad(path)
    cells = results.cells(stratum="B", time=2, mode="mask").filter(pl.col("target_symbol").is_in(["TNF", "IL1B"]))
    pairs = zip(written.obs["perturbation"], written.obs["source_cell"], strict=True)
    assert set(pairs) == set(cells.select("perturbation", "cell").rows()) and written.n_obs == cells.height > 0
    ours = results.anndata("TNF", mode="mask", stratum="B", time=2)
    np.testing.assert_array_equal(written.X[(written.obs["target_gene"] == "TNF").to_numpy()], ours.X)
    for wrong, said in {"--stratum=b": 'no stratum "b"; there are A, B, C', "--time=3": "no time point 3"}.items():
        assert main(["export", str(out), "--h5ad", path, wrong]) == 2
        assert said in capsys.readouterr().err


def test_scanpy_reads_an_export_and_finds_the_gene_that_changes_most(
    out: Path, results: Results, tmp_path: Path
) -> None:
    changes = deg.scan(out).filter(pl.col("n_cells") >= 3).sort(pl.col("mean_delta").abs(), descending=True).collect()
    one, path = changes.row(0, named=True), str(tmp_path / "x.h5ad")
    options = ["--perturbation", one["perturbation"], "--stratum", one["stratum"], "--time", str(one["time"])]
    options += ["--with-control", "--scale", LOG1P]
    assert main(["export", str(out), "--h5ad", path, *options]) == 0
    cells, label = sc.read_h5ad(path), one["target_symbol"]
    sc.tl.rank_genes_groups(cells, "perturbation", reference="control", method="t-test")
    found = sc.get.rank_genes_groups_df(cells, group=label).sort_values("logfoldchanges", key=abs, ascending=False)
    assert found["names"].iloc[0] == one["feature"]
    assert np.sign(found["logfoldchanges"].iloc[0]) == np.sign(one["mean_delta"])
    # scanpy compares means; these differ by what our table says, but for genes that were 0 or less somewhere
    mean_PG = [cells.X[(cells.obs["perturbation"] == p).to_numpy()].mean(0, np.float64) for p in (label, "control")]
    is_positive_G = (cells.X > 0).all(axis=0)
    key = ["perturbation", "stratum", "time"]
    ours = changes.filter(*(pl.col(k) == one[k] for k in key)).select("feature", "mean_delta").rows()
    expected_G = np.array([dict(ours)[name] for name in cells.var_names])
    # each value of X is rounded to float32 below log1p(1e4) < 16, that is by up to 2**-21
    assert np.abs(mean_PG[0] - mean_PG[1] - expected_G)[is_positive_G].max() <= 2 * 2**-21 + 1e-7
    assert is_positive_G.sum() > 20 and cells.obs["nperts"].tolist().count(0) == one["n_cells"]


def test_anndata_is_what_export_writes(out: Path, results: Results, tmp_path: Path) -> None:
    assert main(["export", str(out), "--h5ad", str(tmp_path / "x.h5ad"), "--perturbation", "src:mask:TNF"]) == 0
    written, ours = ad.read_h5ad(tmp_path / "x.h5ad"), results.anndata("TNF")
    assert written.obs.astype(str).equals(ours.obs.astype(str))
    np.testing.assert_array_equal(written.X, ours.X, strict=True)
    np.testing.assert_array_equal(written.layers["pred_counts"], ours.layers["pred_counts"], strict=True)
    with pytest.raises(GeneError, match="did you mean"):
        results.anndata("CCL3")


def test_gene_sets_that_a_perturbation_shifts_most_are_one_of_each(results: Results) -> None:
    assert results.shifted is not None
    key, scores = ["perturbation", "stratum", "time"], results.gene_sets()
    assert results.shifted.height == scores.select(key).unique().height
    most = scores.group_by(key).agg(pl.col("score").abs().max()).sort(key)
    np.testing.assert_array_equal(results.shifted.sort(key)["score"].abs(), most["score"])


def test_summaries_have_every_table_and_no_single_cells(tmp_path: Path) -> None:
    results = open_results(screened(tmp_path, keep="summaries"))
    assert set(results.differential("CCL2")["mode"]) == {"mask", "overexpress"}
    assert results.hits.height == 8 * 3 * 2
    with pytest.raises(StoreError, match="holds summaries, no predictions of single cells"):
        results.anndata("CCL2")
    assert ".anndata" not in repr(results)


def test_embeddings_only_have_a_ranking_and_no_table_of_genes(tmp_path: Path) -> None:
    config = tiny(predict={"use_count_decoder": False}, library={"genes": list(GENES[2:7])})
    assert main(["run", str(write(config, tmp_path / "s.yaml")), "--out", str(tmp_path / "out")]) == 0
    results = open_results(tmp_path / "out")
    assert not results.has_counts
    assert results.hits["strength"].drop_nulls().len() > 0
    with pytest.raises(StoreError, match="no table of genes: its model predicts embeddings only"):
        results.differential()
    with pytest.raises(StoreError, match=r"no gene sets were tested in .*deg .* --gene-sets FILE"):
        results.gene_sets()
    assert results.shifted is None
    assert "deg/" not in results.files and "enrichment/" not in results.files
    assert "moves the embedding" in repr(results) and ".differential" not in repr(results)


def test_a_screen_without_running_sum_tests_says_so(out: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    (copy / "enrichment/ranked.parquet").unlink()
    with pytest.raises(StoreError, match=r"no running-sum tests .*ranked: N"):
        open_results(copy).gene_sets(table="ranked")


def test_a_directory_may_have_any_name(out: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(out, tmp_path / "a[1] *?"))
    assert open_results(copy).differential("TNF").equals(open_results(out).differential("TNF"))
    assert open_results(copy).gene_sets(table="changed").equals(open_results(out).gene_sets(table="changed"))
    assert deg.scan(copy).collect().equals(deg.scan(out).collect())
    shutil.rmtree(copy / "deg")
    with pytest.raises(StoreError, match=r"cannot read .*deg.* \(it is not there\)"):
        open_results(copy).differential("TNF")


def test_a_directory_that_is_no_finished_screen_is_refused_with_what_to_do(out: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere/screen.zarr is no perturbscreen store; run .perturbscreen run"):
        open_results(tmp_path / "nowhere")
    with full_disk(9):
        assert run(screen_of(LIBRARY, allow_missing=True), tmp_path / "stopped") == 1
    with pytest.raises(
        StoreError, match=r"stopped is unfinished: \d of \d+ units are done; the same `perturbscreen run`"
    ):
        open_results(tmp_path / "stopped")
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    (copy / "tables.json").unlink()
    with pytest.raises(StoreError, match="its tables are not whole; `perturbscreen deg"):
        open_results(copy)
    assert main(["deg", str(copy)]) == 0
    assert open_results(copy).hits.equals(open_results(out).hits)


@pytest.mark.parametrize(
    ("name", "ask", "remedy"),
    [
        ("hits.parquet", lambda r: r.hits, "deg"),
        ("coverage.parquet", lambda r: r.coverage, "run CONFIG --out"),
        ("deg/part-0000.parquet", lambda r: r.differential("TNF"), "deg"),
        ("enrichment/scores.parquet", lambda r: r.gene_sets("TNF"), "deg"),
    ],
)
def test_a_damaged_table_is_named_with_what_makes_it_again(
    out: Path, tmp_path: Path, name: str, ask: Any, remedy: str
) -> None:
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    (copy / name).write_bytes(b"PAR1" + bytes(40))
    with pytest.raises(StoreError, match=rf"cannot read .*{name.partition('/')[0]}.*`perturbscreen {remedy} "):
        ask(open_results(copy))
    assert repr(open_results(copy)).startswith(f"Results of {copy}")
    (copy / name).unlink()
    again = ["run", str(out.parent / "s.yaml"), "--out"] if remedy.startswith("run") else [remedy]
    assert main([*again, str(copy)]) == 0
    assert ask(open_results(copy)).equals(ask(open_results(out)))
