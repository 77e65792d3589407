"""The paired t-test: whether the mean change of a gene is another than 0."""

import numpy as np
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.stats.moments import Moments, standard_error
from screen.stats.tests.gene_test import GeneTest, Values
from screen.stats.tests.sample import Sample

Genes = NDArray[np.float64]


def paired_t(moments: Moments) -> tuple[Genes, Genes]:
    """(t, two-sided p) per gene of paired differences.

    One cell has neither: NaN. A gene that changes by exactly the same in every cell has t infinite and p 0, or t NaN and
    p 1 if the change is 0.
    """
    from scipy.special import stdtr

    n, se_G = moments.n_cells, standard_error(moments)
    if n < 2:
        return se_G.copy(), se_G.copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        t_G = moments.mean_delta_G / se_G
    p_G = 2 * stdtr(n - 1, -np.abs(t_G))
    return t_G, np.where(np.isnan(t_G), 1.0, p_G)


def compute(sample: Sample, config: DegConfig) -> Values:
    """Of the changes' moments."""
    t_G, p_G = paired_t(sample.moments)
    return {"t": t_G, "t_p_value": p_G}


# no columns of its own: where it is chosen, `statistic` and `p_value` hold it
TEST = GeneTest(name="paired_t", compute=compute, statistic="t", p_value="t_p_value", needs="moments")
