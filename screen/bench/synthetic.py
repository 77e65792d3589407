"""Synthetic screens: random weights and cells at any size, for benchmarks and for trying a machine out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from screen.cells.bank import SOURCE, Ragged, State, TokenBank
from screen.cells.vocabulary import Vocabulary
from screen.config.sections import OutputConfig
from screen.edits import Site
from screen.engine.rows import RowBuilder
from screen.engine.screen import Prepared
from screen.models.perturbgen.adapter import PerturbGenAdapter
from screen.models.perturbgen.network.model import PerturbGen
from screen.models.perturbgen.network.sizes import POSITION_SLOTS, EncoderSizes, Sizes
from screen.planning.index import BankIndex
from screen.planning.layout import Layout
from screen.planning.perturbations import Library, make_library, make_perturbation
from screen.planning.selection import select_items
from screen.planning.window import Window
from screen.run.unit_sizes import planned

FIRST_TOKEN = 4
LOGIT_SPREAD = 2.0
MEDIAN_LENGTH, P5_LENGTH, P95_LENGTH = 350, 150, 700
"""What the rows of peripheral blood cells on 2,000 variable genes look like: log-normal, median, 5 and 95 %."""


@dataclass(frozen=True)
class SyntheticSizes:
    """The published size by default: encoder 12 x 768 with 8 heads of 96, decoder 6 x 768 with 8 heads of 32."""

    width: int = 768
    n_heads: int = 8
    encoder_head_width: int = 96
    head_width: int = 32
    n_encoder_blocks: int = 12
    n_blocks: int = 6
    n_genes: int = 2000
    n_source_tokens: int = 19_003
    max_len: int = 1233
    n_times: int = 1

    def sizes(self) -> Sizes:
        """As a checkpoint would declare them."""
        inner = self.encoder_head_width
        n_positions = max(4096, self.max_len)
        encoder = EncoderSizes(
            "scmaskgit",
            self.n_source_tokens,
            self.width,
            self.n_heads,
            inner,
            self.n_encoder_blocks,
            n_positions,
            3,
            self.width,
        )
        return Sizes(
            encoder, self.n_genes + FIRST_TOKEN + 50, self.width, self.n_heads, self.head_width, self.n_blocks,
            self.max_len + POSITION_SLOTS, self.n_times, self.n_genes, "time_pos_sin", "zinb", 1,
        )  # fmt: skip


def random_model(sizes: Sizes, seed: int = 0) -> PerturbGen:
    """A model with random weights, spread so that genes differ in expression as they do in cells (logits of 2)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PerturbGen(sizes).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("token_embedding.weight"):
                    weight.normal_(0.0, 0.5)
                elif name.endswith("_output.0.weight"):
                    # the count head reads vectors of unit length
                    weight.normal_(0.0, LOGIT_SPREAD)
    return model.requires_grad_(False)


def lengths_like_blood(n: int, rng: np.random.Generator, longest: int) -> NDArray[np.int64]:
    """`n` row lengths, log-normal, cut at `longest`."""
    spread = np.log(P95_LENGTH / P5_LENGTH) / (2 * 1.645)
    drawn = np.exp(rng.normal(np.log(MEDIAN_LENGTH), spread, n))
    return np.clip(drawn, 20, longest).astype(np.int64)


def random_bank(n_cells: int, vocabulary: Vocabulary, n_times: int, max_len: int, seed: int = 0) -> TokenBank:
    """Cells whose genes are drawn by a popularity that falls with the gene's number, each row in an order of its own."""
    rng = np.random.default_rng(seed)
    n_genes = len(vocabulary)
    popularity = rng.gumbel(size=(n_genes,)) * 0.5 + np.linspace(2.0, 0.0, n_genes)
    index = np.arange(n_cells)
    states = {}
    for state in range(n_times + 1):
        length_C = np.minimum(lengths_like_blood(n_cells, rng, max_len), n_genes)
        token_G = vocabulary.source_token_G if state == SOURCE else vocabulary.target_token_G
        rows = [token_G[np.argsort(-(popularity + rng.gumbel(size=n_genes)))[:n]] for n in length_C]
        size_factor = rng.lognormal(8.0, 0.4, n_cells).astype(np.float32)
        states[state] = State(Ragged.from_rows(rows), index, size_factor_C=None if state == SOURCE else size_factor)
    return TokenBank(states, tuple(f"cell{i}" for i in index))


def synthetic_vocabulary(sizes: SyntheticSizes) -> Vocabulary:
    """Genes named ENSG..., source tokens spread over the source vocabulary."""
    names = tuple(f"ENSG{i:011d}" for i in range(sizes.n_genes))
    step = max((sizes.n_source_tokens - FIRST_TOKEN) // sizes.n_genes, 1)
    return Vocabulary(
        names, names, names, np.arange(sizes.n_genes) * step + FIRST_TOKEN, np.arange(sizes.n_genes) + FIRST_TOKEN
    )


def every_gene(
    vocabulary: Vocabulary,
    modes: Sequence[str],
    sites: Sequence[Site],
    pert_tps: Sequence[int] = (),
    genes: Sequence[int] | None = None,
) -> Library:
    """One perturbation per gene and mode."""
    chosen = range(len(vocabulary)) if genes is None else genes
    edits = [make_perturbation([g], mode, sites, pert_tps, vocabulary) for mode in modes for g in chosen]
    return make_library([(edits, False)])


def synthetic_screen(
    sizes: SyntheticSizes,
    n_cells: int,
    *,
    modes: Sequence[str] = ("mask",),
    sites: Sequence[Site] = ("src",),
    pert_tps: Sequence[int] = (),
    context_mode: bool = False,
    genes: Sequence[int] | None = None,
    model: PerturbGen | None = None,
    seed: int = 0,
) -> Prepared:
    """A whole screen in memory, ready for an engine."""
    vocabulary = synthetic_vocabulary(sizes)
    bank = random_bank(n_cells, vocabulary, sizes.n_times, sizes.max_len, seed)
    times = tuple(range(1, sizes.n_times + 1))
    window = Window(times, times if context_mode else (), sizes.max_len)
    library = every_gene(vocabulary, modes, sites, pert_tps, genes)
    adapter = PerturbGenAdapter(model or random_model(sizes.sizes(), seed), times, window.context_tps, context_mode)
    none = {t: np.zeros((n_cells, 0), dtype=np.int64) for t in times}
    layout = Layout(times, sizes.width, adapter.schema.expression_scale)
    index = BankIndex(bank, vocabulary, window.max_len)
    selection = select_items(library, index, window, np.zeros(n_cells, np.int64), ["all"])
    plan = planned(selection, bank, adapter, 0, layout)
    rows = RowBuilder(bank, vocabulary, window, none)
    return Prepared(OutputConfig(), vocabulary, bank, index, library, plan, window, adapter, rows, layout)
