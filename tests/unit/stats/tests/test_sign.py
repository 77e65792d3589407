"""The sign test equals scipy's exact binomial test, cells without a change included."""

from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from screen.cli.main import main
from screen.config.sections import DegConfig
from screen.stats import deg
from screen.stats.gene_results import statistics_of
from screen.stats.tests.sign import sign
from tests.support.tiny import tiny, write


@given(st.integers(0, 300), st.integers(0, 300))
def test_sign_equals_scipy(n_up: int, n_down: int) -> None:
    (p,) = sign(np.array([n_up]), np.array([n_down]))
    expected = stats.binomtest(n_up, n_up + n_down).pvalue if n_up + n_down else 1.0
    np.testing.assert_allclose(p, expected, rtol=1e-9)


@given(
    arrays(
        np.float32, st.tuples(st.integers(2, 30), st.integers(1, 4)), elements=st.sampled_from([-0.0, 0, -1, 0.5, 2])
    )
)
def test_cells_are_counted_by_the_sign_of_their_change(delta_NG: np.ndarray) -> None:
    found = statistics_of(delta_NG, np.zeros_like(delta_NG), False, None, DegConfig(test="sign"))
    np.testing.assert_array_equal(found.of("n_up"), [sum(x > 0 for x in d) for d in delta_NG.T])
    np.testing.assert_array_equal(found.of("n_down"), [sum(x < 0 for x in d) for d in delta_NG.T])


def test_it_is_in_the_tables_where_it_is_chosen(tmp_path: Path) -> None:
    config = tiny(output={"strata": ["cell_type"]}) | {"deg": {"test": "sign"}}
    assert main(["run", str(write(config, tmp_path / "s.yaml")), "--out", str(tmp_path / "out")]) == 0
    table = deg.scan(tmp_path / "out").collect()
    assert table.schema == deg.SCHEMA | {"n_up": pl.Int32, "n_down": pl.Int32}
    is_single = table["n_cells"] == 1
    assert table["n_up"].is_null().equals(is_single)
    assert 0 < is_single.sum() < table.height
    assert (table["n_up"] + table["n_down"] <= table["n_cells"]).all()
    row = table.filter(pl.col("n_up") > pl.col("n_down")).row(0, named=True)
    expected = stats.binomtest(row["n_up"], row["n_up"] + row["n_down"]).pvalue
    np.testing.assert_allclose(row["p_value"], expected, rtol=1e-9)
