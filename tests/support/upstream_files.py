"""Tiny, complete sets of upstream's files, drawn from a seed: datasets, h5ad, pickles, checkpoints, YAML."""

import copy
import pickle
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata as ad
import datasets
import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from screen.cli.main import main
from screen.models.perturbgen.network.model import PerturbGen
from screen.models.perturbgen.network.sizes import EncoderSizes, Sizes

datasets.disable_progress_bars()

DROP = object()
"""As a value of `changes`: the key is left out of the YAML."""
LONELY = 0
"""The gene (column) that no cell expresses."""
CLS, EOS = 2, 3
TIME_NAMES = {1: "1_six", 2: "2_ten", 3: "3_late"}
SPECIALS = {0: "<pad>", 1: "<mask>", 2: "<cls>", 3: "<eos>"}


@dataclass(frozen=True)
class Recipe:
    """What the files hold; everything else follows from `seed`.

    max_len      what the checkpoint was trained with; None: the longest row, as upstream derives it
    cond_list    columns of condition tokens; has_condition_dict: the checkpoint lists their ids, in an order of its own
    slips        upstream's slip: the first condition id is below the highest gene id
    """

    seed: int = 0
    loss_mode: str = "zinb"
    encoder: str = "scmaskgit"
    encoder_heads: int = 8
    position_mode: str = "time_pos_sin"
    n_cells: int = 11
    n_genes: int = 19
    longest: int = 14
    max_len: int | None = None
    cond_list: tuple[str, ...] = ()
    has_condition_dict: bool = True
    slips: bool = False
    has_symbols: bool = False
    has_numpy_ints: bool = False
    n_shards: int = 1
    repeats_cells: bool = False
    softplus: bool = False
    predicts_size_factor: bool = False


