"""The gene tables of a screen: what is in them follows from the store, however little is held at once."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from screen.cli.main import main
from screen.config.sections import DegConfig
from screen.stats import deg
from screen.stats.gene_results import GeneResults, Replicates, concatenated, mean_by, statistics_of
from screen.stats.groups import GroupReader, Strata, item_means
from screen.stats.moments import Rounding, counts_of
from screen.stats.tables import strata_of
from screen.store.store import ScreenStore
from tests.support.tiny import tiny, write

LIBRARY = {"genes": "all", "modes": ["overexpress"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every gene overexpressed in every cell, by cell type; the unpaired test too."""
    folder = tmp_path_factory.mktemp("deg")
    config = tiny(library=LIBRARY, output={"strata": ["cell_type"]}) | {
        "deg": {"rank_sum": "plain", "signed_rank": True}
    }
    assert main(["run", str(write(config, folder / "s.yaml")), "--out", str(folder / "out")]) == 0
    return folder / "out"


def of_group(out: Path, p: int, time: int, stratum: str) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """(table, changes, controls) of one group, changes and controls read by plain numpy."""
    store = ScreenStore.open(out / "screen.zarr")
    block, ids = store.blocks[0], store.perturbations("id")
    cells, perturbation = (np.asarray(block.array(f"items/{n}")[...]) for n in ("cell", "perturbation"))
    in_stratum = store.strings("cells/source/obs/cell_type")[cells] == stratum
    rows = np.flatnonzero((perturbation == p) & in_stratum & np.asarray(block.array(f"items/is_screened_t{time}")[...]))
    delta_NG = np.asarray(block.array(f"delta/t{time}")[...])[rows].astype(np.float64)
    control_NG = np.asarray(block.array(f"control/expression_t{time}")[...])[cells[rows]].astype(np.float64)
    table = deg.scan(out).filter(perturbation=ids[p], time=time, stratum=stratum).collect()
    return table, delta_NG, control_NG


@pytest.mark.parametrize(("p", "time", "stratum"), [(0, 1, "A"), (7, 2, "B"), (60, 1, "C")])
def test_every_column_is_what_scipy_says_of_the_stores_values(finished: Path, p: int, time: int, stratum: str) -> None:
    table, delta_NG, control_NG = of_group(finished, p, time, stratum)
    n = len(delta_NG)
    assert table.schema == deg.SCHEMA
    assert table.height == 61
    assert table["n_cells"].unique().to_list() == [n]
    after_NG = control_NG + delta_NG

    def close(name: str, expected: Any, rtol: float = 2e-7) -> None:
        # tables keep 24 bits of all but p-values
        np.testing.assert_allclose(table[name], np.asarray(expected, dtype=float), rtol=rtol, atol=1e-12, err_msg=name)

    close("mean_delta", delta_NG.mean(0))
    # two float32 expm1 of 4 units in the last place, their sum with 1, and a product
    close("target_mean", np.expm1(after_NG).mean(0), 10 * 2**-24)
    close("ref_mean", np.expm1(control_NG).mean(0), 5 * 2**-24)
    assert n > 2
    close("se", stats.sem(delta_NG))
    reference = stats.ttest_1samp(delta_NG, 0.0)
    np.testing.assert_allclose(table["p_value"], reference.pvalue, rtol=1e-6)
    np.testing.assert_allclose(table["fdr"], stats.false_discovery_control(reference.pvalue), rtol=1e-6)
    ranked = [stats.wilcoxon(d) for d in delta_NG.T]
    close("signed_rank", [r.statistic for r in ranked])
    np.testing.assert_allclose(table["signed_rank_p_value"], [r.pvalue for r in ranked], rtol=1e-9)
    unpaired = stats.ranksums(after_NG.astype(np.float32), control_NG.astype(np.float32))
    np.testing.assert_allclose(table["rank_sum_z"], unpaired.statistic, rtol=1e-6, atol=1e-7)


def every_value(genes: GeneResults | None) -> dict[str, np.ndarray]:
    """Everything that is said of the genes of a group, by name."""
    assert genes is not None
    always = {name: getattr(genes, name) for name in ("mean_delta", "se", "target_mean", "ref_mean")}
    return always | dict(genes.of_tests)


