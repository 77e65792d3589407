"""Small h5ad files of raw counts, and a vocabulary that fits them."""

import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from screen.cells.h5ad import read_h5ad_cells
from screen.cells.vocabulary import NO_TOKEN, Vocabulary

SYMBOLS = ("AAA", "BBB", "CCC", "DDD", "EEE")


VOCABULARY = Vocabulary(
    ensembl_id=tuple(f"ENSG0000000000{i}" for i in range(5)),
    symbol=SYMBOLS,
    name=SYMBOLS,
    source_token_G=np.array([14, 11, 13, 10, 12]),
    target_token_G=np.array([4, 5, 6, 7, 8]),
    median_G=np.array([1.0, 2.0, 4.0, 0.5, 3.0]),
    aliases=(("OLD_A",), (), (), (), ("OLD_E", "EEE1")),
)


STATES = {"state_column": "condition", "source": "control", "targets": {1: "stimulated"}}


N_CELLS = 12


def some_counts() -> np.ndarray:
    """Counts (12, 5); every cell expresses something."""
    counts_CG = np.random.Generator(np.random.Philox(7)).poisson(1.5, (N_CELLS, 5))
    counts_CG[:, 2] += 1
    return counts_CG


def some_obs() -> pd.DataFrame:
    """Six control and six stimulated cells of two types: 4 B and 2 T control, 2 B and 4 T stimulated."""
    return pd.DataFrame(
        {
            "condition": pd.Categorical(["control", "stimulated"] * 6),
            "cell_type": pd.Categorical(["B", "T", "B", "T", "B", "T", "B", "T", "T", "B", "T", "B"]),
            "donor": np.arange(N_CELLS) % 3,
        },
        index=[f"cell{i}" for i in range(N_CELLS)],
    )


def write(path: Path, counts: Any, *, genes: Any = VOCABULARY.ensembl_id, obs: Any = None, **parts: Any) -> Path:
    """A real h5ad; `raw` is (counts, gene names)."""
    raw = parts.pop("raw", None)
    data = anndata.AnnData(counts, obs=some_obs() if obs is None else obs, var=pd.DataFrame(index=list(genes)), **parts)
    if raw is not None:
        data.raw = anndata.AnnData(raw[0], obs=data.obs, var=pd.DataFrame(index=list(raw[1])))
    data.write_h5ad(path)
    return path


def write_zarr(path: Path, counts: Any, zarr_format: int = 3, **parts: Any) -> Path:
    """The same as an AnnData Zarr directory."""
    file = write(path.with_suffix(".zarr.h5ad"), counts, **parts)
    with anndata.settings.override(zarr_write_format=zarr_format), warnings.catch_warnings():
        # text has no final specification in format 3
        warnings.simplefilter("ignore")
        anndata.read_h5ad(file).write_zarr(path)
    file.unlink()
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "cells.h5ad", sparse.csr_matrix(some_counts()))


def read(path: Path, vocabulary: Vocabulary = VOCABULARY, **options: Any) -> Any:
    return read_h5ad_cells(path, vocabulary, **{**STATES, **options})


def naive_tokens(count_G: np.ndarray, median_G: np.ndarray, token_G: np.ndarray) -> list[int]:
    """One cell, by the definition."""
    total = float(count_G.sum())
    ranked = [(-(float(n) / total * 10_000 / float(median_G[g])), g) for g, n in enumerate(count_G) if n > 0]
    return [int(token_G[g]) for _, g in sorted(ranked) if token_G[g] != NO_TOKEN]


def same(one: Any, other: Any) -> bool:
    """Whether two banks hold the same cells, tokens, metadata and counts."""
    counts = [(a.counts, other.states[s].counts) for s, a in one.states.items() if a.counts is not None]
    equal_counts = all(np.array_equal(a.toarray(), b.toarray()) for a, b in counts)
    return one.cell_id_C == other.cell_id_C and one.fingerprint() == other.fingerprint() and equal_counts
