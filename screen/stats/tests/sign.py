"""The sign test: whether as many cells raise a gene as lower it; by how much does not count."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.stats.tests.gene_test import GeneTest, Values
from screen.stats.tests.sample import Sample

Counts = NDArray[np.int64]


def sign(n_up_G: Counts, n_down_G: Counts) -> NDArray[np.float64]:
    """Two-sided p per gene, exact: as many or fewer on the smaller side if up and down are equally likely (binomial).

    Cells without a change count for neither; a gene that no cell changes has p 1. Source: Arbuthnot 1710; scipy's `binomtest`.
    """
    from scipy.special import bdtr

    fewer_G, n_G = np.minimum(n_up_G, n_down_G), n_up_G + n_down_G
    p_G: NDArray[np.float64] = np.minimum(2 * bdtr(fewer_G, n_G, 0.5), 1.0)
    return p_G


def compute(sample: Sample, config: DegConfig) -> Values:
    """Of the changes."""
    n_up_G, n_down_G = np.count_nonzero(sample.delta_GN > 0, axis=1), np.count_nonzero(sample.delta_GN < 0, axis=1)
    p_G = sign(n_up_G, n_down_G)
    return {"n_up": n_up_G.astype(np.float64), "n_down": n_down_G.astype(np.float64), "sign_p_value": p_G}


TEST = GeneTest(
    name="sign",
    compute=compute,
    statistic="n_up",
    p_value="sign_p_value",
    needs="changes",
    columns={"n_up": pl.Int32, "n_down": pl.Int32},
)
