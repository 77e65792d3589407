"""The planted screen: it opens like any other, its tables find what was planted, and the same sizes give the same bytes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import screen
from demo.planted.cells import make_cells
from demo.planted.sizes import HOSTILE_STRATUM, JOINT, SINGLES, Sizes
from demo.planted.truth import HOSTILE_SYMBOLS, plant
from demo.planted.written import GENE_SETS, TRUTH, build
from screen.edits import DELETE, MASK, PAD
from screen.errors import ConfigError, StoreError

SMALL = Sizes(n_perturbations=260, n_genes=320, has_replicates=False, top=8)
STANDS_OUT = pl.col("q_value") < 0.1


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted") / "screen"
    build(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def results(directory: Path) -> screen.Results:
    return screen.open_results(directory)


@pytest.fixture(scope="module")
def truth(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / TRUTH).read_text())
    return found


def singles(truth: dict[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    """Single masks of one kind."""
    yield from (e for e in truth["planted"] if e["kind"] == kind and e["mode"] == MASK.name and "strata" in e)


def where(entry: dict[str, Any]) -> pl.Expr:
    """Rows in the strata and at the time points where an effect was planted."""
    return pl.col("stratum").is_in(entry["strata"]) & pl.col("time").is_in(entry["times"])


def test_it_opens_like_any_other_and_says_that_nothing_predicted_it(results: screen.Results) -> None:
    assert "260 perturbations" in repr(results)
    assert results.times == [1, 2] and len(results.strata) == 4
    assert any("synthetic" in note for note in results.provenance["notes"])
    assert set(results.hits["mode"]) == set(SINGLES)
    assert results.store.strings("cells/source/obs/replicate").tolist()[:5] == ["donor 1"] * 4 + ["donor 2"]


def test_it_is_exported_with_a_row_per_cell_and_time_point(results: screen.Results) -> None:
    n_cells = results.hits.filter(target_symbol="ALL1", mode=MASK.name, time=1)["n_cells"].sum()
    assert results.anndata("ALL1", mode=MASK.name).n_obs == 2 * n_cells


def test_planted_hits_stand_out_where_they_were_planted_and_hardly_elsewhere(
    results: screen.Results, truth: dict[str, Any]
) -> None:
    elsewhere = []
    for kind in ("everywhere", "one stratum", "one time", "module"):
        there = []
        for entry in singles(truth, kind):
            rows = results.hits.filter(perturbation=entry["perturbation"])
            there += rows.filter(where(entry)).select(STANDS_OUT).to_series().to_list()
            elsewhere += rows.filter(~where(entry)).select(STANDS_OUT).to_series().to_list()
        assert len(there) >= 8 and np.mean(there) > 0.9, kind
    assert len(elsewhere) == 72 and np.mean(elsewhere) < 0.15


def test_few_of_what_stands_out_was_not_planted(results: screen.Results, truth: dict[str, Any]) -> None:
    found = results.hits.filter(STANDS_OUT)
    n_false = found.filter(pl.col("perturbation").is_in(truth["ordinary"])).height
    assert found.height > 100
    assert n_false < 0.1 * found.height


def test_shifted_gene_sets_are_found_in_perturbations_that_are_not_strong(
    results: screen.Results, truth: dict[str, Any]
) -> None:
    entries = list(singles(truth, "gene-set shift"))
    assert len(entries) == 4
    for entry in entries:
        table = results.gene_sets().filter(perturbation=entry["perturbation"], gene_set=entry["gene_set"])
        assert table.filter(STANDS_OUT & where(entry)).height >= 0.75 * len(entry["strata"]) * len(entry["times"])
        assert table.filter(STANDS_OUT & ~where(entry)).height <= 1
        assert results.hits.filter(perturbation=entry["perturbation"]).filter(STANDS_OUT).height <= 2


def test_members_of_a_module_move_its_gene_set(results: screen.Results, truth: dict[str, Any]) -> None:
    table = results.gene_sets().filter(STANDS_OUT & (pl.col("mode") == MASK.name))
    for letter, members in truth["modules"].items():
        assert len(members) == 5
        assert set(members) <= set(table.filter(gene_set=f"MODULE_{letter}_UP")["target_symbol"])


def test_the_rare_gene_has_no_rank_where_it_has_few_cells(results: screen.Results) -> None:
    rare = results.hits.filter(target_symbol="RARE1", mode=MASK.name)
    assert rare["strength_rank"].null_count() == rare.height
    assert rare["n_absent"].sum() > rare["n_cells"].sum()


def test_joint_edits_have_their_singles_and_interactions_show_in_the_mean_changes(
    results: screen.Results, truth: dict[str, Any]
) -> None:
    ids, block = results.store.perturbations("id").tolist(), results.store.blocks[0]

    def mean_G(name: str) -> Any:
        return block.delta(2, block.rows_of(ids.index(name))).mean(0)

    beyond: dict[str, list[float]] = {}
    for entry in truth["planted"]:
        if entry["kind"] == "pair" and "interaction" in entry and entry["mode"] == MASK.name:
            lead, _, genes = entry["perturbation"].rpartition(":")
            sum_G = sum(mean_G(f"{lead}:{gene}") for gene in genes.split("+"))
            rest_G = mean_G(entry["perturbation"]) - sum_G
            along = float(rest_G @ sum_G / (sum_G @ sum_G))
            beyond.setdefault(entry["interaction"], []).append(along)
    assert set(beyond) == {"additive", "synergy", "suppression", "new response"}
    assert max(np.abs(beyond["additive"])) < 0.15
    assert min(beyond["synergy"]) > 0.4
    assert max(beyond["suppression"]) < -0.3


def test_every_joint_edit_of_two_genes_has_both_singles(results: screen.Results) -> None:
    ids = set(results.store.perturbations("id"))
    joint = [i for i in ids if "+" in i]
    assert {i.split(":")[1] for i in joint} == set(JOINT)
    for name in joint:
        lead, _, genes = name.rpartition(":")
        assert {f"{lead}:{g}" for g in genes.split("+")} <= ids


def test_a_deletion_does_what_padding_does_and_moves_the_other_genes_up(results: screen.Results) -> None:
    rows = results.hits.filter(~pl.col("is_null"), pl.col("n_cells") >= 8)
    deleted, padded = ({*rows.filter(mode=mode.name)["target"]} for mode in (DELETE, PAD))
    assert deleted == padded
    ids, block = results.store.perturbations("id").tolist(), results.store.blocks[0]
    apart = []
    for target in sorted(deleted)[:12]:
        one, two = (block.rows_of(ids.index(f"src:{mode.name}:{target}")) for mode in (DELETE, PAD))
        apart.append(block.delta(1, one).mean(0) - block.delta(1, two).mean(0))
    # what is left is one direction
    share = np.linalg.svd(np.stack(apart), compute_uv=False)
    assert share[0] > 3 * share[1]


def test_the_same_sizes_give_the_same_bytes(directory: Path, tmp_path: Path) -> None:
    before = files_in(directory.rename(tmp_path / "first"))
    build(directory, SMALL)
    after = files_in(directory)
    assert set(before) == set(after) and len(before) > 50
    assert [name for name in before if before[name] != after[name]] == []


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_hostile_names_are_there_only_where_they_are_asked_for() -> None:
    for is_hostile in (False, True):
        sizes = Sizes(is_hostile=is_hostile)
        cells = make_cells(sizes)
        assert (set(HOSTILE_SYMBOLS) <= set(plant(sizes, cells).vocabulary.symbol)) == is_hostile
        assert (HOSTILE_STRATUM in cells.stratum) == is_hostile


def test_what_cannot_be_planted_is_refused(directory: Path) -> None:
    with pytest.raises(ConfigError, match="needs 250 or more"):
        Sizes(n_perturbations=20)
    with pytest.raises(ConfigError, match="two or more"):
        Sizes(times=(1,))
    with pytest.raises(ConfigError, match="keep predictions"):
        Sizes(keep="summaries")
    with pytest.raises(StoreError, match="already"):
        build(directory, SMALL)


def test_it_is_made_with_summaries_only(tmp_path: Path) -> None:
    small = Sizes(n_perturbations=260, n_genes=320, n_nulls=20, has_replicates=False, top=3, keep="summaries")
    results = build(tmp_path / "screen", small)
    assert results.store.layout.keeps_summaries
    strongest = results.hits.filter(mode=MASK.name, strength_rank=1)["target_symbol"].to_list()
    assert len(strongest) == 8
    assert all(name.startswith(("ALL", "ONLY", "EARLY", "LATE", "PAIR")) for name in strongest)
    assert (tmp_path / "screen" / GENE_SETS).is_file()
