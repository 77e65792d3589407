"""Gene sets: read right or refused by line, tested as gseapy and scipy do, and found again where they were planted."""

from pathlib import Path
from typing import Any

import gseapy
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from screen.cli.main import main
from screen.errors import ConfigError
from screen.results.results import open_results
from screen.stats import deg, enrich
from screen.stats.deg import Names
from screen.stats.sets.gene_sets import GeneSets, read_gmt
from screen.stats.sets.gsea import ranked, strictly_falling
from screen.stats.sets.over_representation import overlaps, upper_tail
from screen.stats.sets.targets import of_targets
from screen.store.store import ScreenStore
from tests.support.store_fixture import GENES
from tests.support.tiny import tiny, write

N_GENES = 120
ENSEMBL, SYMBOL = [f"ENSG{i:011d}" for i in range(N_GENES)], [f"GENE{i}" for i in range(N_GENES)]


def gmt(path: Path, sets: dict[str, list[str]]) -> Path:
    path.write_text("".join("\t".join([name, "a description", *genes]) + "\n" for name, genes in sets.items()))
    return path


def random_sets(seed: int, n_sets: int = 12) -> GeneSets:
    rng = np.random.default_rng(seed)
    member_SG = np.zeros((n_sets, N_GENES), dtype=bool)
    for row in member_SG:
        row[rng.permutation(N_GENES)[: rng.integers(1, 60)]] = True
    names = tuple(f"set {i}" for i in range(n_sets))
    return GeneSets(("c",) * n_sets, names, member_SG.sum(1), member_SG)


class NamesOf(Names):
    """The names of genes without a store."""

    def __init__(self) -> None:
        self.feature, self.feature_symbol = (np.array(x, dtype=np.object_) for x in (ENSEMBL, SYMBOL))


