"""Amounts: matrices that hold counts, look like counts, or are none."""

import numpy as np
from scipy import sparse

from demo.variants.recipe import Changes, Place, recipe

KIND = "Counts and what is not"


def per(cells_X: sparse.csr_matrix, scale: float) -> sparse.csr_matrix:
    """Every cell scaled to one total."""
    return sparse.csr_matrix(sparse.diags(scale / np.asarray(cells_X.sum(axis=1)).ravel()) @ cells_X, dtype=np.float32)


def with_x(place: Place, X: sparse.csr_matrix, **keys: object) -> Changes:
    cells = place.cells
    cells.X = sparse.csr_matrix(X, dtype=np.float32)
    place.h5ad(cells)
    return {"cells": keys}


@recipe(KIND, "log1p of counts per 10,000", "no cause named")
def logarithms(place: Place) -> Changes:
    return with_x(place, per(place.cells.X, 1e4).log1p())


@recipe(KIND, "log1p, and `counts: fractional`")
def logarithms_on_request(place: Place) -> Changes:
    return with_x(place, per(place.cells.X, 1e4).log1p(), counts="fractional")


@recipe(KIND, "counts per million")
def per_million(place: Place) -> Changes:
    return with_x(place, per(place.cells.X, 1e6))


@recipe(KIND, "counts per million, `counts: fractional`", "unknown key")
def per_million_on_request(place: Place) -> Changes:
    return with_x(place, per(place.cells.X, 1e6), counts="fractional")


@recipe(KIND, "counts per million, rounded", "taken for counts")
def rounded(place: Place) -> Changes:
    return with_x(place, per(place.cells.X, 1e6).rint())


@recipe(KIND, "counts per million, rounded down", "taken for counts")
def floored(place: Place) -> Changes:
    return with_x(place, per(place.cells.X, 1e6).floor())


@recipe(KIND, "counts per million, rounded, of a part of the genes: totals differ", "taken for counts")
def rounded_part(place: Place) -> Changes:
    cells = place.cells
    cells.X = sparse.csr_matrix(per(cells.X, 1e6).rint())
    return place.h5ad(cells[:, ::2].copy())


@recipe(KIND, "counts per million, rounded, `counts: fractional`", "unknown key")
def rounded_on_request(place: Place) -> Changes:
    return with_x(place, per(place.cells.X, 1e6).rint(), counts="fractional")


@recipe(KIND, "counts that were drawn to one total for all cells (downsampled)")
def downsampled(place: Place) -> Changes:
    rng, counts = np.random.default_rng(0), place.cells.X.toarray().astype(np.int64)
    return with_x(place, sparse.csr_matrix(np.array([rng.multivariate_hypergeometric(row, 400) for row in counts])))


@recipe(KIND, "fractional counts (ambient RNA removed, reads shared among genes)", "no way to say it is fine")
def fractional(place: Place) -> Changes:
    return with_x(place, place.cells.X * np.float32(0.93))


@recipe(KIND, "fractional counts, `counts: fractional`", "unknown key")
def fractional_on_request(place: Place) -> Changes:
    return with_x(place, place.cells.X * np.float32(0.93), counts="fractional")


@recipe(KIND, "scaled to mean 0: negative values")
def scaled(place: Place) -> Changes:
    return with_x(place, place.cells.X.toarray() - 1)


@recipe(KIND, "scaled to mean 0, `counts: fractional`")
def scaled_on_request(place: Place) -> Changes:
    return with_x(place, place.cells.X.toarray() - 1, counts="fractional")


@recipe(KIND, "a value that is missing (NaN), `counts: fractional`")
def missing(place: Place) -> Changes:
    X = place.cells.X.astype(np.float32)
    X.data[7] = np.nan
    return with_x(place, X, counts="fractional")