@dataclass(frozen=True)
class Upstream:
    """A folder of upstream's files and what is in them. State 0 is the source, 1 to 3 are time points.

    rows       state -> `input_ids` of every cell as stored, <cls> and <eos> included
    obs        state -> column -> values; cell_index: state -> `cell_pairing_index`
    condition  column -> value -> token id
    """

    folder: Path
    recipe: Recipe
    model: PerturbGen
    rows: Mapping[int, list[list[int]]]
    obs: Mapping[int, dict[str, list[Any]]]
    cell_index: Mapping[int, list[int]]
    counts: Mapping[int, NDArray[np.float32]]
    names: Sequence[str]
    token: Sequence[int]
    condition: Mapping[str, dict[str, int]]
    hyper: Mapping[str, Any]

    def request(self, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Upstream's YAML with every key it knows; `changes` maps 'section.key' to a value, or to DROP."""
        sizes, recipe = self.model.sizes, self.recipe
        raw: dict[str, Any] = {
            "data": {
                "src_dataset_file": "source/t0.dataset", "tgt_dataset_folder": "targets", "tgt_adata_folder": "h5ad",
                "src_adata": "source/t0.h5ad", "cond_list": list(recipe.cond_list) or None, "condition_keys": None,
                "conditions": None, "conditions_combined": None, "filter_var": None, "filter_cond": None,
                "perturb_genes_file": None, "perturb_cluster": None, "perturb_colname": None,
            },
            "trainer": {
                "genes_to_perturb": [self.names[5]], "mapping_dict_path": "token_id_to_genename_19_hvg.pkl",
                "tokenid_to_rowid_path": "tokenid_to_rowid_19_hvg.pkl", "output_dir": "out", "perturbation_mode": "mask",
                "perturbation_sequence": ["src"], "validation_mode": "inference", "d_model": sizes.width,
                "num_heads": sizes.n_heads, "num_layers": sizes.n_blocks, "d_ff": sizes.head_width, "dropout": 0.1,
                "pred_tps": [1, 2], "encoder": recipe.encoder, "encoder_path": "encoder.ckpt", "mask_scheduler": "pow",
                "pos_encoding_mode": recipe.position_mode, "context_mode": False, "loss_mode": recipe.loss_mode,
                "pert_tps": None, "context_tps": None, "exclude_src": False, "pad_condition": False, "precision": "medium",
                "use_count_decoder": True, "n_samples": 1, "use_size_factor": not recipe.softplus, "generate": False,
                "use_observed_size_factor": True, "var_list": ["cell_type"], "tgt_vocab_size": None, "seed": 42,
                "max_seq_length": None, "temperature": 2, "iterations": 18, "use_positional_encoding": False,
                "layer_norm": False, "batch_size": 3,
            },
            "datamodule": {
                "batch_size": 4, "num_workers": 8, "shuffle": False, "split": False, "use_weighted_sampler": False,
                "context_tps": None, "var_list": ["cell_type", "tissue"], "max_len": 4096,
            },
            "model": {"ckpt_masking_path": "count.ckpt", "precision": 16},
        }  # fmt: skip
        raw = _changed(raw, changes or {})
        raw["datamodule"].setdefault("pred_tps", copy.copy(raw["trainer"].get("pred_tps")))
        return raw

    def own_request(self, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The same files in a YAML of our own format: two genes, one by one."""
        raw: dict[str, Any] = {
            "model": {
                "checkpoint": "count.ckpt", "mapping_dict_path": "token_id_to_genename_19_hvg.pkl",
                "tokenid_to_rowid_path": "tokenid_to_rowid_19_hvg.pkl",
            },
            "cells": {
                "src_dataset_file": "source/t0.dataset", "tgt_dataset_folder": "targets", "tgt_adata_folder": "h5ad",
            },
            "library": {"genes": [self.names[5], self.names[6]], "modes": ["delete"]},
            "predict": {"pred_tps": [1, 2]},
            "output": {"keep_embeddings": True, "keep_gene_cosine": True},
        }  # fmt: skip
        return _changed(raw, changes or {})

    def write_yaml(self, raw: Any, name: str = "perturbation.yaml") -> Path:
        """Writes a YAML file beside the data, where its relative paths start."""
        path = self.folder / name
        path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw, sort_keys=False))
        return path

    def copy_to(self, folder: Path) -> "Upstream":
        """The same files elsewhere, free to be damaged."""
        shutil.copytree(self.folder, folder)
        return replace(self, folder=folder)

    def state_dict(self) -> dict[str, Tensor]:
        """The count checkpoint's tensors under upstream's keys, the dead and the double ones included."""
        own = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        inner = {k: v for k, v in own.items() if not k.startswith(("count_decoder.", "theta"))}
        sizes, draw = self.model.sizes, torch.Generator().manual_seed(7)
        inner |= _position_extras("pos_embedding.", sizes.position_mode, inner)
        inner["decoder_fc.weight"] = torch.randn(sizes.n_tokens, sizes.width, generator=draw)
        inner["decoder_fc.bias"] = torch.randn(sizes.n_tokens, generator=draw)
        if sizes.encoder.kind == "scmaskgit":
            inner |= _dead_encoder_weights(inner, sizes.encoder, draw)
        else:
            inner |= _position_extras("encoder_layers.pos_embedding.", sizes.position_mode, inner)
        state = {f"{p}pretrained_model.{k}": v for p in ("", "decoder.") for k, v in inner.items()}
        state |= {f"decoder.{k}": v for k, v in own.items() if k.startswith("count_decoder.")}
        return state | ({"theta": own["theta"]} if "theta" in own else {})

    def encoder_state(self, nested: bool) -> dict[str, Tensor]:
        """A stand-alone encoder file's tensors: `transformer.*`, or nested as inside a masking-stage model."""
        below = "decoder.pretrained_model.encoder_layers.model."
        prefix = "transformer.encoder_layers.model." if nested else "transformer."
        return {prefix + k.removeprefix(below): v for k, v in self.state_dict().items() if k.startswith(below)}

    def write_checkpoint(self, state: Mapping[str, Any] | None = None, path: str = "count.ckpt", **hyper: Any) -> Path:
        """A Lightning-like checkpoint; `hyper` are changed hyper-parameters."""
        content = {
            "epoch": 3, "global_step": 17, "pytorch-lightning_version": "2.6.6", "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {}, "optimizer_states": [], "lr_schedulers": [], "hparams_name": "kwargs",
            "state_dict": self.state_dict() if state is None else dict(state),
            "hyper_parameters": {**self.hyper, **hyper},
        }  # fmt: skip
        torch.save(content, self.folder / path)
        return self.folder / path

    def write_dataset(self, state: int, columns: Mapping[str, Any] | None = None) -> Path:
        """One state's dataset folder, written with the real library; `columns` replace what it holds."""
        path = self.folder / ("source/t0.dataset" if state == 0 else f"targets/{TIME_NAMES[state]}.dataset")
        shutil.rmtree(path, ignore_errors=True)
        rows = self.rows[state]
        content = {"input_ids": rows, "length": [len(r) for r in rows], "cell_pairing_index": self.cell_index[state]}
        table = datasets.Dataset.from_dict({**content, **self.obs[state], **(columns or {})})
        table.save_to_disk(path, num_shards=self.recipe.n_shards)
        return path

    def write_h5ad(self, state: int, counts: Any = None, genes: Sequence[int] | None = None) -> Path:
        """One state's h5ad; `counts` replace its X, `genes` the order of its columns."""
        path = self.folder / ("source/t0.h5ad" if state == 0 else f"h5ad/{TIME_NAMES[state]}.h5ad")
        genes = list(range(len(self.names))) if genes is None else list(genes)
        ids = ensembl_ids(len(self.names))
        var: dict[str, list[Any]] = {"gene_name": [self.names[g] for g in genes], "ensembl_id": [ids[g] for g in genes]}
        var |= {"token_id": [self.token[g] for g in genes], "row_id": [g + 4 for g in genes]}
        x = sparse.csr_matrix(self.counts[state][:, genes]) if counts is None else counts
        obs = pd.DataFrame({"batch": ["x", "y"] * len(self.rows[state])})[: len(self.rows[state])]
        obs["cell_pairing_index"] = self.cell_index[state]
        index = [ids[g] for g in genes]
        ad.AnnData(x, obs=obs.rename(index=str), var=pd.DataFrame(var, index=index)).write_h5ad(path)
        return path

    def write_maps(self, genes: Sequence[int] | None = None, without_token: Sequence[int] = ()) -> None:
        """Both pickled maps; `genes` changes the order of the names, `without_token` have no source token."""
        number = np.int64 if self.recipe.has_numpy_ints else int
        order = list(range(len(self.names))) if genes is None else list(genes)
        names = {number(j + 4): self.names[g] for j, g in enumerate(order)}
        tokens = {t: number(g + 4) for g, t in enumerate(self.token) if g not in without_token}
        for name, content in (
            ("token_id_to_genename_19_hvg.pkl", names | SPECIALS),
            ("tokenid_to_rowid_19_hvg.pkl", {**{s: s for s in SPECIALS}, **tokens}),
        ):
            (self.folder / name).write_bytes(pickle.dumps(content))


def refusal(capsys: Any, yaml_path: Path, *flags: str) -> str:
    """What `run` says when it must refuse: exit code 2, one paragraph, no traceback, nothing written or touched."""
    folder, before = yaml_path.parent, snapshot(yaml_path.parent)
    capsys.readouterr()
    code = main(["run", str(yaml_path), "--out", str(folder / "refused"), *flags])
    said = capsys.readouterr()
    assert code == 2, f"exit code {code}: {said.err}"
    assert "Traceback" not in said.out + said.err
    assert snapshot(folder) == before
    message = said.err[said.err.index("error: ") :].strip()
    assert "\n\n" not in message
    return message


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Name -> (time of change, size) of everything below a folder."""
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


def _changed(raw: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    raw = {section: dict(keys) for section, keys in raw.items()}
    for place, value in changes.items():
        section, _, key = place.partition(".")
        raw.setdefault(section, {})[key] = value
    kept = {s: {k: v for k, v in keys.items() if v is not DROP} for s, keys in raw.items()}
    return copy.deepcopy(kept)


def _position_extras(prefix: str, mode: str, have: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The buffers that upstream stores beside those in use."""
    copied = {"time_pos_sin": "pos_pe", "sin_learnt": "time_pe"}
    extra = {f"{prefix}pe": have[prefix + copied[mode]].clone()} if mode in copied else {}
    for name, table in (("pos_ids", "pos_encoding.weight"), ("time_pos_ids", "time_encoding.weight")):
        if prefix + table in have:
            extra[prefix + name] = torch.arange(len(have[prefix + table]))[None]
    return extra


def _dead_encoder_weights(have: Mapping[str, Tensor], sizes: EncoderSizes, draw: torch.Generator) -> dict[str, Tensor]:
    """The blocks whose output upstream throws away, its token head, its second position table."""
    prefix = "encoder_layers.model."
    last = f"{prefix}decoder_block.{sizes.n_blocks - 1}."
    dead = {
        k.replace(last, f"{prefix}decoder_block.{i}."): 5 * torch.randn(v.shape, generator=draw)
        for i in range(sizes.n_blocks - 1)
        for k, v in have.items()
        if k.startswith(last)
    }
    n_logits = sizes.n_tokens - sizes.n_times
    dead[f"{prefix}decoder_fc.weight"] = torch.randn(n_logits, sizes.width, generator=draw)
    dead[f"{prefix}decoder_fc.bias"] = torch.randn(n_logits, generator=draw)
    return dead | {f"{prefix}pos_embedding.pe": have[f"{prefix}pos_embedding.pos_pe"].clone()}


def ensembl_ids(n_genes: int) -> list[str]:
    """One per gene column."""
    return [f"ENSG{200_000 + 7 * g:011d}" for g in range(n_genes)]


def lexicographic_base(rows: Mapping[int, list[list[int]]]) -> int:
    """Upstream's first free target id: 1 + highest id of the lexicographically largest target row."""
    return 1 + max(max(row for t in rows if t for row in rows[t]))


def _draw_rows(recipe: Recipe, rng: np.random.Generator, ids: Sequence[int], others: Sequence[int]) -> list[list[int]]:
    """<cls>, ids of a random choice of genes (never LONELY) and of a few others, <eos>."""
    rows = []
    for cell in range(recipe.n_cells):
        shortest = 1 if cell % 4 == 0 else recipe.longest // 2
        n = recipe.longest - 2 if cell == 3 else int(rng.integers(shortest, recipe.longest - 1))
        pool = [*(ids[g] for g in range(LONELY + 1, recipe.n_genes)), *others]
        rows.append([CLS, *(int(x) for x in rng.permutation(pool)[:n]), EOS])
    return rows


def _place_highest(rows: list[list[int]], highest: int, slips: bool) -> None:
    """Puts the highest id first in one row; or, for the slip, behind the second highest in no row that starts with it."""
    for row in rows:
        if highest in row:
            row.remove(highest)
    rows[0][1:2] = [highest - 1 if slips else highest]
    rows[1].insert(2, highest)
    for row in rows:
        row[1:-1] = list(dict.fromkeys(row[1:-1]))


def _conditions(recipe: Recipe, obs: Mapping[int, dict[str, list[Any]]], first: int) -> dict[str, dict[str, int]]:
    """Ids as upstream numbers them, or, where the checkpoint lists them, backwards and with a value no cell has."""
    table: dict[str, dict[str, int]] = {}
    for column in recipe.cond_list:
        values = list(dict.fromkeys(str(v) for s in sorted(obs) for v in obs[s][column]))
        values = [*values[::-1], "elsewhere"] if recipe.has_condition_dict else values
        table[column] = {v: first + i for i, v in enumerate(values)}
        first += len(values)
    return table


def _sizes(recipe: Recipe, max_len: int, n_tokens: int) -> Sizes:
    is_scmaskgit = recipe.encoder == "scmaskgit"
    encoder = (
        EncoderSizes("scmaskgit", 4 * recipe.n_genes + 3, 16, recipe.encoder_heads, 2, 3, max_len + 120, 3, 16)
        if is_scmaskgit
        else EncoderSizes("Transformer_encoder", n_tokens, 16, 4, 4, 6, max_len + 100, 4, 512, chained=True)
    )
    return Sizes(
        encoder, n_tokens, 16, 2, 6, 2, max_len + 100, 3, recipe.n_genes, recipe.position_mode, recipe.loss_mode,
        0 if recipe.loss_mode == "mse" else 2, "softplus" if recipe.softplus else "softmax", recipe.predicts_size_factor,
    )  # fmt: skip


def _random_model(sizes: Sizes, seed: int) -> PerturbGen:
    """Every parameter random and of a size that makes attention, gains and biases matter; the tables stay as they are."""
    model, draw = PerturbGen(sizes), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            scale = 0.3 if p.ndim < 2 else 1.0 if "embedding" in name or "encoding" in name else 2 / p.shape[1] ** 0.5
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            p.copy_(centre + scale * torch.randn(p.shape, generator=draw))
    return model.eval().requires_grad_(False)


def _hyper_parameters(recipe: Recipe, sizes: Sizes, condition: dict[str, dict[str, int]]) -> dict[str, Any]:
    cells = ad.AnnData(sparse.csr_matrix(np.eye(3, dtype=np.float32)))
    return {
        "tgt_vocab_size": sizes.n_tokens, "d_model": sizes.width, "num_heads": sizes.n_heads, "num_layers": sizes.n_blocks,
        "d_ff": sizes.head_width, "max_seq_length": sizes.n_positions, "loss_mode": recipe.loss_mode, "dropout": 0.1,
        "pred_tps": [1, 2], "context_tps": None, "n_total_tps": 3, "n_genes": recipe.n_genes, "encoder": recipe.encoder,
        "encoder_path": "encoder.ckpt", "pos_encoding_mode": recipe.position_mode, "context_mode": True, "seed": 42,
        "mask_scheduler": "pow", "condition_dict": condition if recipe.has_condition_dict and condition else None,
        "conditions": {"batch": ["x", "y"]}, "conditions_combined": ["x", "y"], "use_size_factor": not recipe.softplus,
        "use_observed_size_factor": not recipe.predicts_size_factor, "lr": 1e-3, "tgt_adata": {1: cells, 2: cells},
    }  # fmt: skip


def write_upstream(folder: Path, recipe: Recipe) -> Upstream:
    """Draws and writes everything a `perturbation.yaml` names, and that file itself."""
    rng = np.random.default_rng(recipe.seed)
    n, g = recipe.n_cells, recipe.n_genes
    row_id = list(range(4, g + 4))
    is_scmaskgit = recipe.encoder == "scmaskgit"
    shuffled = [int(t) for t in 4 + rng.permutation(4 * g - 4)]
    token, others = (shuffled[:g], shuffled[g : g + 4]) if is_scmaskgit else (row_id, [])
    rows = {0: _draw_rows(recipe, rng, token, others)} | {t: _draw_rows(recipe, rng, row_id, []) for t in TIME_NAMES}
    _place_highest(rows[1], g + 3, recipe.slips)
    for t in (2, 3):
        for row in rows[t] if recipe.slips else ():
            row[1:-1] = [x for x in row[1:-1] if x < g + 2] or [10]
    levels: dict[str, list[Any]] = {"cell_type": ["A", "B", "C"], "tissue": ["bm", "sp"], "donor": [1, 2, 3]}
    obs = {s: {k: [v[i] for i in rng.integers(0, len(v), n)] for k, v in levels.items()} for s in (0, *TIME_NAMES)}
    pool = rng.permutation(4000)
    index = {s: [int(v) for v in pool[s * n : (s + 1) * n]] for s in (0, *TIME_NAMES)}
    if recipe.repeats_cells:
        index = {s: [int(v) for v in rng.choice(pool[:5], n)] for s in index}
    counts = {s: np.zeros((n, g), dtype=np.float32) for s in (0, *TIME_NAMES)}
    for s, cells in rows.items():
        column = {x: j for j, x in enumerate(row_id if s else token)}
        for c, row in enumerate(cells):
            for rank, x in enumerate(x for x in row if x in column):
                counts[s][c, column[x]] = 1 + rng.poisson(30 / (rank + 1))
    for values in obs.values() if not recipe.has_condition_dict else ():
        values["tissue"][0], values["cell_type"][0] = "thymus", "D"
    condition = _conditions(recipe, obs, lexicographic_base(rows))
    n_values = sum(map(len, condition.values()))
    max_len = recipe.max_len or max(len(r) for cells in rows.values() for r in cells)
    model = _random_model(_sizes(recipe, max_len, lexicographic_base(rows) + n_values + 50), recipe.seed)
    hyper = _hyper_parameters(recipe, model.sizes, condition)
    names = [f"{chr(65 + j)}BC{j}" for j in range(g)] if recipe.has_symbols else ensembl_ids(g)
    made = Upstream(folder, recipe, model, rows, obs, index, counts, names, token, condition, hyper)
    for name in ("source", "targets", "h5ad"):
        (folder / name).mkdir(parents=True)
    for s in rows:
        made.write_dataset(s)
        made.write_h5ad(s)
    made.write_maps()
    made.write_checkpoint()
    if is_scmaskgit:
        torch.save({"state_dict": made.encoder_state(nested=False)}, folder / "encoder.ckpt")
    made.write_yaml(made.request())
    return made