def test_genes_are_found_by_symbol_and_by_ensembl_id_of_any_version(tmp_path: Path) -> None:
    listed = ["GENE3", "ENSG00000000005.12", "ENSG00000000003", "nobody", "GENE3", " GENE7 ", ""]
    path = gmt(tmp_path / "mine.gmt", {"few": ["GENE1"], "some": listed, "all": SYMBOL})
    sets = GeneSets.read([path], ENSEMBL, SYMBOL, 2, 50)
    assert sets.name_S == ("some",)
    assert sets.collection_S == ("mine",)
    assert np.flatnonzero(sets.member_SG[0]).tolist() == [3, 5, 7]
    assert sets.n_listed_S.tolist() == [5]
    assert GeneSets.read([path, path], ENSEMBL, SYMBOL, 1, 500).name_S == ("few", "some", "all") * 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A\tdescription\tGENE1\nB\tdescription\n", "line 2 of"),
        ("A, description, GENE1\n", "separated by tabs"),
        ("\n\n", "has no gene set"),
        ("A\tdescription\tgene1\tgene2\n", "none of the 1 sets of s.gmt has 1 to 9 of the model's genes"),
        ("A\tdescription\tGENE1\n".encode("utf-16"), "cannot read the gene sets"),
    ],
)
def test_what_is_no_gene_set_is_said_with_its_line(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = tmp_path / "s.gmt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=words):
        GeneSets.read([path], ENSEMBL, SYMBOL, 1, 9)
    with pytest.raises(ConfigError, match="cannot read the gene sets"):
        read_gmt(tmp_path / "missing.gmt")


def overlaps_of(query_NG: np.ndarray, sets: GeneSets, background_NG: np.ndarray, max_fdr: float = 1.0) -> Any:
    n_set_NS = (background_NG @ sets.member_GS).astype(np.int64)
    symbol_G = NamesOf().feature_symbol
    return overlaps(query_NG & background_NG, n_set_NS, background_NG.sum(1), sets, symbol_G, max_fdr)


@given(st.integers(0, 10**6), st.lists(st.integers(0, 60), min_size=1, max_size=3), st.floats(0.01, 1))
def test_over_representation_is_fishers_exact_test_for_all_queries_at_once(
    seed: int, n_queries: list[int], max_fdr: float
) -> None:
    rng, sets = np.random.default_rng(seed), random_sets(seed, 4)

    def of(n: int) -> np.ndarray:
        return np.isin(np.arange(N_GENES), rng.permutation(N_GENES)[:n])

    query_NG, background_NG = (
        np.stack([of(n) for n in some]) for some in (n_queries, rng.integers(60, 121, len(n_queries)))
    )
    query_NG &= background_NG
    query, table = overlaps_of(query_NG, sets, background_NG, max_fdr)
    assert dict(table.schema) == enrich.OVERLAP
    expected = []
    for q, (query_G, background_G) in enumerate(zip(query_NG, background_NG, strict=True)):
        p_S, odds_S, common_S = [], [], []
        for member_G in sets.member_SG & background_G:
            found = [[(member_G & query_G).sum(), (member_G & ~query_G).sum()]]
            found += [[(~member_G & query_G & background_G).sum(), (~member_G & ~query_G & background_G).sum()]]
            fisher = stats.fisher_exact(found, alternative="greater")
            p_S.append(fisher.pvalue)
            odds_S.append(fisher.statistic)
            common_S.append([SYMBOL[g] for g in np.flatnonzero(member_G & query_G)])
        fdr_S = multipletests(p_S, method="fdr_bh")[1]
        for s in np.argsort(p_S, kind="stable"):
            if common_S[s] and fdr_S[s] <= max_fdr * (1 - 1e-9):
                expected += [(q, sets.name_S[s], p_S[s], fdr_S[s], odds_S[s], common_S[s])]
    rows = list(
        zip(query, *(table[k].to_list() for k in ("gene_set", "p_value", "fdr", "odds_ratio", "genes")), strict=True)
    )
    within = [r for r in rows if r[3] <= max_fdr * (1 - 1e-9)]
    assert sorted(r[:2] for r in within) == sorted(r[:2] for r in expected)
    by_name = {r[:2]: r for r in expected}
    for q, name, p, fdr, odds, genes in within:
        _, _, p_exact, fdr_exact, odds_exact, common = by_name[q, name]
        np.testing.assert_allclose([p, fdr], [p_exact, fdr_exact], rtol=1e-9)
        np.testing.assert_allclose(odds, odds_exact, rtol=1e-12)
        assert genes == common
    for q in range(len(query_NG)):
        assert table["p_value"].to_numpy()[query == q].tolist() == sorted(table["p_value"].to_numpy()[query == q])


def test_over_representation_is_gseapys_and_every_set_counts_as_a_test() -> None:
    sets, names = random_sets(1), NamesOf()
    query_G = np.isin(np.arange(N_GENES), np.random.default_rng(1).permutation(N_GENES)[:9])
    _, table = overlaps_of(query_G[None], sets, np.ones((1, N_GENES), dtype=bool))
    listed = {n: names.feature_symbol[m].tolist() for n, m in zip(sets.name_S, sets.member_SG, strict=True)}
    theirs = gseapy.enrich(
        names.feature_symbol[query_G].tolist(), gene_sets=listed, background=SYMBOL, outdir=None, no_plot=True
    ).results
    both = table.join(pl.from_pandas(theirs[["Term", "P-value"]]), left_on="gene_set", right_on="Term")
    assert both.height == table.height == len(theirs) < len(sets)
    np.testing.assert_allclose(both["p_value"], both["P-value"], rtol=1e-9)
    # gseapy corrects for the sets with a common gene only, which the data chose
    p_S = np.append(table["p_value"], np.ones(len(sets) - table.height))
    np.testing.assert_allclose(table["fdr"], multipletests(p_S, method="fdr_bh")[1][: table.height], rtol=1e-9)


@given(st.lists(st.tuples(*[st.integers(0, 3000)] * 3), min_size=1, max_size=30), st.integers(1, 3000))
def test_the_tail_of_many_draws_is_scipys_hypergeometric(draws: list[tuple[int, int, int]], total: int) -> None:
    k, inside, drawn = (np.array(x, dtype=np.int64) for x in zip(*draws, strict=True))
    inside, drawn = inside % (total + 1), drawn % (total + 1)
    k = k % (np.minimum(inside, drawn) + 2)
    found = upper_tail(k, inside, drawn, np.full(len(k), total))
    exact = stats.hypergeom.sf(k - 1, total, inside, drawn)
    np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-300)


