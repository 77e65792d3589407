"""The paired t-test: whether the mean change of a gene is another than 0."""

import numpy as np
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.stats.moments import least_error, standard_error
from screen.stats.tests.gene_test import GeneTest, Values
from screen.stats.tests.sample import Sample

Genes = NDArray[np.float64]


def paired_t(sample: Sample) -> tuple[Genes, Genes]:
    """(t, two-sided p) per gene of paired differences.

    The standard error is not taken to be smaller than what storage rounds away: a change that is the same in every cell, as
    stored, has a large t and not an infinite one. Fewer than 3 cells (2 replicates) have neither: NaN. A gene that no cell
    changes has t 0 and p 1.
    """
    from scipy.special import stdtr

    moments = sample.moments
    n, se_G = moments.n_cells, standard_error(moments)
    if n < sample.fewest_for_t:
        return np.full_like(se_G, np.nan), np.full_like(se_G, np.nan)
    t_G: Genes = moments.mean_delta_G / np.maximum(se_G, least_error(moments, sample.rounding))
    return t_G, 2 * stdtr(n - 1, -np.abs(t_G))


def compute(sample: Sample, config: DegConfig) -> Values:
    """Of the changes' moments."""
    t_G, p_G = paired_t(sample)
    return {"t": t_G, "t_p_value": p_G}


# no columns of its own: where it is chosen, `statistic` and `p_value` hold it
TEST = GeneTest(name="paired_t", compute=compute, statistic="t", p_value="t_p_value", needs="moments")