@pytest.mark.parametrize(("read", "work", "control"), [(1, 1, 0), (700, 300, 0), (5000, 900, 1 << 30)])
def test_statistics_do_not_depend_on_how_many_genes_are_held_at_once(
    finished: Path, monkeypatch: pytest.MonkeyPatch, read: int, work: int, control: int
) -> None:
    store = ScreenStore.open(finished / "screen.zarr")
    strata, config = strata_of(store, ["cell_type"], None), DegConfig(rank_sum="plain", signed_rank=True)
    whole = [g for p in (0, 33) for g in GroupReader(store, store.blocks[0], strata, config).groups(p)]
    for name, value in (("READ_BYTES", read), ("WORK_BYTES", work), ("CONTROL_BYTES", control)):
        monkeypatch.setattr(f"screen.stats.groups.{name}", value)
    parts = [g for p in (0, 33) for g in GroupReader(store, store.blocks[0], strata, config).groups(p)]
    assert len(parts) == len(whole) > 6
    for one, other in zip(whole, parts, strict=True):
        assert (one.stratum, one.time, one.n_cells) == (other.stratum, other.time, other.n_cells)
        for name, values in every_value(one.genes).items():
            # products of other shapes add in another order
            np.testing.assert_allclose(every_value(other.genes)[name], values, rtol=1e-9, atol=1e-15, err_msg=name)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(0, 99))
def test_tests_over_replicates_are_tests_of_their_means(replicates: list[int], seed: int) -> None:
    rng, code_N = np.random.default_rng(seed), np.array(replicates)
    delta_NG, control_NG = rng.normal(0.1, 1, (2, len(code_N), 7)).astype(np.float32)
    control_NG = np.abs(control_NG)
    config = DegConfig(rank_sum="plain", signed_rank=True, test="paired_t")
    found = statistics_of(delta_NG, counts_of(control_NG, True), True, code_N, config, control_NG)
    mean_RG = np.stack([delta_NG[code_N == c].astype(np.float64).mean(0) for c in np.unique(code_N)])
    np.testing.assert_allclose(mean_by(delta_NG, code_N), mean_RG, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.mean_delta, mean_RG.mean(0), rtol=1e-9, atol=1e-12)
    if len(mean_RG) < 2:
        assert np.isnan([found.of(n) for n in ("t_p_value", "signed_rank_p_value", "rank_sum_p_value")]).all()
        return
    np.testing.assert_allclose(found.of("t_p_value"), stats.ttest_1samp(mean_RG, 0).pvalue, rtol=1e-6)
    # expression levels are means of the replicates' means too
    of_each = [
        [np.expm1(x[code_N == c]).mean(0, dtype=np.float64) for c in np.unique(code_N)]
        for x in (control_NG, control_NG + delta_NG)
    ]
    np.testing.assert_allclose(found.ref_mean, np.mean(of_each[0], axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.target_mean, np.mean(of_each[1], axis=0), rtol=1e-4, atol=1e-4)
    agree_RG = np.sign(mean_RG) == np.sign(mean_RG.mean(0))
    np.testing.assert_allclose(found.of("sign_agreement"), agree_RG.mean(0), rtol=1e-12)


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=12), st.integers(0, 99))
def test_replicates_looked_up_once_have_the_means_of_each(replicates: list[int], seed: int) -> None:
    code_N, rng = np.array(replicates), np.random.default_rng(seed)
    there = [code_N == r for r in sorted(set(replicates) - {-1})] or [np.ones(len(code_N), bool)]
    looked_up = Replicates(code_N)
    for _ in range(2):
        value_NG = rng.standard_normal((len(code_N), 3)).astype(np.float32)
        expected_RG = np.stack([value_NG[is_one].astype(np.float64).mean(0) for is_one in there])
        assert np.array_equal(looked_up.means(value_NG), expected_RG)


@given(st.lists(st.integers(1, 9), max_size=6), st.integers(0, 99))
def test_means_of_many_groups_are_those_of_each(sizes: list[int], seed: int) -> None:
    rng, n = np.random.default_rng(seed), sum(sizes)
    shift_N, length_N, n_edited_N = (rng.uniform(0, 2, n).astype(np.float32).astype(np.float64) for _ in range(3))
    rank_N = np.where(rng.random(n) < 0.4, -1, rng.integers(0, 2000, n)).astype(np.float64)
    start_K = np.cumsum([0, *sizes])[:-1] if sizes else np.zeros(0, np.int64)
    found = list(item_means(start_K, shift_N, rank_N, length_N, n_edited_N))
    assert len(found) == len(sizes)
    for a, size, (shift, rank, length, n_edited) in zip(start_K, sizes, found, strict=True):
        at = slice(a, a + size)
        known = rank_N[at][rank_N[at] >= 0]
        assert (shift, length, n_edited) == (shift_N[at].mean(), length_N[at].mean(), n_edited_N[at].mean())
        assert rank == known.mean() if len(known) else np.isnan(rank)


