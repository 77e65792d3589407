"""Units: what is said of many groups at once is what is said of each by itself, bit for bit."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from screen.config.sections import DegConfig
from screen.stats.gene_results import GeneResults, statistics_of
from screen.stats.moments import Rounding, counts_of
from screen.stats.units import Units, of_few, runs

STORED = Rounding("float16", 4096.0)


@st.composite
def groups(draw: st.DrawFn) -> dict[str, Any]:
    """Some small groups of cells, in any order where they have replicates; some replicates are missing, some all of them."""
    sizes, n_genes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6)), draw(st.integers(1, 12))
    rng, is_log1p = np.random.default_rng(draw(st.integers(0, 2**16))), draw(st.booleans())
    group_I = np.repeat(np.arange(len(sizes)), sizes)
    size_IG = rng.choice([0.0, 1e-4, 0.1, 1.0], (len(sizes), n_genes))[group_I]
    delta_IG = (rng.normal(0.3, 1, size_IG.shape) * size_IG * 4096).astype(np.float16).astype(np.float32) / np.float32(
        4096
    )
    before_IG = counts_of(rng.exponential(1.0, delta_IG.shape).astype(np.float32), is_log1p)
    replicate_I = None
    if draw(st.booleans()):
        order_I = rng.permutation(len(group_I))
        group_I, delta_IG, before_IG = group_I[order_I], delta_IG[order_I], before_IG[order_I]
        replicate_I = rng.integers(-1, draw(st.integers(0, 4)), len(group_I))
    return {
        "group_I": group_I, "delta_IG": delta_IG, "before_IG": before_IG, "replicate_I": replicate_I, "is_log1p": is_log1p,
        "n_groups": len(sizes),
    }  # fmt: skip


def values_of(found: GeneResults) -> dict[str, Any]:
    names = ("mean_delta", "se", "target_mean", "ref_mean")
    return {name: getattr(found, name) for name in names} | dict(found.of_tests) | {"n": found.sample.moments.n_cells}


@pytest.mark.parametrize("test", ["paired_t", "moderated_t"])
@given(asked=groups())
def test_statistics_of_few_cells_are_those_of_each_group_alone(test: str, asked: dict[str, Any]) -> None:
    replicate_I, config = asked["replicate_I"], DegConfig(test=test)  # type: ignore[arg-type]
    units = Units.of(asked["group_I"], replicate_I, asked["n_groups"])
    values = asked["delta_IG"], asked["before_IG"]
    together = of_few(units, values, asked["is_log1p"], config, STORED)
    for i in range(asked["n_groups"]):
        at = np.flatnonzero(asked["group_I"] == i)
        replicate_N = None if replicate_I is None else replicate_I[at]
        alone = statistics_of(*(x[at] for x in values), asked["is_log1p"], replicate_N, config, rounding=STORED)
        found, expected = values_of(together[i]), values_of(alone)
        assert set(found) == set(expected)
        for name, x_G in expected.items():
            np.testing.assert_array_equal(found[name], x_G, err_msg=name)


@given(st.lists(st.integers(1, 20), max_size=12), st.integers(0, 30))
def test_runs_are_every_group_once_and_hold_no_more_than_fits(sizes: list[int], most: int) -> None:
    found = [list(range(len(sizes)))[some] for some in runs(sizes, most)]
    assert [i for some in found for i in some] == list(range(len(sizes)))
    assert all(len(some) == 1 or sum(sizes[i] for i in some) <= most for some in found)
    for one, after in pairwise(found):
        assert sum(sizes[i] for i in one) + sizes[after[0]] > most, "no run is shorter than it must be"
