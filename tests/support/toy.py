"""A second family of models, as small as one can be: an encoder that reads the source and reads it out, embeddings only.

It shares no layer and no name with the first; it is what keeps the generic rooms generic. docs/extending.md walks
through it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from screen.cells.bank import SOURCE
from screen.cells.h5ad import cells_of_h5ad
from screen.cells.vocabulary import read_tsv
from screen.config.screen_config import ScreenConfig
from screen.models.adapter import ModelAdapter, Rows, Schema
from screen.models.ops import Ops, X
from screen.models.registry import Loaded
from screen.models.unpickle import load_torch
from screen.planning.window import Window

WIDTH, N_HEADS, LONGEST = 12, 3, 40


class Storey(nn.Module):
    """Pre-norm attention, then a feed-forward with its norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.ask, self.offer, self.say, self.gather = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.widen, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.calm, self.settle = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, ops: Ops[X], x: X, keep_BL: Tensor | None) -> X:
        query, key, value = ops.products(ops.norm(x, self.calm), self.ask, self.offer, self.say)
        x = ops.add(x, ops.product(ops.attend(query, key, value, N_HEADS, keep_BL), self.gather))
        return ops.add_norm(x, ops.feed_forward(x, self.widen, self.narrow), self.settle)


class Tower(nn.Module):
    """Words and places, a norm, two storeys."""

    def __init__(self, n_tokens: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(n_tokens, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.doormat, self.storeys = nn.LayerNorm(WIDTH), nn.ModuleList([Storey(), Storey()])

    def forward(self, ops: Ops[X], ids_BL: Tensor, keep_BL: Tensor | None) -> X:
        x = ops.add_position(ops.embed(ids_BL, self.words.weight), lambda n: self.places.weight[:n])
        x = ops.norm(x, self.doormat)
        for number, storey in enumerate(self.storeys):
            x = storey(ops.within(number), x, keep_BL)
        return x


@dataclass(frozen=True)
class TowerAdapter(ModelAdapter):
    """The tower with the settings of one screen."""

    model: Tower

    @property
    def schema(self) -> Schema:
        return Schema(n_genes=0, width=WIDTH, expression_scale=None)

    @property
    def fingerprint(self) -> str:
        weights = b"".join(w.contiguous().numpy().tobytes() for w in self.model.state_dict().values())
        return hashlib.sha256(weights).hexdigest()

    @property
    def reads_out(self) -> tuple[int, ...]:
        return (SOURCE,)

    def forward(self, ops: Ops[X], rows: Rows) -> dict[int, X]:
        return {SOURCE: self.model(ops, rows.source.ids_BL, rows.source.keep_BL)}


def load(config: ScreenConfig) -> Loaded:
    """Weights, vocabulary, cells: the one function that a family must have."""
    assert config.model.vocabulary is not None
    weights: dict[str, Any] = load_torch(config.model.checkpoint)
    model = Tower(len(weights["words.weight"]))
    model.load_state_dict(weights)
    vocabulary = read_tsv(config.model.vocabulary)
    bank = cells_of_h5ad(config.cells, vocabulary)
    adapter = TowerAdapter(model.eval().requires_grad_(False))
    return Loaded(adapter, vocabulary, bank, Window((SOURCE,), (), LONGEST), conditions={})


def write_checkpoint(path: Path, n_tokens: int, seed: int = 0) -> Path:
    """Random weights, spread so that edits show."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.save(Tower(n_tokens).state_dict(), path)
    return path
