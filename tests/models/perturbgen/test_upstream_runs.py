"""Upstream's own YAML and files through the command line, against a naive reading of SEMANTICS.md on padded rows."""

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from screen.cli.main import main
from screen.models.perturbgen.files.upstream_yaml import NO_EFFECT
from tests.support.golden import GOLDEN, golden, scale_error
from tests.support.long import some_long
from tests.support.store_fixture import assert_same_anndata
from tests.support.upstream_files import DROP, LONELY, Recipe, Upstream, ensembl_ids, refusal, snapshot, write_upstream

GENE = ensembl_ids(19)
SCALE_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], Upstream]:
    """recipe -> its files, written once; tests may add files, not change any."""
    return cache(lambda recipe: write_upstream(tmp_path_factory.mktemp("upstream") / "files", recipe))


def collate(u: Upstream, state: int, cell: int) -> list[int]:
    """The ids of a row as the model gets them, before any edit."""
    row = u.rows[state][cell]
    width = u.recipe.max_len or max(len(r) for rows in u.rows.values() for r in rows)
    row = [x for x in row if state == 0 or x not in (2, 3)]
    return (row + [0] * width)[:width]


def edit(row: list[int], ids: list[int], mode: str, site: str) -> list[int]:
    """The edited row, same width."""
    if mode in ("mask", "pad"):
        return [int(mode == "mask") if x in ids else x for x in row]
    rest = [x for x in row if x not in ids and x != 0] + [0] * len(row)
    if mode == "overexpress":
        rest = rest[: len(row) - len(ids)]
        rest = [*rest[:1], *ids, *rest[1:]] if site == "src" else [*ids, *rest]
    return rest[: len(row)]


