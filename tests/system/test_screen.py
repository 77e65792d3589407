"""Whole screens: what the store and the tables hold is what the model says, interrupted or not."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
import zarr

from screen.cli.main import main
from screen.engine.effects import change, log_expression
from screen.engine.executor import Executor
from screen.engine.packed import PackedEngine
from screen.engine.reference import ReferenceEngine
from screen.engine.screen import Screen
from screen.engine.unit import Progress
from screen.errors import GeneError, StoreError
from screen.planning.layout import counts
from screen.running.configuration import load_config
from screen.running.prepare import prepare
from screen.running.resume import open_store
from screen.running.runner import Engine, run_units
from screen.stats import deg
from screen.stats.tables import read_coverage
from screen.store.export import anndata_of
from screen.store.reader import StoreReader
from screen.store.store import ScreenStore
from tests.support.golden import scale_error
from tests.support.long import some_long
from tests.support.places import ROOT
from tests.support.store_fixture import GENES
from tests.support.stores import assert_same_arrays, every_array
from tests.support.tiny import E2E, tiny, write

CPU = torch.device("cpu")
LIBRARY = {"genes": "all", "modes": ["mask", "overexpress"], "perturbation_sequence": ["src", "tgt"], "pert_tps": [2]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a finished screen of every gene, both kinds of edit."""
    folder = tmp_path_factory.mktemp("screen")
    config = write(tiny(library=LIBRARY, output={"keep_embeddings": True, "strata": ["cell_type"]}), folder / "s.yaml")
    assert main(["run", str(config), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_the_store_holds_what_the_model_says_of_each_item(finished: Path) -> None:
    config = load_config(finished.parent / "s.yaml")
    screen, store = prepare(config), ScreenStore.open(finished / "screen.zarr")
    rng = np.random.default_rng(0)
    for i in rng.choice(screen.plan.n_items, 40, replace=False):
        cell, p = int(screen.plan.cell_I[i]), screen.library.perturbations[screen.plan.perturbation_I[i]]
        after = screen.adapter.predict(screen.rows.edited(cell, p))
        before = screen.adapter.predict(screen.rows.control(cell))
        for k, t in enumerate((1, 2)):
            if not screen.plan.is_screened_IT[i, k]:
                assert not store.blocks[0].read(f"items/is_screened_t{t}")[i]
                continue
            logs = [log_expression(r.value_BG[t], r.size_factor_B[t], "log1p_cp10k") for r in (before, after)]
            delta = change(*logs)[0].numpy()
            error = store.blocks[0].delta(t, np.array([i]))[0] - delta
            assert np.abs(error).max() <= 1e-5
            assert np.sqrt(np.mean(error**2)) <= 3e-6
            control = store.control(f"expression_t{t}", store.blocks[0])[cell]
            assert scale_error(control, logs[0].log_BG[0].numpy()) <= 1e-5
            assert scale_error(store.blocks[0].read(f"embedding/t{t}")[i], after.embedding_BD[t][0].numpy()) <= 1e-5
            assert scale_error(store.blocks[0].effect(f"total_t{t}")[i], logs[1].total_B[0].numpy()) <= 1e-5
            assert (
                abs(store.blocks[0].effect(f"rms_delta_t{t}")[i] - np.sqrt(np.mean(delta.astype(float) ** 2))) <= 3e-6
            )


def test_counts_come_back_from_log_expression() -> None:
    value = torch.tensor([[0.0, 0.25, 3.0, 1e-7, 900.0], [1.0, 0.0, 2.0, 5.0, 1e4]])
    expression = log_expression(value / 7, torch.full((2,), 7.0), "log1p_cp10k")
    back = counts(expression.log_BG.numpy(), expression.total_B.numpy())
    np.testing.assert_allclose(back, value, rtol=1e-6, atol=1e-12)


def test_float16_deltas_are_float32_deltas_to_one_unit_in_the_last_place(finished: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    assert main(["run", str(finished.parent / "s.yaml"), "--out", str(half), "--store-dtype", "float16"]) == 0
    full_store, half_store = (ScreenStore.open(p / "screen.zarr") for p in (finished, half))
    for t in (1, 2):
        stored = half_store.blocks[0].array(f"delta/t{t}")
        assert stored.dtype == np.float16
        assert stored.attrs["scale_factor"] == 1 / 4096
        exact = full_store.blocks[0].delta(t, slice(None))
        ulp = np.spacing(np.abs(np.asarray(stored[...]))).astype(np.float32) / 4096
        assert (np.abs(half_store.blocks[0].delta(t, slice(None)) - exact) <= ulp).all()


class StoppedError(Exception):
    """Thrown in the middle of a run."""


def silent(n_items: int, n_tokens: int, n_padded: int) -> None:
    """No progress."""


def run_into(folder: Path, screen: Screen, engine: Engine, executor: Executor, progress: Progress = silent) -> None:
    """A whole run, or the rest of one, into a directory."""
    folder.mkdir(exist_ok=True)
    run_units(engine, open_store(screen, folder, "", executor), progress)


@pytest.fixture(scope="module", params=[PackedEngine, ReferenceEngine])
def uninterrupted(
    finished: Path, tmp_path_factory: pytest.TempPathFactory, request: Any
) -> tuple[type[Any], Screen, Path]:
    """(an engine, a screen of units of 128 rows, what a run of it left that nothing stopped). Slow engines have fewer genes."""
    whole = tmp_path_factory.mktemp("uninterrupted")
    config = yaml.safe_load((finished.parent / "s.yaml").read_text())
    if request.param is ReferenceEngine:
        config["library"]["genes"] = [*GENES[:30]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("screen.running.unit_sizes.MAX_ROWS", 128)
        screen = prepare(load_config(write(config, whole / "s.yaml")))
    run_into(whole, screen, request.param(screen, Executor(CPU)), Executor(CPU))
    return request.param, screen, whole


@pytest.mark.parametrize("stop_after", some_long([150, 0, 1, 301], every=4))
def test_a_run_that_stops_and_continues_equals_an_uninterrupted_one(
    uninterrupted: tuple[type[Any], Screen, Path], tmp_path: Path, stop_after: int
) -> None:
    make, screen, whole = uninterrupted
    executor = Executor(CPU)
    assert screen.plan.n_units > 3
    broken, n_done = tmp_path / "broken", 0

    def stop(n_items: int, n_tokens: int, n_padded: int) -> None:
        nonlocal n_done
        n_done += n_items
        if n_done > stop_after:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_into(broken, screen, make(screen, executor), executor, stop)
    left_behind = ScreenStore.open(broken / "screen.zarr").blocks[0].committed()
    assert len(left_behind) <= stop_after // 128
    redone: list[int] = []
    run_into(broken, screen, make(screen, executor), executor, lambda n, tokens, padded: redone.append(n))
    assert sum(redone) == screen.plan.n_items - 128 * len(left_behind)
    assert_same_arrays(whole, broken)


@pytest.mark.parametrize("make", some_long([PackedEngine, ReferenceEngine], every=2))
def test_the_bytes_do_not_depend_on_how_many_lanes_there_are(
    finished: Path, tmp_path: Path, make: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("screen.running.unit_sizes.MAX_ROWS", 256)
    screen = prepare(load_config(finished.parent / "s.yaml"))
    for n_lanes in (1, 3):
        executor = Executor(CPU, batch_tokens=200, n_lanes=n_lanes)
        run_into(tmp_path / str(n_lanes), screen, make(screen, executor), executor)
    assert_same_arrays(tmp_path / "1", tmp_path / "3")


def test_a_model_that_gives_nan_stops_with_the_cell_named_and_exit_code_1(tmp_path: Path, capsys: Any) -> None:
    content = torch.load(E2E / "ckpt" / "count_zinb.ckpt", weights_only=True)
    content["state_dict"]["decoder.count_decoder.mlp.fc1.weight"] *= 1e38
    torch.save(content, tmp_path / "wild.ckpt")
    config = write(tiny(model={"checkpoint": str(tmp_path / "wild.ckpt")}), tmp_path / "s.yaml")
    assert main(["run", str(config), "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "NaN or infinity" in message
    assert "cell " in message
    assert not ScreenStore.open(tmp_path / "out/screen.zarr").blocks[0].committed()


def test_another_screen_in_the_directory_is_refused_and_left_alone(finished: Path, tmp_path: Path, capsys: Any) -> None:
    before = every_array(finished)
    kept = {"keep_embeddings": True, "strata": ["cell_type"]}
    other = write(tiny(library={**LIBRARY, "modes": ["pad"]}, output=kept), tmp_path / "other.yaml")
    assert main(["run", str(other), "--out", str(finished)]) == 2
    message = capsys.readouterr().err
    assert "holds another library" in message
    assert "--add" in message
    after = every_array(finished)
    assert all(np.array_equal(before[n], after[n]) for n in before)


def test_a_second_run_says_complete_and_computes_nothing(finished: Path, capsys: Any) -> None:
    stamps = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    assert main(["run", str(finished.parent / "s.yaml"), "--out", str(finished)]) == 0
    assert "is complete" in capsys.readouterr().out
    assert stamps == {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}


def test_plain_zarr_opens_the_store_and_every_name_is_documented(finished: Path) -> None:
    documented = (ROOT / "docs" / "store.md").read_text()
    for name in every_array(finished):
        generic = name.replace("_t1", "_t{k}").replace("_t2", "_t{k}").replace("/t1", "/t{k}").replace("/t2", "/t{k}")
        generic = generic.replace("library/0/", "library/{n}/")
        generic = generic.split("/obs/")[0] + ("/obs/" if "/obs/" in generic else "")
        assert f"`{generic}" in documented, generic


def test_provenance_says_what_was_run_and_with_what(finished: Path) -> None:
    provenance = json.loads((finished / "provenance.json").read_text())
    assert set(provenance["identity"]) >= {
        "model",
        "vocabulary",
        "cells",
        "precision",
        "numerics_version",
    }
    assert provenance["library"][0]["config"] == (finished.parent / "s.yaml").read_text()
    commit = ScreenStore.open(finished / "screen.zarr").blocks[0].marker(0)
    assert {"torch", "threads_per_lane", "device", "engine", "batch_tokens", "precision"} <= set(commit["executor"])
    assert "delta/t1/c.0.0" in commit["files"]
    assert all(len(crc) == 8 for crc in commit["files"].values())


def test_hits_have_one_row_per_perturbation_stratum_and_time_sorted_by_strength(finished: Path) -> None:
    hits = pl.read_parquet(finished / "hits.parquet")
    store = ScreenStore.open(finished / "screen.zarr")
    n_perturbations = len(store.perturbations("id"))
    assert hits.height == n_perturbations * 3 * 2
    assert hits.select("perturbation", "stratum", "time").is_unique().all()
    known = hits.drop_nulls("strength")["strength"].to_numpy()
    assert (np.diff(known) <= 0).all()
    assert hits["strength"].null_count() == (hits["n_cells"] == 0).sum()
    assert hits["target"].str.starts_with("ENSG").all()


def test_coverage_classes_add_up_to_the_cells_of_the_stratum(finished: Path) -> None:
    hits = pl.read_parquet(finished / "hits.parquet").filter(pl.col("time") == 1)
    store = ScreenStore.open(finished / "screen.zarr")
    cell_type = store.strings("cells/source/obs/cell_type")[np.asarray(store.blocks[0].read("items/cell")[...])]
    ids = store.perturbations("id")[np.asarray(store.blocks[0].read("items/perturbation")[...])]
    n_items = (
        pl.DataFrame({"perturbation": ids.tolist(), "stratum": cell_type.tolist()}).group_by(pl.all()).len("items")
    )
    table = hits.join(n_items, on=["perturbation", "stratum"], how="left").fill_null(0)
    classes = table.select(pl.sum_horizontal("items", "n_absent", "n_truncated", "n_emptied")).to_series()
    assert (classes == table["n_stratum"]).all()
    assert (hits.filter(pl.col("mode") == "overexpress")["n_absent"] == 0).all()


@pytest.mark.parametrize("change", [1, -1, 2**32, 2**62, -(2**62)])
def test_coverage_that_does_not_add_up_is_refused(finished: Path, tmp_path: Path, change: int) -> None:
    store, table = StoreReader.open(finished / "screen.zarr"), pl.read_parquet(finished / "coverage.parquet")
    table.write_parquet(tmp_path / "coverage.parquet")
    assert read_coverage(tmp_path, store).screened_PS.sum() == table["n_screened"].sum()
    table.with_columns(pl.col("n_absent") + change).write_parquet(tmp_path / "coverage.parquet")
    with pytest.raises(StoreError, match=r"add up|the screen has"):
        read_coverage(tmp_path, store)


def test_the_gene_table_follows_from_the_store(finished: Path) -> None:
    table, store = deg.scan(finished).collect(), ScreenStore.open(finished / "screen.zarr")
    ids = store.perturbations("id")
    cells, perturbation = (
        np.asarray(store.blocks[0].read("items/cell")[...]),
        np.asarray(store.blocks[0].read("items/perturbation")[...]),
    )
    cell_type = store.strings("cells/source/obs/cell_type")
    for p, t, stratum in ((0, 1, "A"), (7, 2, "B"), (90, 2, "C")):
        rows = np.flatnonzero(
            (perturbation == p)
            & (cell_type[cells] == stratum)
            & np.asarray(store.blocks[0].read(f"items/is_screened_t{t}")[...])
        )
        part = table.filter(perturbation=ids[p], time=t, stratum=stratum)
        assert part.height == (61 if len(rows) else 0)
        if len(rows) < 2:
            continue
        delta = store.blocks[0].delta(t, rows).astype(np.float64)
        np.testing.assert_allclose(part["mean_delta"], delta.mean(0), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(part["se"], delta.std(0, ddof=1) / np.sqrt(len(rows)), rtol=1e-6, atol=1e-9)
        assert (part["n_cells"] == len(rows)).all()
    assert table["target"].is_sorted()


def test_export_of_all_is_the_exports_of_each(finished: Path) -> None:
    store = ScreenStore.open(finished / "screen.zarr")
    everything = anndata_of(store)
    one = anndata_of(store, str(store.perturbations("id")[5]))
    mask = (everything.obs["perturbation"] == one.obs["perturbation"].iloc[0]).to_numpy()
    np.testing.assert_array_equal(everything.X[mask], one.X)
    assert one.obs["time"].isin([1, 2]).all()
    with pytest.raises(GeneError, match="did you mean"):
        anndata_of(store, "src+tgt@2:mask:ENSG0000010000")


def test_an_unfinished_screen_is_not_exported(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / "screen.zarr/library/0/commits/c.0").unlink()
    with pytest.raises(StoreError, match="unfinished: 0 of 1 units"):
        anndata_of(ScreenStore.open(copy / "screen.zarr"))


def test_a_store_of_a_newer_format_is_refused(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    meta = copy / "screen.zarr/zarr.json"
    changed = json.loads(meta.read_text())
    changed["attributes"]["format_version"] = 99
    meta.write_text(json.dumps(changed))
    with pytest.raises(StoreError, match="format version 99"):
        ScreenStore.open(copy / "screen.zarr")


def test_singles_joint_and_a_file_of_genes_expand_as_written(tmp_path: Path) -> None:
    genes = ["ENSG00000100021", "ENSG00000100399"]
    (tmp_path / "genes.txt").write_text("# two\n" + "\n".join(genes) + "\n\n")
    ids = {}
    for combos in ("singles", "joint"):
        config = write(
            tiny(library={"genes": "genes.txt", "modes": ["mask", "delete"], "combos": combos}), tmp_path / "s.yaml"
        )
        screen = prepare(load_config(config))
        ids[combos] = screen.library.ids(screen.vocabulary)
    assert ids["singles"] == tuple(f"src:{m}:{g}" for m in ("mask", "delete") for g in genes)
    assert ids["joint"] == tuple(f"src:{m}:{'+'.join(genes)}" for m in ("mask", "delete"))


def test_embeddings_alone_are_screened_without_a_count_head(tmp_path: Path) -> None:
    changes = {
        "predict": {"pred_tps": [1], "use_count_decoder": False},
        "library": {"genes": "all", "modes": ["delete"]},
    }
    config = write(tiny(**changes), tmp_path / "s.yaml")
    assert main(["run", str(config), "--out", str(tmp_path / "out")]) == 0
    hits = pl.read_parquet(tmp_path / "out/hits.parquet")
    assert hits["strength"].equals(hits["embedding_shift"])
    assert not list((tmp_path / "out/deg").glob("*.parquet"))
    exported = anndata_of(ScreenStore.open(tmp_path / "out/screen.zarr"))
    assert exported.X is None
    assert set(exported.obsm) == {"true_cls", "perturbed_cls", "mean_cos_similarity"}


def test_the_plan_command_writes_nothing(tmp_path: Path, capsys: Any) -> None:
    config = write(tiny(), tmp_path / "s.yaml")
    assert main(["plan", str(config)]) == 0
    out = capsys.readouterr().out
    assert "perturbations x 11 cells" in out
    assert [p.name for p in tmp_path.iterdir()] == ["s.yaml"]


def test_presentation_may_change_after_a_screen_is_complete(tmp_path: Path, capsys: Any) -> None:
    config = tiny(output={"var_list": ["cell_type"], "export_batch_size": 4})
    for changes in ({}, {"strata": ["tissue"], "var_list": ["tissue"]}):
        config["output"] |= changes
        assert main(["run", str(write(config, tmp_path / "s.yaml")), "--out", str(tmp_path / "out")]) == 0
    assert "is complete" in capsys.readouterr().out
    assert set(pl.read_parquet(tmp_path / "out/hits.parquet")["stratum"]) == {"bm", "sp"}
    exported = anndata_of(ScreenStore.open(tmp_path / "out/screen.zarr"))
    assert "tissue" in exported.obs.columns
    assert "cell_type" not in exported.obs.columns


@pytest.mark.parametrize("damage", ["deg", "hits.parquet", "provenance.json", "tables.json"])
def test_tables_that_are_missing_or_damaged_are_made_again(finished: Path, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    before = pl.read_parquet(copy / "hits.parquet"), deg.scan(copy).collect()
    if damage == "deg":
        shutil.rmtree(copy / "deg")
    else:
        (copy / damage).write_bytes(b"half a fi")
    assert main(["run", str(finished.parent / "s.yaml"), "--out", str(copy)]) == 0
    assert pl.read_parquet(copy / "hits.parquet").equals(before[0])
    assert deg.scan(copy).collect().equals(before[1])
    assert json.loads((copy / "provenance.json").read_text())["identity"]


PREDICTION_CHANGES: list[dict[str, Any]] = [
    {"predict": {"pad_condition": True}},
    {"predict": {"readout": "mu"}},
    {"predict": {"context_mode": True}},
    {"predict": {"size_factor": "none"}},
    {"predict": {"upstream_pooling": True}},
    {"predict": {"pred_tps": [2, 1]}},
    {"cells": {"cond_list": ["tissue", "cell_type"]}},
    {"cells": {"cond_list": ["cell_type"]}},
    {"model": {"chained": True}},
    {"output": {"store_dtype": "float16"}},
    {"output": {"keep_gene_cosine": True}},
]


@pytest.mark.parametrize("changes", PREDICTION_CHANGES, ids=str)
def test_every_setting_that_changes_results_is_part_of_the_identity(changes: dict[str, Any], tmp_path: Path) -> None:
    base = tiny(
        model={"checkpoint": str(E2E / "ckpt" / "count_zinb_cond.ckpt")},
        cells={"cond_list": ["cell_type", "tissue"]},
        library={"genes": ["ENSG00000100021"], "perturbation_sequence": ["tgt"], "pert_tps": [1]},
    )
    changed = {**base, **{section: {**base[section], **keys} for section, keys in changes.items()}}
    screens = [prepare(load_config(write(c, tmp_path / "s.yaml"))).identity("float32") for c in (base, base, changed)]
    assert screens[0] == screens[1]
    assert screens[0] != screens[2]


def test_a_directory_keeps_what_was_decided_when_it_was_created(finished: Path, tmp_path: Path, capsys: Any) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / "screen.zarr/library/0/commits/c.0").unlink()
    decided = json.loads((copy / "provenance.json").read_text())["decided"]
    assert decided["precision"] == "float32"
    config = str(finished.parent / "s.yaml")
    assert main(["run", config, "--out", str(copy), "--batch-tokens", "77"]) == 2
    assert f"created with {decided['batch_tokens']}" in capsys.readouterr().err
    assert main(["run", config, "--out", str(copy)]) == 0
    assert_same_arrays(finished, copy)


def test_a_gene_is_shifted_both_ways_beside_random_ones_and_the_run_continues(tmp_path: Path, capsys: Any) -> None:
    genes = [f"ENSG{100_000 + 7 * i:011d}" for i in (2, 5, 9)]
    library = {"genes": genes, "modes": ["mask", "shift+3", "shift-20"], "perturbation_sequence": ["src", "tgt"]}
    sections = {"library": library | {"pert_tps": [2]}, "output": {"min_cells": 1}}
    config = write({**tiny(**sections), "null": {"n": 45}}, tmp_path / "s.yaml")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        assert main(["run", str(config), "--out", str(folder)]) == 0
    (broken / "screen.zarr/library/0/commits/c.0").unlink()
    assert main(["plan", str(config)]) == 0
    assert main(["run", str(config), "--out", str(broken)]) == 0
    assert_same_arrays(whole, broken)
    assert "The strongest of mode shift+3" in capsys.readouterr().out
    hits = pl.read_parquet(whole / "hits.parquet").filter(time=2)
    random = [set(part.filter("is_null")["target"]) for part in hits.partition_by("mode")]
    assert [len(r) for r in random] == [45] * 3 and random[0] == random[1] == random[2]
    for mode, part in hits.group_by("mode"):
        own = part.filter(~pl.col("is_null"))
        assert sorted(own["perturbation"]) == sorted(f"src+tgt@2:{mode[0]}:{g}" for g in genes)
        # no other mode's random genes are among those that p rests on
        assert set(own["n_pool"]) == {part.filter("is_null", pl.col("n_cells") >= 1).height}
    strength = hits.pivot("mode", index="target", values="strength").drop("target").to_numpy()
    assert len(np.unique(strength)) == strength.size, "every mode changes something else"


def test_few_cells_have_a_strength_but_no_rank(tmp_path: Path) -> None:
    config = write(tiny(output={"min_cells": 6}), tmp_path / "s.yaml")
    assert main(["run", str(config), "--out", str(tmp_path / "out")]) == 0
    hits = pl.read_parquet(tmp_path / "out/hits.parquet")
    assert (hits["strength_rank"].is_not_null() == (hits["n_cells"] >= 6)).all()
    ranked = hits.drop_nulls("strength_rank")
    for _, part in ranked.group_by("mode", "site", "stratum", "time"):
        assert part["strength_rank"].to_list() == list(range(1, part.height + 1))
    assert hits["strength"].drop_nulls().is_sorted(descending=True)


def test_all_are_ranked_where_none_has_enough_cells(tmp_path: Path) -> None:
    config = write(tiny(output={"min_cells": 50}), tmp_path / "s.yaml")
    assert main(["run", str(config), "--out", str(tmp_path / "out")]) == 0
    hits = pl.read_parquet(tmp_path / "out/hits.parquet")
    assert hits["n_cells"].n_unique() > 3
    assert (hits["strength_rank"].is_not_null() == hits["strength"].is_not_null()).all()


def test_dimensions_are_named_and_symbols_find_a_perturbation(tmp_path: Path) -> None:
    (tmp_path / "genes.tsv").write_text("ensembl_id\tsymbol\nENSG00000100021\tIL1B\nENSG00000100399\tTNF\n")
    changes = {"genes": ["IL1B", "TNF"], "modes": ["mask"], "combos": "joint"}
    config = write(tiny(model={"gene_table": str(tmp_path / "genes.tsv")}, library=changes), tmp_path / "s.yaml")
    assert main(["run", str(config), "--out", str(tmp_path / "out")]) == 0
    store = ScreenStore.open(str(tmp_path / "out/screen.zarr"))
    assert all(a.metadata.dimension_names for _, a in store.group.members(max_depth=None) if isinstance(a, zarr.Array))
    exported = anndata_of(store, "src:mask:TNF+IL1B")
    assert set(exported.obs["perturbation"]) == {"src:mask:ENSG00000100021+ENSG00000100399"}