def test_a_replicate_column_makes_inference_over_its_means(finished: Path, tmp_path: Path) -> None:
    config = tiny(library=LIBRARY) | {"deg": {"replicate": "cell_type"}}
    assert main(["run", str(write(config, tmp_path / "s.yaml")), "--out", str(tmp_path / "out")]) == 0
    table = deg.scan(tmp_path / "out").filter(time=1).collect()
    assert table.schema == deg.SCHEMA | {"sign_agreement": pl.Float32}
    assert table["n_replicates"].unique().to_list() == [3]
    of_type = deg.scan(finished).filter(time=1).collect()
    means = of_type.group_by("perturbation", "feature").agg(pl.col("mean_delta").cast(pl.Float64).mean().alias("mean"))
    both = table.join(means, on=["perturbation", "feature"])
    assert both.height == table.height
    np.testing.assert_allclose(both["mean_delta"], both["mean"], rtol=1e-5, atol=1e-7)
    types = of_type.group_by("perturbation", "feature").agg(
        pl.col("mean_delta").sign().alias("signs"), pl.col("ref_mean").cast(pl.Float64).mean().alias("ref")
    )
    both = both.join(types, on=["perturbation", "feature"])
    agree = both.select(pl.col("signs").list.eval(pl.element() > 0).list.mean())["signs"].to_numpy()
    agree = np.where(both["mean_delta"] > 0, agree, 1 - agree)
    np.testing.assert_allclose(both["sign_agreement"], agree, rtol=1e-6)
    np.testing.assert_allclose(both["ref_mean"], both["ref"], rtol=1e-5)


def test_the_moderated_t_is_chosen_with_replicates_unless_another_is(finished: Path, tmp_path: Path) -> None:
    assert DegConfig().test_name == DegConfig(test="auto").test_name == "paired_t"
    assert DegConfig(replicate="donor").test_name == "moderated_t"
    assert DegConfig(replicate="donor", test="paired_t").test_name == "paired_t"
    out = shutil.copytree(finished, tmp_path / "out")
    p_of: dict[str, Any] = {}
    for name, more in (("auto", []), ("moderated_t", ["--test", "moderated_t"]), ("paired_t", ["--test", "paired_t"])):
        assert main(["deg", str(out), "--replicate", "cell_type", *more]) == 0
        p_of[name] = deg.scan(out).collect()["p_value"]
    # strata are the cell types: one replicate in each
    assert p_of["auto"].is_null().all()
    view = ScreenStore.open(out / "screen.zarr").provenance["view"]["deg"]
    # as in directories of before, in which the test is always written
    assert DegConfig.model_validate(view).test_name == "paired_t"


def test_top_and_thresholds_choose_rows_of_the_whole_table(finished: Path, tmp_path: Path) -> None:
    config = tiny(library=LIBRARY, output={"strata": ["cell_type"]}) | {
        "deg": {"top": 5, "min_delta": 1e-4, "max_fdr": 0.5}
    }
    assert main(["run", str(write(config, tmp_path / "s.yaml")), "--out", str(tmp_path / "out")]) == 0
    few, whole = deg.scan(tmp_path / "out").collect(), deg.scan(finished).collect()
    group = ["perturbation", "stratum", "time"]
    allowed = whole.filter((pl.col("fdr") <= 0.5) & (pl.col("mean_delta").abs() >= 1e-4))
    expected = allowed.filter(pl.col("mean_delta").abs().rank("ordinal", descending=True).over(group) <= 5)
    keys = [*group, "feature"]
    assert 0 < few.height < allowed.height
    assert few.select(keys).sort(keys).equals(expected.select(keys).sort(keys))
    assert pl.read_parquet(tmp_path / "out/hits.parquet")["n_deg"].equals(
        pl.read_parquet(finished / "hits.parquet")["n_deg"]
    )