class Naive:
    """One upstream run, cell by cell: `lines()` are the rows of its output before repeated cells are averaged."""

    def __init__(self, u: Upstream, raw: Mapping[str, Any], genes: list[int]) -> None:
        self.u, self.data, self.trainer, self.genes = u, raw["data"], raw["trainer"], genes
        self.batch_size, sites = raw["datamodule"]["batch_size"], self.trainer["perturbation_sequence"]
        self.mode, self.pred = self.trainer["perturbation_mode"], self.trainer["pred_tps"]
        self.sites = [sites] if isinstance(sites, str) else sites
        self.context = sorted(self.trainer.get("context_tps") or self.pred)
        self.in_context = self.trainer["context_mode"]
        self.times = sorted({*self.pred, *(self.context if self.in_context else ())})
        self.edited = (self.trainer["pert_tps"] or self.times) if "tgt" in self.sites else []
        self.src_ids, self.tgt_ids = [u.token[g] for g in genes], [g + 4 for g in genes]
        self.condition_ids = [i for values in u.condition.values() for i in values.values()]

    def cells(self) -> list[int]:
        everyone = list(range(self.u.recipe.n_cells))
        column, allowed = self.data["filter_var"], [str(v) for v in self.data["filter_cond"] or ()]
        kept = [c for c in everyone if column and any(str(o[column][c]) in allowed for o in self.u.obs.values())]
        return kept or everyone

    def is_kept(self, cell: int) -> bool:
        in_src = "src" in self.sites and set(self.src_ids) & set(collate(self.u, 0, cell))
        in_tgt = any(set(self.tgt_ids) & set(collate(self.u, t, cell)) for t in self.edited)
        return self.mode == "overexpress" or bool(in_src or in_tgt)

    def rows(self, cell: int, perturbed: bool) -> tuple[list[int], dict[int, list[int]]]:
        source, target = collate(self.u, 0, cell), {t: collate(self.u, t, cell) for t in self.times}
        if perturbed and "src" in self.sites:
            source = edit(source, self.src_ids, self.mode, "src")
        if self.trainer["exclude_src"]:
            source = [0] * len(source)
        for t in self.times:
            if perturbed and t in self.edited:
                target[t] = edit(target[t], self.tgt_ids, self.mode, "tgt")
            front = [self.u.condition[c][str(self.u.obs[t][c][cell])] for c in self.data["cond_list"] or ()]
            target[t] = [0 if self.trainer["pad_condition"] else i for i in front] + target[t]
        return source, target

    @torch.no_grad()
    def run(self, cell: int, perturbed: bool) -> dict[int, dict[str, Any]]:
        source, target = self.rows(cell, perturbed)
        tensors = {t: torch.tensor([row]) for t, row in target.items()}
        hidden = self.u.model.predict(torch.tensor([source]), tensors, self.pred, self.context, self.in_context)
        never = {0, 1, 2, 3, *self.condition_ids, *(self.tgt_ids if perturbed and "tgt" in self.sites else ())}
        found = {}
        for t in self.pred:
            counted = [j for j, x in enumerate(target[t]) if x not in never]
            if counted:
                pooled = hidden[t][0, counted].mean(0)
                n = len(self.data["cond_list"] or ())
                found[t] = {"ids": target[t][n:], "hidden": hidden[t][0, n:], "cls": pooled}
                if self.trainer["use_count_decoder"]:
                    found[t]["values"] = self.values(pooled, float(self.u.counts[t][cell].sum()))
        return found

    def values(self, pooled: torch.Tensor, total: float) -> np.ndarray:
        out = self.u.model.count_decoder(pooled[None])
        value = out.head_BG[0] * (1 if self.trainer["loss_mode"] == "mse" else total)
        if self.trainer["n_samples"] > 1 and out.dropout_logit_BG is not None:
            value = value * (1 - torch.sigmoid(out.dropout_logit_BG[0]))
        return value.numpy()

    def gene_cosine(self, before: dict[str, Any], after: dict[str, Any]) -> np.ndarray:
        out = np.zeros(self.u.recipe.n_genes)
        moves = self.mode in ("delete", "overexpress") and "tgt" in self.sites
        for j, x in enumerate(after["ids"]):
            is_inserted = self.mode == "overexpress" and moves and j < len(self.genes)
            if x > 3 and not is_inserted:
                i = before["ids"].index(x) if moves else j
                out[x - 4] = float(F.cosine_similarity(before["hidden"][i], after["hidden"][j], dim=0))
        return out

    def lines(self) -> list[dict[str, Any]]:
        cells, lines = self.cells(), []
        kept = [c for c in cells if self.is_kept(c)]
        runs = {c: (self.run(c, False), self.run(c, True)) for c in kept}
        for batch in (cells[i : i + self.batch_size] for i in range(0, len(cells), self.batch_size)):
            for t in self.pred:
                for c in (c for c in batch if c in runs and t in runs[c][0] and t in runs[c][1]):
                    before, after = (run[t] for run in runs[c])
                    cosine = F.cosine_similarity(before["cls"], after["cls"], dim=0).reshape(1).numpy()
                    line = {"true_cls": before["cls"].numpy(), "perturbed_cls": after["cls"].numpy()}
                    line |= {"mean_cos_similarity": cosine, "gene_cos_similarity": self.gene_cosine(before, after)}
                    if self.trainer["use_count_decoder"]:
                        true = self.u.counts[t][c]
                        true = np.log1p(true / true.sum() * 1e4) if self.trainer["loss_mode"] == "mse" else true
                        line |= {"X": after["values"], "pred_counts": before["values"], "true_counts": true}
                    obs = {k: str(self.u.obs[t][k][c]) for k in self.trainer["var_list"] or ()}
                    lines.append({**line, "obs": {**obs, "cell_idx": self.u.cell_index[t][c], "time": t}})
        return lines

    def output(self) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
        """(arrays, obs): lines of the same cell_idx averaged, at the place and with the metadata of the first."""
        groups: dict[int, list[dict[str, Any]]] = {}
        for line in self.lines():
            groups.setdefault(line["obs"]["cell_idx"], []).append(line)
        names = [k for k in next(iter(groups.values()))[0] if k != "obs"]
        arrays = {k: np.stack([np.mean([x[k] for x in g], axis=0) for g in groups.values()]) for k in names}
        return arrays, [g[0]["obs"] for g in groups.values()]