def test_a_planted_set_comes_first_in_the_ranked_test_and_twice_the_same() -> None:
    sets, names, rng = random_sets(3), NamesOf(), np.random.default_rng(0)
    mean_G = rng.normal(0, 1, N_GENES)
    sets.member_SG[5] = np.arange(N_GENES) < 25
    mean_G[:25] -= 2.5
    found = ranked(mean_G, sets, names)
    assert found["gene_set"][0] == "set 5"
    assert found["es"][0] < -0.5
    assert found["p_value"][0] == found["p_value"].min() == 1 / 1001
    assert set(found["leading_edge"][0]) <= set(SYMBOL[:25])
    assert found.height == len(sets)
    assert found.equals(ranked(mean_G, sets, names))
    up = ranked(-mean_G, sets, names)
    assert up["gene_set"][0] == "set 5"
    np.testing.assert_allclose(up.sort("gene_set")["es"], -found.sort("gene_set")["es"], rtol=1e-9, atol=1e-9)


def test_genes_that_do_not_change_are_no_trouble(capfd: pytest.CaptureFixture[str]) -> None:
    mean_G = np.zeros(N_GENES)
    mean_G[:30] = np.linspace(1, -1, 30)
    sets = random_sets(4)
    sets.member_SG[0] = np.arange(N_GENES) >= 60
    found = ranked(mean_G, sets, NamesOf())
    assert found.height == len(sets)
    assert found["es"].is_finite().all()
    assert ranked(np.zeros(N_GENES), sets, NamesOf()).is_empty()
    assert "uplicated" not in "".join(capfd.readouterr())


@given(st.lists(st.sampled_from([2.5, 1.0, 1.0 - 2**-53, 0.0, -0.0, -1e-300]) | st.floats(-9, 9), max_size=60))
def test_ties_are_parted_by_little_and_in_their_order(values: list[float]) -> None:
    falling = np.sort(np.array(values, dtype=np.float64))[::-1]
    found, largest = strictly_falling(falling), np.abs(falling).max(initial=0)
    if largest > 1e-250:
        assert (np.diff(found) < 0).all()
    assert (np.abs(found - falling) <= 61e-9 * largest).all()
    # values that lie apart stay where they are, but for rounding
    apart = np.array([3.0, 1.0, -2.0])
    np.testing.assert_allclose(strictly_falling(apart), apart, rtol=1e-15)


def test_targets_are_compared_with_those_that_were_ranked() -> None:
    sets, names = random_sets(2, 3), NamesOf()
    sets.member_SG[:] = False
    sets.member_SG[0, :10], sets.member_SG[1, 50:], sets.member_SG[2, ::2] = True, True, True
    rows = {
        "strength_rank": [*range(1, 41), None], "target": [*ENSEMBL[:40], ENSEMBL[99]], "mode": "mask", "site": "src",
        "stratum": "all", "time": 1,
    }  # fmt: skip
    found = of_targets(pl.DataFrame(rows), sets, names, 8, 1.0)
    assert found["n_background"].unique().to_list() == [40]
    first = found.row(0, named=True)
    assert (first["gene_set"], first["n_overlap"], first["n_set"], first["n_query"]) == ("set 0", 8, 10, 8)
    np.testing.assert_allclose(first["p_value"], stats.hypergeom.sf(7, 40, 10, 8), rtol=1e-9)
    assert first["genes"] == SYMBOL[:8]
    assert "set 1" not in found["gene_set"].to_list()
    assert dict(found.schema) == enrich.TARGETS_SCHEMA
    assert of_targets(pl.DataFrame(rows).clear(), sets, names, 8, 1.0).is_empty()


