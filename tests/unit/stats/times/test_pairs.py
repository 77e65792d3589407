"""Differences between time points: what numpy and scipy say of each gene by itself; found where planted, and nowhere else."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import screen
from demo.planted.sizes import Sizes
from demo.planted.written import TRUTH, build
from screen.config.sections import DegConfig
from screen.edits import MASK
from screen.errors import ConfigError, StoreError
from screen.results.results import Results
from screen.running.tables import make_analysis, remake_tables
from screen.stats.deg import DEG_MIN_DELTA
from screen.stats.groups import GroupReader
from screen.stats.moments import Rounding
from screen.stats.tables import strata_of
from screen.stats.times.pairs import difference, pairs, with_steps
from screen.stats.times.rows import pair_schema, scan
from tests.support.quiet import HERE, QUIET

ULP = 2.0**-52


def step(values: Any, stored: Rounding) -> float:
    """The distance of float16 or float32 neighbours at the root mean square of values."""
    size = np.dtype(stored.dtype).type(np.sqrt(np.mean(np.square(values))) * stored.scale)
    return float(np.spacing(size)) / stored.scale


def slow(before_N: Any, after_N: Any, replicate_N: Any, stored: Rounding) -> dict[str, float]:
    """One gene: a paired t-test of the differences of cells, or of the means of replicates."""
    if replicate_N is not None:
        codes = [r for r in np.unique(replicate_N) if r >= 0]
        before_N, after_N = (np.array([x[replicate_N == r].mean() for r in codes]) for x in (before_N, after_N))
    difference_N = after_N - before_N
    n = len(difference_N)
    se = float(difference_N.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan
    floor = np.hypot(step(before_N, stored), step(after_N, stored)) / np.sqrt(12 * n)
    t = difference_N.mean() / max(se, floor) if n >= (2 if replicate_N is not None else 3) else np.nan
    p = 2 * stats.t.sf(abs(t), n - 1) if n > 1 else np.nan
    found = {"mean_delta": difference_N.mean(), "change": after_N.mean(), "change_before": before_N.mean()}
    return found | {"se": se, "statistic": t, "p_value": p}


@st.composite
def groups(draw: st.DrawFn) -> dict[str, Any]:
    n_cells, n_genes = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    stored = draw(st.sampled_from([Rounding(), Rounding("float16", 4096.0)]))
    size = draw(st.sampled_from([1e-4, 1e-2, 1.0]))
    before_NG, after_NG = (
        (rng.normal(rng.normal(size=n_genes), 1, (n_cells, n_genes)) * size * stored.scale).astype(stored.dtype)
        for _ in range(2)
    )
    # some genes change by the same in all cells: only rounding is left
    same_G = rng.random(n_genes) < 0.3
    before_NG[:, same_G], after_NG[:, same_G] = before_NG[:1, same_G], after_NG[:1, same_G]
    has_replicates = draw(st.booleans())
    return {
        "before_NG": before_NG.astype(np.float32) / np.float32(stored.scale),
        "after_NG": after_NG.astype(np.float32) / np.float32(stored.scale),
        "replicate_N": rng.permutation(np.arange(n_cells) % 4 - (n_cells > 6)) if has_replicates else None,
        "stored": stored,
    }


@given(groups(), st.integers(1, 5))
def test_a_difference_is_what_the_paired_t_of_each_gene_says(group: dict[str, Any], width: int) -> None:
    config = DegConfig(test="paired_t", replicate="donor" if group["replicate_N"] is not None else None)
    values = (group["before_NG"], group["after_NG"])
    parts = [
        difference(*(x[:, i : i + width] for x in values), group["replicate_N"], config, group["stored"])
        for i in range(0, values[0].shape[1], width)
    ]
    whole = with_steps(parts)
    found = {
        "mean_delta": whole.mean_delta, "se": whole.se, "statistic": whole.of("t"), "p_value": whole.of("t_p_value"),
        "change": whole.target_mean, "change_before": whole.ref_mean,
    }  # fmt: skip
    for g in range(values[0].shape[1]):
        of_gene = [x[:, g].astype(np.float64) for x in values]
        expected = slow(*of_gene, group["replicate_N"], group["stored"])
        size = max(np.abs(of_gene).max(), 1e-300)
        for name in ("mean_delta", "change", "change_before"):
            assert abs(found[name][g] - expected[name]) <= 40 * ULP * size
        if np.isfinite(expected["se"]):
            assert abs(found["se"][g] - expected["se"]) <= 40 * ULP * size
        for name in ("statistic", "p_value"):
            np.testing.assert_allclose(found[name][g], expected[name], rtol=1e-6, atol=1e-12)


def test_signed_rank_and_rank_sum_are_of_the_two_changes() -> None:
    rng = np.random.default_rng(0)
    before_NG = rng.normal(size=(14, 6)).astype(np.float32)
    after_NG = (before_NG + rng.normal(0.3, 0.5, before_NG.shape)).astype(np.float32)
    config = DegConfig(signed_rank=True, rank_sum="plain")
    found = difference(before_NG, after_NG, None, config, Rounding())
    for g in range(6):
        paired = stats.wilcoxon(after_NG[:, g].astype(np.float64) - before_NG[:, g])
        np.testing.assert_allclose(found.of("signed_rank_p_value")[g], paired.pvalue, rtol=1e-6)
        z, p = stats.ranksums(after_NG[:, g], before_NG[:, g])
        np.testing.assert_allclose(found.of("rank_sum_z")[g], z, rtol=1e-6)
        np.testing.assert_allclose(found.of("rank_sum_p_value")[g], p, rtol=1e-6)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted") / "screen"
    build(folder, Sizes(n_perturbations=250, n_genes=320, n_nulls=20, has_replicates=False, top=4))
    make_analysis(folder, "times", {}, {"compare": ((1, 2),)}, [], ["top", "gene_sets"], HERE, QUIET)
    make_analysis(
        folder, "donors", {}, {"compare": ((2, 1),), "replicate": "replicate"}, [], ["top", "gene_sets"], HERE, QUIET
    )
    return folder


@pytest.mark.parametrize("name", ["times", "donors"])
def test_the_table_is_that_of_the_stored_changes(directory: Path, name: str) -> None:
    results = screen.open_results(directory, name)
    block, donor = results.store.blocks[0], results.store.strings("cells/source/obs/replicate")
    table = results.compared("ALL1", mode=MASK.name)
    assert table.schema == pair_schema(DegConfig.model_validate(results.view["deg"]))
    assert table.height == 4 * 320
    number = results.store.perturbations("id").tolist().index(table["perturbation"][0])
    rows = block.rows_of(number)
    cell_N, stored = block.read("items/cell", rows), Rounding("float16", 4096.0)
    before, time = (1, 2) if name == "times" else (2, 1)
    codes = np.unique(donor, return_inverse=True)[1]
    for stratum in results.strata:
        at_N = results.cell_strata.stratum_C[cell_N] == results.strata.index(stratum)
        of_stratum = table.filter(stratum=stratum)
        assert set(of_stratum["n_cells"]) == {at_N.sum()} and set(of_stratum["time_before"]) == {before}
        for g in range(0, 320, 37):
            values = [block.delta(t, rows)[at_N, g].astype(np.float64) for t in (before, time)]
            replicate_N = codes[cell_N][at_N] if name == "donors" else None
            expected, row = slow(*values, replicate_N, stored), of_stratum.row(g, named=True)
            names = ["change", "change_before", "mean_delta", "se"] + ["statistic", "p_value"] * (name == "times")
            for column in names:
                np.testing.assert_allclose(row[column], expected[column], rtol=2e-6, atol=1e-9, err_msg=column)


@pytest.mark.parametrize("replicate", [None, "replicate"])
@pytest.mark.parametrize(("work_bytes", "control_bytes"), [(2**20, 2**27), (2**15, 0)])
def test_groups_and_pairs_read_together_are_those_read_one_by_one(
    directory: Path, replicate: str | None, work_bytes: int, control_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = screen.open_results(directory).store
    config = DegConfig(test="moderated_t", replicate=replicate, compare=((2, 1),))
    strata = strata_of(store, ["cell_type"], replicate, "`cell_type` != 'NK cells' or `replicate` != 'donor 1'")
    monkeypatch.setattr("screen.stats.groups.CONTROL_BYTES", control_bytes)
    for module in ("groups", "times.pairs"):
        monkeypatch.setattr(f"screen.stats.{module}.WORK_BYTES", work_bytes)
    together, alone = (GroupReader(store, store.blocks[0], strata, config) for _ in range(2))
    assert together.takes_together
    alone.takes_together = False
    for read in (lambda reader: list(reader.groups(*range(9))), lambda reader: list(pairs(reader, range(9)))):
        found, expected = read(together), read(alone)
        assert len(found) == len(expected)
        assert sum("moderated_t" in group.genes.of_tests for group in found) > 9 * 3
        for one, other in zip(found, expected, strict=True):
            for name in ("perturbation", "stratum", "time", "n_cells", "n_replicates", "embedding_shift", "rank"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
            assert set(one.genes.of_tests) == set(other.genes.of_tests)
            for name in ("mean_delta", "se", "target_mean", "ref_mean"):
                np.testing.assert_array_equal(getattr(one.genes, name), getattr(other.genes, name), err_msg=name)
            for name, x_G in other.genes.of_tests.items():
                np.testing.assert_array_equal(one.genes.of(name), x_G, err_msg=name)


def test_a_planted_difference_is_found_and_none_where_there_is_none(directory: Path) -> None:
    truth = json.loads((directory / TRUTH).read_text())
    table = scan(directory / "analyses" / "times").filter(pl.col("mode") == MASK.name).collect()
    n_called = (
        table.filter(pl.col("fdr") < 0.05)
        .group_by("target_symbol", "stratum")
        .len()
        .group_by("target_symbol")
        .agg("len")
    )
    n_of = {symbol: sum(n) for symbol, n in n_called.rows()}
    there = [e["symbols"][0] for e in truth["planted"] if e["kind"] == "one time" and e["mode"] == MASK.name]
    assert len(there) == 6
    assert min(n_of.get(symbol, 0) for symbol in there) > 40
    ordinary = [i.rpartition(":")[2] for i in truth["ordinary"] if i.startswith("src:mask:") and "+" not in i]
    elsewhere = table.filter(pl.col("target").is_in(ordinary), pl.col("fdr").is_not_null())
    # everybody's response is another at each time point: without it there is nothing
    everybodys = pl.col("mean_delta").mean().over("stratum", "feature")
    of_their_own = elsewhere.with_columns(mean_delta=pl.col("mean_delta") - everybodys)
    is_large = (pl.col("fdr") < 0.05) & (pl.col("mean_delta").abs() > DEG_MIN_DELTA)
    share_there, share_elsewhere = (
        x.select(is_large.mean()).item() for x in (table.filter(pl.col("target_symbol").is_in(there)), of_their_own)
    )
    assert elsewhere.height > 10_000 and share_elsewhere < 0.003 and share_there > 0.04
    late = table.filter(target_symbol="LATE1").sort("fdr").head(10)
    assert (late["change"].abs() > 3 * late["change_before"].abs()).all()
    early = table.filter(target_symbol="EARLY1").sort("fdr").head(10)
    assert (early["change"].abs() < early["change_before"].abs() / 3).all()


@pytest.mark.parametrize("replicate", [None, "donor"])
def test_nothing_is_found_where_both_changes_are_alike(replicate: str | None) -> None:
    rng = np.random.default_rng(1)
    n_cells, n_genes = 24, 4000
    own_NG = rng.normal(0.02, 0.02, (n_cells, n_genes))
    before_NG, after_NG = ((own_NG + rng.normal(0, 0.01, own_NG.shape)).astype(np.float32) for _ in range(2))
    config = DegConfig(test="paired_t", replicate=replicate)
    codes = None if replicate is None else np.arange(n_cells) % 6
    p_G = difference(before_NG, after_NG, codes, config, Rounding()).of("t_p_value")
    # three standard errors of a share of .05
    assert abs((p_G < 0.05).mean() - 0.05) < 3 * np.sqrt(0.05 * 0.95 / n_genes)


def test_hits_and_gene_sets_stand_wide_by_time(directory: Path) -> None:
    results = screen.open_results(directory)
    wide = results.wide()
    assert wide.height == results.hits.select("perturbation", "stratum").n_unique()
    assert wide.columns[7:11] == ["strength_rank_t1", "strength_rank_t2", "strength_t1", "strength_t2"]
    for time in (1, 2):
        row, key = results.hits.filter(time=time).row(7, named=True), ("perturbation", "stratum")
        found = wide.filter(*(pl.col(k) == row[k] for k in key)).row(0, named=True)
        assert all(found[f"{n}_t{time}"] == row[n] for n in ("strength", "q_value", "strength_rank", "null_z", "n_deg"))
    assert wide["perturbation"][0] == results.hits["perturbation"][0]
    sets = results.wide("gene_sets")
    long = results.gene_sets()
    assert sets.select(pl.col("score_t1", "score_t2").count()).row(0) == tuple(
        long.filter(time=t).height for t in (1, 2)
    )
    with pytest.raises(ConfigError, match=r'no table "hit" wide by time; .*did you mean "hits"'):
        results.wide("hit")


def test_what_was_not_compared_says_what_to_do(directory: Path) -> None:
    with pytest.raises(StoreError, match=f"`perturbscreen deg {directory} --compare 1,2` does"):
        screen.open_results(directory).compared("ALL1")
    times = screen.open_results(directory, "times")
    with pytest.raises(ConfigError, match=r"time points \[2, 1\] were not compared; there are \[1, 2\]"):
        times.compared(times=(2, 1))
    assert times.compared("ALL1", times=(1, 2)).equals(times.compared("ALL1"))


def test_the_first_tables_may_have_comparisons_too_and_lose_them_again(directory: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(directory, tmp_path / "out"))
    assert "compare" not in json.dumps(screen.open_results(out).view)

    def made(changes: dict[str, object], reset: list[str]) -> Results:
        return remake_tables(out, changes, [], reset, HERE, QUIET)[0]

    compared = made({"compare": ((1, 2),)}, ["gene_sets"]).compared("LATE1")
    assert compared.group_by("perturbation", "stratum").len()["len"].unique().to_list() == [4]
    assert "compare/part-*.parquet" in screen.open_results(out).files
    with pytest.raises(StoreError, match="no time points were compared"):
        made({}, ["compare"]).compared("LATE1")
    assert not (out / "compare").exists()


@pytest.mark.parametrize(
    ("pairs", "message"), [([[1, 1]], "with itself"), ([[1, 2], [2, 1]], "repeat"), ([[0, 1]], "greater than or equal")]
)
def test_a_comparison_that_is_none_is_refused(pairs: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DegConfig.model_validate({"compare": pairs})
