"""Genes: how files name them."""

import numpy as np
import pandas as pd

from demo.variants.recipe import Changes, Place, recipe

KIND = "Gene names"


def renamed(place: Place, index: list[str], **columns: object) -> Changes:
    cells = place.cells
    cells.var = pd.DataFrame(columns, index=pd.Index(index))
    return place.h5ad(cells)


def ids(place: Place) -> list[str]:
    return [str(x) for x in place.cells.var_names]


def symbols(place: Place) -> list[str]:
    return [str(x) for x in place.cells.var["symbol"]]


def numbers(place: Place) -> list[str]:
    return [str(i) for i in range(place.cells.n_vars)]


@recipe(KIND, "symbols as var names")
def by_symbol(place: Place) -> Changes:
    return renamed(place, symbols(place))


@recipe(KIND, "Ensembl IDs with versions (ENSG00000115415.20)")
def versions(place: Place) -> Changes:
    return renamed(place, [f"{x}.{i % 20 + 1}" for i, x in enumerate(ids(place))])


@recipe(KIND, "lower-case Ensembl IDs with versions", "no gene in common")
def lower_versions(place: Place) -> Changes:
    return renamed(place, [f"{x.lower()}.{i % 20 + 1}" for i, x in enumerate(ids(place))])


for _column in ("gene_ids", "feature_name", "Gene_Symbol"):

    @recipe(KIND, f'var names are numbers, genes in var column "{_column}"')
    def usual(place: Place, column: str = _column) -> Changes:
        return renamed(place, numbers(place), **{column: ids(place) if "id" in column else symbols(place)})


for _column in ("hgnc", "Accession", "ensembl-id (GRCh38)", "name"):

    @recipe(KIND, f'var names are numbers, genes in var column "{_column}"', "no gene in common")
    def unusual(place: Place, column: str = _column) -> Changes:
        return renamed(place, numbers(place), **{column: symbols(place) if column in ("hgnc", "name") else ids(place)})


@recipe(
    KIND, "genes in a categorical var column of an unusual name, another holds genes for a part", "no gene in common"
)
def best_column(place: Place) -> Changes:
    some = [x if i % 3 else "" for i, x in enumerate(symbols(place))]
    return renamed(place, numbers(place), neighbour=some, hugo=pd.Categorical(symbols(place)))


@recipe(KIND, "no column matches; the columns are listed with how many do", "columns not listed")
def no_column(place: Place) -> Changes:
    n = place.cells.n_vars
    return renamed(
        place, [f"probe_{i}" for i in range(n)], chip=["A"] * n, clone=[*symbols(place)[:2], *["x"] * (n - 2)]
    )


@recipe(KIND, "mouse Ensembl IDs", "species not named")
def mouse_ids(place: Place) -> Changes:
    return renamed(place, [x.replace("ENSG", "ENSMUSG") for x in ids(place)])


@recipe(KIND, "symbols as of mouse (Stat1)", "species not named")
def mouse_symbols(place: Place) -> Changes:
    return renamed(place, [x.capitalize() for x in symbols(place)])


@recipe(KIND, "lower-case symbols (stat1)")
def lower_symbols(place: Place) -> Changes:
    return renamed(place, [x.lower() for x in symbols(place)])


@recipe(KIND, "symbols as R writes them (HLA.A)", "genes counted as 0 without a reason")
def names_of_r(place: Place) -> Changes:
    return renamed(place, [x.replace("-", ".") for x in symbols(place)])


@recipe(KIND, "names with the genome in front (GRCh38_STAT1)", "no advice")
def genome(place: Place) -> Changes:
    return renamed(place, [f"GRCh38_{x}" for x in symbols(place)])


@recipe(KIND, "ID and symbol in one name (ENSG00000115415_STAT1)", "no advice")
def both(place: Place) -> Changes:
    return renamed(place, [f"{a}_{b}" for a, b in zip(ids(place), symbols(place), strict=True)])


@recipe(KIND, "Entrez gene numbers", "no advice")
def entrez(place: Place) -> Changes:
    return renamed(place, [str(6772 + 7 * i) for i in range(place.cells.n_vars)])


@recipe(KIND, "peaks of open chromatin instead of genes", "no advice")
def peaks(place: Place) -> Changes:
    return renamed(place, [f"chr1:{1000 * i}-{1000 * i + 500}" for i in range(place.cells.n_vars)])


def doubled(place: Place) -> Changes:
    cells = place.cells
    counts, half = cells.X.toarray(), cells.n_vars // 2
    split = np.random.default_rng(0).binomial(counts[:, :half].astype(int), 0.5)
    X = np.hstack([counts[:, :half] - split, counts[:, half:], split]).astype(np.float32)
    import anndata as ad

    names = [*ids(place), *ids(place)[:half]]
    return place.h5ad(ad.AnnData(X, cells.obs, pd.DataFrame(index=names)))


@recipe(KIND, "750 genes in two columns each", "only two columns named")
def duplicates(place: Place) -> Changes:
    return doubled(place)


@recipe(KIND, "750 genes in two columns each, `duplicates: sum`", "unknown key")
def duplicates_summed(place: Place) -> Changes:
    return {"cells": {**doubled(place)["cells"], "duplicates": "sum"}}


@recipe(KIND, "two Ensembl versions of one gene (ENSG00000115415.1, .2), `duplicates: sum`", "unknown key")
def versions_summed(place: Place) -> Changes:
    changes = doubled(place)
    import anndata as ad

    cells = ad.read_h5ad(place.folder / "cells.h5ad")
    cells.var_names = [f"{x}.{1 + (i >= 1500)}" for i, x in enumerate(cells.var_names)]
    return {"cells": {**place.h5ad(cells)["cells"], **changes["cells"], "duplicates": "sum"}}


@recipe(
    KIND,
    "antibodies beside genes, feature_types says which (CITE-seq)",
    "an antibody was taken for a second column of its gene",
)
def antibodies(place: Place) -> Changes:
    import anndata as ad

    cells = place.cells
    extra = ["CD14", "CD19", "CD4"]
    X = np.hstack([cells.X.toarray(), np.full((cells.n_obs, 3), 500, np.float32)])
    var = pd.DataFrame(
        {"feature_types": ["Gene Expression"] * cells.n_vars + ["Antibody Capture"] * 3},
        index=[*symbols(place), *extra],
    )
    return place.h5ad(ad.AnnData(X, cells.obs, var))


@recipe(KIND, "antibodies alone", "no advice")
def antibodies_alone(place: Place) -> Changes:
    cells = place.cells[:, :3].copy()
    cells.var = pd.DataFrame({"feature_types": ["Antibody Capture"] * 3}, index=["CD14", "CD19", "CD4"])
    return place.h5ad(cells)
