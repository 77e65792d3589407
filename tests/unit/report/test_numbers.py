"""Numbers on the page: rounding, sampling and the strongest of each gene, against their slow definitions."""

import base64
import gzip
import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from screen.report.details import chosen_genes
from screen.report.numbers import packed, rounded

FLOATS = st.floats(allow_nan=True, allow_infinity=True, width=64)


@given(st.lists(FLOATS, max_size=20), st.integers(1, 6))
def test_a_number_is_rounded_to_its_digits_and_what_is_not_known_is_none(values: list[float], digits: int) -> None:
    found = rounded(np.array(values), digits)
    for x, y in zip(values, found, strict=True):
        assert (
            y == (float(f"{x:.{digits - 1}e}") if 1e-290 < abs(x) < 1e290 or x == 0 else y)
            if np.isfinite(x)
            else y is None
        )
    json.dumps(found, allow_nan=False)


def test_shapes_stay_and_whole_numbers_are_whole() -> None:
    assert rounded(np.array([[1.26, np.nan], [0.0, -31.2]]), 2) == [[1.3, None], [0.0, -31.0]]
    assert rounded(np.array(0.01234), 2) == 0.012
    assert json.dumps(rounded(np.array([3.0, np.nan]), 0)) == "[3, null]"


@settings(max_examples=60)
@given(st.lists(st.one_of(st.floats(-1, 1), st.just(float("nan"))), max_size=40), st.integers(1, 30))
def test_chosen_genes_are_the_largest_and_an_even_sample(values: list[float], n: int) -> None:
    change_G = np.array(values, dtype=np.float64)
    found = chosen_genes(change_G, n)
    known = np.flatnonzero(np.isfinite(change_G))
    assert len(found) == len(set(found.tolist())) == min(n, len(known))
    assert set(found.tolist()) <= set(known.tolist())
    n_top = min(-(-2 * n // 3), len(known))
    assert sorted(np.abs(change_G[found[:n_top]])) == sorted(np.abs(change_G[known]))[len(known) - n_top :]


def test_packed_text_cannot_end_a_script() -> None:
    text = packed({"name": "</script><script>alert(1)</script>"})
    assert "<" not in text
    assert json.loads(gzip.decompress(base64.b64decode(text)))["name"].startswith("</script>")