def run_and_export(yaml: Path, out: Path, *flags: str) -> ad.AnnData:
    """The h5ad that two commands write."""
    assert main(["run", str(yaml), "--out", str(out), *flags]) == 0
    assert main(["export", str(out), "--h5ad", str(out / "out.h5ad")]) == 0
    written = out / "predictions.h5ad"
    assert written.is_file() == ("trainer" in yaml.read_text())
    if written.is_file():
        assert_same_anndata(ad.read_h5ad(written), ad.read_h5ad(out / "out.h5ad"))
    return ad.read_h5ad(out / "out.h5ad")


def arrays_of(adata: ad.AnnData) -> dict[str, np.ndarray]:
    """Every array by name, cells first."""
    found = {**dict(adata.layers), **dict(adata.obsm)} | ({} if adata.X is None else {"X": adata.X})
    return found | {k: v.T for k, v in adata.varm.items()}


def assert_same(adata: ad.AnnData, naive: Naive) -> None:
    """Same rows in the same order, same keys, shapes and metadata, same numbers to 1e-4 of each array's scale."""
    expected, obs = naive.output()
    assert len(obs) > 2 and scale_error(expected["perturbed_cls"], expected["true_cls"]) > 10 * SCALE_TOLERANCE
    ours = arrays_of(adata)
    assert sorted(ours) == sorted(expected)
    assert list(adata.var_names) == list(naive.u.names)
    assert list(adata.obs.columns[: len(obs[0])]) == list(obs[0])
    assert all(adata.obs[column].tolist() == [line[column] for line in obs] for column in obs[0])
    errors = {k: scale_error(ours[k], v) for k, v in expected.items()}
    assert max(errors.values()) <= SCALE_TOLERANCE, errors


@dataclass(frozen=True)
class Case:
    """A run of upstream's YAML: what the files hold, what the YAML changes, gene columns to perturb."""

    recipe: Recipe
    changes: Mapping[str, Any] = field(default_factory=dict)
    genes: tuple[int, ...] = (5,)
    prepare: Callable[[Upstream], object] = lambda u: None
    flags: tuple[str, ...] = ()


def trainer(**keys: Any) -> dict[str, Any]:
    return {f"trainer.{k}": v for k, v in keys.items()}


def at(site: str, mode: str, *times: int) -> dict[str, Any]:
    return trainer(perturbation_mode=mode, perturbation_sequence=site.split("+"), pert_tps=list(times) or None)


def bare(u: Upstream) -> None:
    torch.save(u.state_dict(), u.folder / "bare.bin")


def own_encoder(u: Upstream) -> None:
    u.write_checkpoint({k: v for k, v in u.state_dict().items() if "encoder_layers" not in k}, "no_encoder.ckpt")
    torch.save({"state_dict": u.encoder_state(nested=True)}, u.folder / "nested.ckpt")


def masking_stage(u: Upstream) -> None:
    state = {k: v for k, v in u.state_dict().items() if k.startswith("pretrained_model.")}
    u.write_checkpoint({k.replace("pretrained_model.", "transformer."): v for k, v in state.items()}, "masking.ckpt")


def compiled(u: Upstream) -> None:
    state = {k.replace("decoder_block.", "_orig_mod.decoder_block."): v for k, v in u.state_dict().items()}
    torch.save({"module": {**state, "onehot": torch.ones(1)}, "hyper_parameters": dict(u.hyper)}, u.folder / "c.ckpt")


def clusters(u: Upstream) -> None:
    lines = [f"{GENE[g]},7,{cluster}" for g, cluster in ((4, 0), (6, 3), (8, 1), (9, 3), (10, 13))]
    (u.folder / "clusters.csv").write_text("\n".join(["gene,score,cluster", *lines]))