LIBRARY = {"genes": list(GENES[:20]), "modes": ["overexpress"]}
SETS = {"first": list(GENES[:15]), "second": list(GENES[10:40]), "few": list(GENES[:2])}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("enrich")
    gmt(folder / "sets.gmt", SETS)
    config = tiny(library=LIBRARY) | {"enrich": {"gene_sets": ["sets.gmt"], "max_fdr": 1, "ranked": 2, "best": 1}}
    assert main(["run", str(write(config, folder / "s.yaml")), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_a_screen_tests_what_every_perturbation_changes(out: Path) -> None:
    table, hits = enrich.scan(out).collect(), pl.read_parquet(out / "hits.parquet")
    assert dict(table.schema) == enrich.CHANGED_SCHEMA
    sets = GeneSets.read([out.parent / "sets.gmt"], GENES, GENES)
    assert sets.name_S == ("first", "second")
    assert table.height > 0
    counts = (pl.col("fdr") < 0.05) & (pl.col("mean_delta").abs() > 0.01)
    changed = deg.scan(out).filter(counts).collect()
    movable = {t: set(changed.filter(time=t)["feature"]) for t in (1, 2)}
    assert len(movable[1]) < 61
    for row in table.iter_rows(named=True):
        genes = deg.scan(out).filter(perturbation=row["perturbation"], time=row["time"]).collect()
        sign = pl.col("mean_delta") > 0 if row["direction"] == "up" else pl.col("mean_delta") < 0
        query = genes.filter(counts & sign)["feature"].to_list()
        assert row["n_query"] == len(query)
        common = set(query) & set(SETS[row["gene_set"]])
        assert (row["n_overlap"], set(row["genes"])) == (len(common), common)
        inside = len(movable[row["time"]] & set(SETS[row["gene_set"]]))
        assert (row["n_background"], row["n_set"]) == (len(movable[row["time"]]), inside)
        p = stats.hypergeom.sf(len(common) - 1, len(movable[row["time"]]), inside, len(query))
        np.testing.assert_allclose(row["p_value"], p, rtol=1e-9)
    ranked_table = open_results(out).gene_sets(table="ranked")
    assert dict(ranked_table.schema) == enrich.RANKED_SCHEMA
    assert ranked_table.height == 2 * 2 * 2
    strongest = hits.filter(time=2).head(2)["perturbation"]
    assert ranked_table.filter(time=2)["perturbation"].unique(maintain_order=True).equals(strongest)


def test_other_gene_sets_later_changed_files_and_wrong_ones(out: Path, tmp_path: Path, capsys: Any) -> None:
    before = enrich.scan(out).collect()
    other = gmt(tmp_path / "other.gmt", {"third": list(GENES[20:50])})
    assert main(["deg", str(out), "--gene-sets", str(tmp_path / "none.gmt")]) == 2
    assert "cannot read the gene sets" in capsys.readouterr().err
    assert enrich.scan(out).collect().equals(before)
    assert main(["deg", str(out), "--gene-sets", str(other), "--top", "0", "--workers", "1"]) == 0
    assert enrich.scan(out).collect()["gene_set"].unique().to_list() == ["third"]
    assert "third" in capsys.readouterr().out
    gmt(other, {"third": list(GENES[25:50])})
    assert main(["deg", str(out), "--top", "3"]) == 2
    assert "others than when they were asked for" in capsys.readouterr().err
    assert main(["deg", str(out), "--top", "3", "--gene-sets", str(other)]) == 0
    assert enrich.scan_scores(out).collect()["n_set"].unique().to_list() == [25]
    assert ScreenStore.open(out / "screen.zarr").provenance["view"]["enrich"]["max_fdr"] == 1


def test_gene_sets_are_checked_before_anything_is_computed(tmp_path: Path, capsys: Any) -> None:
    gmt(tmp_path / "sets.gmt", {"strangers": ["TP53", "MYC"]})
    config = tiny(library=LIBRARY) | {"enrich": {"gene_sets": ["sets.gmt"]}}
    assert main(["run", str(write(config, tmp_path / "s.yaml")), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "none of the 1 sets of sets.gmt" in said
    assert "Its genes are called TP53, MYC" in said
    assert not (tmp_path / "out").exists()
    config = config | {"enrich": {"gene_set": ["sets.gmt"]}}
    assert main(["plan", str(write(config, tmp_path / "s.yaml"))]) == 2
    assert 'unknown key "enrich.gene_set" in s.yaml; did you mean "gene_sets"?' in capsys.readouterr().err
