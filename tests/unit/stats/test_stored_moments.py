"""Partial moments beside a store's units: those of its changes, and the tables made of them those made of the changes."""

import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from screen.cli.main import main
from screen.config.sections import DegConfig
from screen.stats import deg
from screen.stats.groups import GroupReader, Strata
from screen.stats.moments import moments_of
from screen.stats.partial_moments import partial_moments
from screen.stats.tables import strata_of
from screen.store.reader import Block
from screen.store.store import ScreenStore
from tests.support.store_fixture import GENES, full_disk, run, screen_of
from tests.support.stores import assert_same_arrays

LIBRARY = [
    {"genes": list(GENES[39:45]), "modes": ["delete"], "perturbation_sequence": ["tgt"], "pert_tps": [1]},
    {"genes": list(GENES[3:9]), "modes": ["overexpress"]},
]
ULP, ULP_32 = 2.0**-53, 2.0**-24


@st.composite
def units(draw: st.DrawFn) -> dict[str, Any]:
    """The items of a unit in up to five segments, some of them left out."""
    n_items, n_genes = draw(st.integers(1, 14)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    dtype = draw(st.sampled_from(["float16", "float32"]))
    offset_G = rng.choice([0, 1, 300], n_genes)
    stored_RG = ((offset_G + rng.normal(size=(n_items, n_genes))) * draw(st.sampled_from([1e-3, 1.0, 50.0]))).astype(
        dtype
    )
    # some genes change by the same in all cells
    same_G = rng.random(n_genes) < 0.3
    stored_RG[:, same_G] = stored_RG[:1, same_G]
    return {
        "stored_RG": stored_RG,
        "scale": 4096.0 if dtype == "float16" else 1.0,
        "before_CG": rng.gamma(1, 2, (4, n_genes)).astype(np.float32),
        "cell_R": rng.integers(0, 4, n_items),
        "segment_R": np.array(draw(st.lists(st.integers(-1, 4), min_size=n_items, max_size=n_items))),
        "n_segments": 5,
        "is_log1p": draw(st.booleans()),
    }


@given(units(), st.sampled_from([1, 7, 2**16]))
def test_partial_moments_are_the_moments_of_every_segment(unit: dict[str, Any], work: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("screen.stats.partial_moments.WORK_VALUES", work)
        found = partial_moments(**unit)
    for segment in range(5):
        at = np.flatnonzero(unit["segment_R"] == segment)
        delta_2G, counts_2G = (found[name][segment] for name in ("delta", "counts"))
        if not len(at):
            assert not delta_2G.any()
            assert not counts_2G.any()
            continue
        delta_NG = unit["stored_RG"][at].astype(np.float32) / np.float32(unit["scale"])
        expected = moments_of(delta_NG, unit["before_CG"][unit["cell_R"][at]], unit["is_log1p"])
        n, size_G = len(at), np.abs(delta_NG).max(0).astype(np.float64)
        np.testing.assert_array_less(np.abs(delta_2G[0] / n - expected.mean_delta_G), 4 * n * ULP * size_G + 1e-300)
        exact_G = [float(sum(map(Fraction, x.tolist()), Fraction())) for x in delta_NG.T]
        if unit["stored_RG"].dtype == np.float16:
            np.testing.assert_array_equal(delta_2G[0], exact_G)
        np.testing.assert_array_less(np.abs(delta_2G[1] - expected.m2_delta_G), 40 * n * ULP * size_G**2 + 1e-300)
        is_same_G = np.ptp(delta_NG, axis=0) == 0
        assert not delta_2G[1][is_same_G].any()
        levels = expected.target_mean_G - expected.ref_mean_G, expected.ref_mean_G
        for sums_G, mean_G in zip(counts_2G, levels, strict=True):
            room_G = 2 * ULP_32 * np.abs(mean_G) + 4 * n * ULP * (np.abs(expected.target_mean_G) + expected.ref_mean_G)
            np.testing.assert_array_less(np.abs(sums_G / n - mean_G), room_G + 1e-300)


@pytest.fixture(autouse=True, scope="module")
def however_small_groups_are() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("screen.planning.segments.MOST_MOMENTS", 1e9)
        yield


def config_of(dtype: str, library: Any = LIBRARY) -> dict[str, Any]:
    return screen_of(library, strata=["cell_type"], min_cells=2, store_dtype=dtype)


@pytest.fixture(scope="module", params=["float16", "float32"])
def screen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two library blocks in units of eight items, two time points, three strata, groups of one cell and in several units."""
    out = tmp_path_factory.mktemp("moments") / "out"
    assert run(config_of(request.param, LIBRARY[1:]), out) == 0
    assert run(config_of(request.param), out, "--add") == 0
    store = ScreenStore.open(out / "screen.zarr")
    assert [b.has_all_moments for b in store.blocks] == [True, True]
    assert set(store.blocks[0].read("moments/n_cells_t1").tolist()) == {0, 1, 2}
    return out


def without_moments(out: Path, folder: Path) -> Path:
    """A copy that an earlier version might have written."""
    copy = Path(shutil.copytree(out, folder / "without"))
    for moments in copy.glob("screen.zarr/library/*/moments"):
        shutil.rmtree(moments)
    ScreenStore.open(copy / "screen.zarr", "r+").set_view(ScreenStore.open(copy / "screen.zarr").provenance["view"])
    shutil.rmtree(copy / "deg")
    assert main(["deg", str(copy)]) == 0
    return copy


def assert_same_table(ours: pl.DataFrame, theirs: pl.DataFrame) -> None:
    """To rounding: columns to float32, which the sums of counts are stored as too; what an edit adds may cancel over units."""
    assert ours.schema == theirs.schema
    assert ours.height == theirs.height > 0
    for name, dtype in ours.schema.items():
        if not dtype.is_float():
            assert ours[name].equals(theirs[name]), name
            continue
        np.testing.assert_array_equal(ours[name].is_null(), theirs[name].is_null(), err_msg=name)
        a, b = ours[name].drop_nulls().to_numpy(), theirs[name].drop_nulls().to_numpy()
        rtol, atol = (4 * ULP_32, 4 * ULP_32) if name == "log2_fold_change" else (4 * ULP_32, 1e-12)
        np.testing.assert_allclose(a, b, rtol=rtol if dtype == pl.Float32 else 1e-9, atol=atol, err_msg=name)


def test_tables_from_moments_are_those_from_changes(screen: Path, tmp_path: Path) -> None:
    other = without_moments(screen, tmp_path)
    assert_same_table(deg.scan(screen).collect(), deg.scan(other).collect())
    ours, theirs = (pl.read_parquet(out / "hits.parquet") for out in (screen, other))
    assert_same_table(ours.drop("top_up", "top_down"), theirs.drop("top_up", "top_down"))
    assert ours.select("top_up", "top_down").equals(theirs.select("top_up", "top_down"))


def test_at_the_defaults_no_change_is_read(screen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, names = Block.read, list[str]()

    def watched(self: Block, name: str, rows: Any = None) -> Any:
        names.append(name)
        return read(self, name, rows)

    monkeypatch.setattr(Block, "read", watched)
    store = ScreenStore.open(screen / "screen.zarr")
    for config, is_read in ((DegConfig(), False), (DegConfig(top=0), False), (DegConfig(signed_rank=True), True)):
        names.clear()
        readers = [GroupReader(store, b, strata_of(store, ["cell_type"], None), config) for b in store.blocks]
        assert [g for r in readers for g in r.groups(r.block.first)]
        assert any(n.startswith("delta/") for n in names) == is_read


@pytest.mark.parametrize("columns", [[], ["cell_type"], ["tissue"]])
def test_groups_of_whole_strata_are_joined_and_of_others_made_of_the_changes(screen: Path, columns: list[str]) -> None:
    store = ScreenStore.open(screen / "screen.zarr")
    strata = strata_of(store, columns, None)
    for block in store.blocks:
        fast, slow = (GroupReader(store, block, strata, DegConfig()) for _ in range(2))
        slow._stored = None
        slow._before = {}
        perturbations = range(block.first, block.first + block.n_perturbations)
        found, expected = list(fast.groups(*perturbations)), [g for p in perturbations for g in slow.groups(p)]
        assert len(found) == len(expected) > 0
        for one, other in zip(found, expected, strict=True):
            assert (one.perturbation, one.stratum, one.time, one.n_cells) == (
                other.perturbation, other.stratum, other.time, other.n_cells
            )  # fmt: skip
            assert one.genes is not None
            assert other.genes is not None
            for name in ("mean_delta", "se", "target_mean", "ref_mean"):
                a, b = getattr(one.genes, name), getattr(other.genes, name)
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-12, err_msg=name)
    is_joined = fast._stored is not None
    assert is_joined == (columns != ["tissue"])


@pytest.mark.parametrize("n_bytes", [1, 20_000])
def test_it_does_not_matter_how_many_are_read_at_once(
    screen: Path, monkeypatch: pytest.MonkeyPatch, n_bytes: int
) -> None:
    store = ScreenStore.open(screen / "screen.zarr")
    reader = GroupReader(store, store.blocks[0], strata_of(store, [], None), DegConfig())
    whole = list(reader.groups(0, 1, 2))
    monkeypatch.setattr("screen.stats.stored_moments.READ_BYTES", n_bytes)
    monkeypatch.setattr("screen.stats.groups.VALUES_AT_ONCE", n_bytes // 10)
    monkeypatch.setattr("screen.stats.groups.ITEMS_AT_ONCE", 1)
    pieces = list(reader.groups(0, 1, 2))
    assert len(whole) == len(pieces) > 3
    for one, other in zip(whole, pieces, strict=True):
        assert one.genes is not None
        assert other.genes is not None
        np.testing.assert_allclose(other.genes.se, one.genes.se, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(other.genes.target_mean, one.genes.target_mean, rtol=1e-12)


def test_an_interrupted_screen_asked_for_by_other_strata_keeps_the_moments_it_began(
    screen: Path, tmp_path: Path
) -> None:
    dtype = ScreenStore.open(screen / "screen.zarr").layout.dtype
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(config_of(dtype), whole) == 0
    with full_disk(40):
        assert run(config_of(dtype), out) == 1
    assert run(screen_of(LIBRARY, strata=[], min_cells=2, store_dtype=dtype), out) == 0
    assert run(config_of(dtype), out) == 0
    assert_same_arrays(whole, out)


def test_a_block_with_a_unit_of_an_earlier_version_is_read_by_its_changes(screen: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(screen, tmp_path / "out"))
    next((out / "screen.zarr/library/0/moments/counts/t2").glob("c.1.*")).unlink()
    store = ScreenStore.open(out / "screen.zarr")
    assert [b.has_all_moments for b in store.blocks] == [False, True]
    reader = GroupReader(store, store.blocks[0], strata_of(store, ["cell_type"], None), DegConfig())
    assert reader._stored is None


def test_verify_finds_moments_that_were_changed(screen: Path, tmp_path: Path, capsys: Any) -> None:
    out = Path(shutil.copytree(screen, tmp_path / "out"))
    file = next((out / "screen.zarr/library/1/moments/delta/t1").glob("c.2.*"))
    content = bytearray(file.read_bytes())
    content[3] ^= 1
    file.write_bytes(content)
    assert main(["verify", str(out)]) == 1
    assert "moments/delta/t1/c.2.0.0 checksum" in capsys.readouterr().err


def test_every_part_says_which_test_it_holds(screen: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(screen, tmp_path / "out"))
    assert deg.scan(out).collect()["test"].unique().to_list() == ["paired_t"]
    assert main(["deg", str(out), "--test", "signed_rank"]) == 0
    assert deg.scan(out).collect()["test"].unique().to_list() == ["signed_rank"]
    for part in (out / "deg").glob("part-*.parquet"):
        said = pq.read_schema(part).metadata
        assert said[b"perturbscreen.test"] == b"signed_rank"
        assert said[b"perturbscreen.log_scale"].startswith(b"natural logarithm of 1 + counts per 10,000")
        assert said[b"perturbscreen.replicate"] == b"none: cells count as independent"


def test_strata_without_cells_of_their_own_are_no_groups(screen: Path) -> None:
    store = ScreenStore.open(screen / "screen.zarr")
    named = strata_of(store, ["cell_type"], None)
    missing = Strata(named.name_S[1:], named.stratum_C - 1)
    block = store.blocks[0]
    found = list(GroupReader(store, block, missing, DegConfig()).groups(block.first))
    whole = [g for g in GroupReader(store, block, named, DegConfig()).groups(block.first) if g.stratum > 0]
    assert [(g.stratum, g.time, g.n_cells) for g in found] == [(g.stratum - 1, g.time, g.n_cells) for g in whole]
    for one, other in zip(found, whole, strict=True):
        assert one.genes is not None
        assert other.genes is not None
        np.testing.assert_array_equal(one.genes.mean_delta, other.genes.mean_delta)
