"""Synthetic vocabularies and cells of any size, for benchmarks and for trying a machine out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import SOURCE, Ragged, State, TokenBank
from screen.cells.vocabulary import Vocabulary

FIRST_TOKEN = 4
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