def test_deg_makes_tables_of_another_test_without_the_configuration(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    config = tiny(library=LIBRARY) | {"deg": {"signed_rank": True}}
    assert main(["run", str(write(config, tmp_path / "s.yaml")), "--out", str(out)]) == 0
    by_t = deg.scan(out).collect()
    assert main(["deg", str(out)]) == 0
    assert "as asked for already" in capsys.readouterr().out
    assert main(["deg", str(out), "--test", "signed_rank"]) == 0
    assert "made anew" in capsys.readouterr().out
    by_rank = deg.scan(out).collect()
    assert by_rank["p_value"].equals(by_t["signed_rank_p_value"].rename("p_value"))
    assert by_rank["mean_delta"].equals(by_t["mean_delta"])
    assert main(["deg", str(out), "--test", "rank_sum"]) == 2
    assert "needs `rank_sum: plain`" in capsys.readouterr().err
    assert main(["deg", str(out), "--replicate", "donor"]) == 2
    assert 'no column "donor"' in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_ranking_alone_is_that_of_the_whole_tables(tmp_path: Path, dtype: str) -> None:
    out, config = tmp_path / "out", tiny(library=LIBRARY, output={"strata": ["cell_type"]})
    assert main(["run", str(write(config, tmp_path / "s.yaml")), "--out", str(out), "--store-dtype", dtype]) == 0
    whole, n_rows = pl.read_parquet(out / "hits.parquet"), deg.scan(out).collect().height
    assert n_rows == whole.filter(pl.col("n_cells") > 0).height * 61
    store = ScreenStore.open(out / "screen.zarr")
    for test in ("paired_t", "signed_rank"):
        reader = GroupReader(store, store.blocks[0], strata_of(store, [], None), DegConfig(test=test))
        (genes, *_) = (g.genes for g in reader.groups(0))
        assert genes is not None and genes.sample.rounding == Rounding(dtype, 4096.0 if dtype == "float16" else 1.0)
    stale = [out / "deg/.part-0099.means", out / "deg/.part-0099.parquet", out / "deg/part-0099.parquet"]
    for path in stale:
        path.write_bytes(b"of a run that was killed")
    assert main(["deg", str(out), "--top", "0"]) == 0
    alone, nothing = pl.read_parquet(out / "hits.parquet"), deg.scan(out).collect()
    assert nothing.height == 0
    assert nothing.schema == deg.SCHEMA
    assert [p.name for p in sorted((out / "deg").iterdir())] == ["part-0000.parquet"]
    for name in whole.columns:
        if whole.schema[name].is_float():
            # sums in another order
            np.testing.assert_allclose(alone[name], whole[name], rtol=1e-6, atol=1e-9, err_msg=name)
        elif not name.startswith("top_"):
            assert alone[name].equals(whole[name]), name


def test_parts_join_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    delta_NG, control_NG = rng.normal(0, 1, (2, 9, 20)).astype(np.float32)
    config = DegConfig(signed_rank=True)
    whole = statistics_of(delta_NG, control_NG, False, None, config)
    parts = [statistics_of(delta_NG[:, s], control_NG[:, s], False, None, config) for s in (slice(0, 7), slice(7, 20))]
    found = every_value(concatenated(parts))
    assert {"mean_delta", "se", "target_mean", "ref_mean", "t", "t_p_value", "signed_rank"} < set(found)
    for name, values in found.items():
        np.testing.assert_allclose(values, every_value(whole)[name], rtol=1e-9, atol=1e-15, err_msg=name)


def test_items_without_a_replicate_are_in_no_test_and_means_are_over_replicates() -> None:
    rng, code_N = np.random.default_rng(1), np.array([0, -1, 2, 0, 2, -1, 1])
    delta_NG, control_NG = rng.normal(0.1, 1, (2, 7, 5)).astype(np.float32)
    found, has_N = every_value(statistics_of(delta_NG, control_NG, False, code_N, DegConfig())), code_N >= 0
    without = every_value(statistics_of(delta_NG[has_N], control_NG[has_N], False, code_N[has_N], DegConfig()))
    for name, values in without.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    nobody = statistics_of(delta_NG, control_NG, False, np.full(7, -1), DegConfig())
    np.testing.assert_allclose(nobody.mean_delta, delta_NG.mean(0, dtype=np.float64), rtol=1e-12)
    assert np.isnan([nobody.se, nobody.of("t_p_value"), nobody.of("sign_agreement")]).all()


def test_a_gene_that_nothing_changes_agrees_with_nothing() -> None:
    delta_NG = np.float32([[0, 1], [0, -3], [0, 1]])
    found = statistics_of(delta_NG, delta_NG, False, np.arange(3), DegConfig(replicate="donor"))
    np.testing.assert_array_equal(found.of("sign_agreement"), [np.nan, 1 / 3])


@pytest.mark.parametrize("chosen", ["moderated_t", "paired_t"])
def test_tests_of_moments_see_all_genes_however_few_are_computed_at_once(chosen: str) -> None:
    rng = np.random.default_rng(2)
    delta_NG = (rng.normal(0.1, 1, (9, 20)) * rng.lognormal(0, 1, 20)).astype(np.float32)
    code_N, config = np.arange(9) % 4, DegConfig(replicate="donor", test=chosen)
    whole = every_value(statistics_of(delta_NG, delta_NG, False, code_N, config))
    parts = [statistics_of(delta_NG[:, [g]], delta_NG[:, [g]], False, code_N, config) for g in range(20)]
    for name, values in every_value(concatenated(parts)).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-9, err_msg=name)


def test_strata_count_their_cells() -> None:
    assert Strata(("a", "b", "none"), np.array([1, 0, 1, 1])).n_cells_S.tolist() == [1, 3, 0]