PLAIN = Recipe()
CONDITIONS = Recipe(seed=1, cond_list=("cell_type", "donor"))
UNLISTED = Recipe(seed=2, cond_list=("tissue", "cell_type"), has_condition_dict=False)
COMBINED = Recipe(loss_mode="nb", position_mode="comb_sin")
SHARDS = Recipe(seed=7, n_shards=3, has_symbols=True, has_numpy_ints=True)
REPEATS = Recipe(seed=5, repeats_cells=True)
CUT = trainer(tgt_vocab_size=23, max_seq_length=9)
TORCH = Recipe(seed=3, encoder="Transformer_encoder")
MODEL = "model.ckpt_masking_path"
IN_CONTEXT = trainer(context_mode=True)
CONTEXTS = trainer(context_tps=[3, 1], pred_tps=[2])
NESTED = {MODEL: "no_encoder.ckpt"} | trainer(encoder_path="nested.ckpt")
LOADED_ONLY = trainer(context_tps=DROP) | {"datamodule.context_tps": [3]}
BY_TYPE = {"data.filter_var": "cell_type"}
CLUSTERS = {
    "data.perturb_genes_file": "clusters.csv",
    "data.perturb_colname": "cluster",
    "data.perturb_cluster": [3, 0],
}

CASES = {
    "mask src": Case(PLAIN),
    "pad src, in context": Case(PLAIN, at("src", "pad") | IN_CONTEXT),
    "delete two genes src": Case(PLAIN, at("src", "delete"), (5, 8)),
    "overexpress src": Case(PLAIN, at("src", "overexpress"), (9, LONELY)),
    "mask tgt, in context": Case(PLAIN, at("tgt", "mask", 1) | IN_CONTEXT),
    "pad tgt": Case(PLAIN, at("tgt", "pad", 1, 2)),
    "delete tgt, times reversed": Case(PLAIN, at("tgt", "delete", 2) | IN_CONTEXT | trainer(pred_tps=[2, 1])),
    "overexpress three tgt": Case(PLAIN, at("tgt", "overexpress", 1), (9, 3, 14)),
    "overexpress tgt everywhere": Case(PLAIN, at("tgt", "overexpress") | IN_CONTEXT | CONTEXTS),
    "mask both": Case(PLAIN, at("src+tgt", "mask", 2) | IN_CONTEXT),
    "delete both, other contexts": Case(PLAIN, at("src+tgt", "delete", 1) | IN_CONTEXT | trainer(context_tps=[1, 3])),
    "overexpress both": Case(PLAIN, at("src+tgt", "overexpress", 1), (7, 2)),
    "pad both": Case(PLAIN, at("src+tgt", "pad", 1, 2), (3, 11)),
    "contexts without context mode": Case(PLAIN, trainer(context_tps=[3])),
    "contexts that are only loaded": Case(PLAIN, IN_CONTEXT | LOADED_ONLY),
    "no source": Case(PLAIN, at("tgt", "delete", 1) | IN_CONTEXT | trainer(exclude_src=True)),
    "site as a word": Case(PLAIN, trainer(perturbation_sequence="src")),
    "no counts": Case(PLAIN, at("tgt", "mask", 1) | trainer(use_count_decoder=False)),
    "average of draws": Case(PLAIN, at("src", "delete") | trainer(n_samples=3)),
    "filter": Case(Recipe(n_cells=17), BY_TYPE | {"data.filter_cond": ["A"]}),
    "filter that matches nothing": Case(PLAIN, BY_TYPE | {"data.filter_cond": ["Z"]}),
    "filter by a number": Case(Recipe(n_cells=17), {"data.filter_var": "donor", "data.filter_cond": [2]}),
    "clusters of genes": Case(PLAIN, CLUSTERS | trainer(genes_to_perturb=[GENE[1]]), (4, 6, 9), clusters),
    "nb": Case(Recipe(loss_mode="nb", position_mode="sin_learnt"), at("src+tgt", "delete", 1) | IN_CONTEXT),
    "mse": Case(Recipe(loss_mode="mse", position_mode="time_pos_learnt"), at("src", "delete")),
    "combined sinusoids": Case(COMBINED, IN_CONTEXT),
    "combined sinusoids in a .bin": Case(COMBINED, {MODEL: "bare.bin"}, prepare=bare),
    "softplus": Case(Recipe(softplus=True), at("src", "delete") | trainer(use_size_factor=False)),
    "predicted size factor": Case(Recipe(predicts_size_factor=True), trainer(use_observed_size_factor=False)),
    "listed conditions": Case(CONDITIONS, IN_CONTEXT),
    "listed conditions, tgt": Case(CONDITIONS, at("tgt", "overexpress", 1), (4, 12)),
    "padded conditions": Case(CONDITIONS, at("tgt", "delete", 1, 2) | trainer(pad_condition=True)),
    "numbered conditions": Case(UNLISTED, at("src", "delete") | IN_CONTEXT),
    # numbering after the filter shifts every id: the removed cells were there when the model was trained
    "numbered conditions of all cells": Case(UNLISTED, BY_TYPE | {"data.filter_cond": list("ABC")}),
    # the first condition id is then a gene's id too, as the checkpoint was trained
    "upstream's slip": Case(Recipe(seed=4, cond_list=("tissue",), has_condition_dict=False, slips=True)),
    "Transformer_encoder src": Case(TORCH, at("src", "delete")),
    "Transformer_encoder both": Case(TORCH, at("src+tgt", "mask", 1) | IN_CONTEXT),
    "own encoder file": Case(PLAIN, {MODEL: "no_encoder.ckpt"}, prepare=own_encoder),
    "nested encoder file": Case(PLAIN, NESTED, prepare=own_encoder),
    "masking stage": Case(PLAIN, {MODEL: "masking.ckpt"} | trainer(use_count_decoder=False), prepare=masking_stage),
    "bare weights": Case(PLAIN, {MODEL: "bare.bin"}, prepare=bare),
    "compiled model": Case(PLAIN, {MODEL: "c.ckpt"}, prepare=compiled),
    "encoder of other heads": Case(Recipe(encoder_heads=2), flags=("--encoder-heads", "2")),
    "heads in the YAML": Case(Recipe(encoder_heads=4), {"model.encoder_num_heads": 4}),
    "repeated cells": Case(REPEATS, at("tgt", "delete", 1) | trainer(var_list=["tissue", "cell_type"])),
    "cut rows": Case(Recipe(seed=6, max_len=9), CUT | at("tgt", "overexpress", 1)),
    "shards, numpy ints, symbols": Case(SHARDS, {}, (5, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", some_long(CASES, every=4))
def test_a_run_and_its_export_equal_the_naive_reading(name: str, files: Any, tmp_path: Path) -> None:
    case = CASES[name]
    u = files(case.recipe)
    case.prepare(u)
    raw = u.request(trainer(genes_to_perturb=[u.names[g] for g in case.genes]) | dict(case.changes))
    adata = run_and_export(u.write_yaml(raw, f"{tmp_path.name}.yaml"), tmp_path, *case.flags)
    assert_same(adata, Naive(u, raw, list(case.genes)))


@pytest.mark.parametrize("name", ["src_delete", "tgt_overexpress", "cond_src_delete"])
def test_a_golden_run_equals_upstreams_own_output(name: str, tmp_path: Path) -> None:
    text = (GOLDEN / "e2e" / f"{name}.yaml").read_text()
    config = tmp_path / f"{name}.yaml"
    config.write_text(text.replace("@GOLDEN@", str(GOLDEN)).replace("@OUT@", str(tmp_path)))
    ours = run_and_export(config, tmp_path / "out", "--encoder-heads", "2")
    upstream = ad.read_h5ad(GOLDEN / "e2e" / f"out_{name}.h5ad")
    assert ours.var_names.equals(upstream.var_names)
    assert ours.obs[list(upstream.obs.columns)].astype(str).equals(upstream.obs.astype(str))
    found, expected = arrays_of(ours), arrays_of(upstream)
    assert sorted(found) == sorted(expected)
    for key, reference in expected.items():
        ulp = np.spacing(np.abs(reference)) if reference.dtype == np.float16 else 0
        error = np.abs(found[key].astype(float) - reference.astype(float))
        assert (error <= ulp + 1e-5 * np.abs(reference).max()).all(), key


def test_the_checkpoints_of_these_tests_have_upstreams_keys(files: Any) -> None:
    ours, theirs = files(PLAIN).state_dict(), golden("weights_zinb")
    blocks = re.compile(r"block\.\d+")
    assert {blocks.sub("block.N", name) for name in ours} == {blocks.sub("block.N", name) for name in theirs}


def test_symbols_and_ensembl_ids_name_the_same_genes(files: Any, tmp_path: Path) -> None:
    u = files(SHARDS)
    outputs = []
    for i, name in enumerate((u.names[5], u.names[5].lower(), GENE[5], GENE[5] + ".3")):
        yaml = u.write_yaml(u.request(trainer(genes_to_perturb=[name])), f"symbol{i}.yaml")
        outputs.append(run_and_export(yaml, tmp_path / str(i)))
    assert outputs[0].obs["target_gene"].unique().tolist() == [u.names[5]]
    assert all(np.array_equal(other.X, outputs[0].X) for other in outputs)


def test_an_unknown_gene_is_refused_with_the_nearest_names(files: Any, capsys: Any) -> None:
    u = files(PLAIN)
    config = u.write_yaml(u.request(trainer(genes_to_perturb=[GENE[3], GENE[5][:-1] + "6"])), "unknown.yaml")
    message = refusal(capsys, config)
    assert f'unknown gene "{GENE[5][:-1]}6"' in message and f'"{GENE[5]}"' in message
    assert f'unknown gene "{GENE[3]}"' not in message


def test_every_key_without_effect_is_said_to_have_none(files: Any, capsys: Any) -> None:
    u = files(PLAIN)
    idle = [f"{section}.{key}" for section, keys in NO_EFFECT.items() for key in keys.split()]
    assert {"trainer.temperature", "trainer.iterations", "data.src_adata", "datamodule.max_len"} <= set(idle)
    assert main(["plan", str(u.write_yaml(u.request(dict.fromkeys(idle, 1)), "idle.yaml"))]) == 0
    said = capsys.readouterr().err
    assert [key for key in idle if key not in said] == []


def test_a_second_run_says_complete_and_computes_nothing(files: Any, tmp_path: Path, capsys: Any) -> None:
    u = files(PLAIN)
    config = u.write_yaml(u.request(), "twice.yaml")
    assert main(["run", str(config), "--out", str(tmp_path)]) == 0
    before = snapshot(tmp_path)
    assert any(name.endswith("library/0/commits/c.0") for name in before)
    assert main(["run", str(config), "--out", str(tmp_path)]) == 0
    assert "is complete" in capsys.readouterr().out
    assert snapshot(tmp_path) == before


OTHER_SCREENS = {"library": at("src", "delete"), "cells": BY_TYPE | {"data.filter_cond": ["A"]}}
OTHER_SCREENS |= {"model": trainer(context_mode=True), "layout": trainer(pred_tps=[1])}


@pytest.mark.parametrize("what", OTHER_SCREENS)
def test_another_screen_in_the_directory_is_named(what: str, files: Any, tmp_path: Path, capsys: Any) -> None:
    u = files(Recipe(n_cells=17))
    assert main(["run", str(u.write_yaml(u.request(), "one.yaml")), "--out", str(tmp_path)]) == 0
    before = snapshot(tmp_path)
    other = u.write_yaml(u.request(OTHER_SCREENS[what]), "other.yaml")
    assert main(["run", str(other), "--out", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert re.search(rf"holds another {what}|holds another screen:[^#]*\n  {what}\S*: .* in the store, .* now", message)
    assert snapshot(tmp_path) == before


def test_the_command_runs_from_anywhere_with_paths_beside_the_yaml(files: Any, tmp_path: Path) -> None:
    u = files(PLAIN).copy_to(tmp_path / "copy")
    (elsewhere := tmp_path / "elsewhere").mkdir()

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).parent / "perturbscreen", *arguments]
        return subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)

    assert call("run", "../copy/perturbation.yaml").returncode == 0
    exported = call("export", "../copy/out", "--h5ad", "here.h5ad")
    assert exported.returncode == 0 and [p.name for p in elsewhere.iterdir()] == ["here.h5ad"]
    assert_same(ad.read_h5ad(elsewhere / "here.h5ad"), Naive(u, u.request(), [5]))
    refused = call("run", "../copy/perturbations.yaml")
    assert refused.returncode == 2 and "perturbations.yaml" in refused.stderr and "Traceback" not in refused.stderr
