"""Variants of a file that are read give the same screen, from the command line to the tables."""

import warnings
from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest
import yaml

from demo.variants import files, genes, lists, metadata
from demo.variants.recipe import Changes, Place
from screen.cli.main import main

VARIANTS = {
    "Zarr": files.dense_zarr,
    "duplicates in a sum": genes.duplicates_summed,
    "genes in another column": genes.best_column,
    "states that are true and false": metadata.booleans,
}


def screened(place: Place, changes: Changes, name: str) -> pl.DataFrame:
    """The hits of a small screen."""
    raw: Mapping[str, Any] = place.configuration(changes)
    raw["cells"]["max_cells"] = 6
    (place.folder / f"{name}.yaml").write_text(yaml.safe_dump(raw))
    assert main(["run", str(place.folder / f"{name}.yaml"), "--out", str(place.folder / name)]) == 0
    return pl.read_parquet(place.folder / name / "hits.parquet").sort("perturbation")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("variants"))


@pytest.fixture(scope="module")
def plain(place: Place) -> pl.DataFrame:
    """The hits of the plain file."""
    return screened(place, place.h5ad(place.cells), "plain")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_gives_the_same_hits(name: str, place: Place, plain: pl.DataFrame) -> None:
    with warnings.catch_warnings():
        # of anndata and zarr, as they write
        warnings.simplefilter("ignore")
        changes = VARIANTS[name](place)
    found = screened(place, changes, name.split()[0])
    assert found.height == 3
    assert found.equals(plain)


def test_a_list_in_a_csv_gives_the_genes_it_names(place: Place, plain: pl.DataFrame) -> None:
    changes = lists.listed(place, "rank,symbol\n1,STAT1\n2,CD14\n", "genes.csv")
    found = screened(place, changes, "listed")
    assert set(found["target_symbol"]) == {"STAT1", "CD14"}
    # products of other batches are added up in another order
    expected = plain.filter(pl.col("target_symbol") != "IRF7")["strength"].to_list()
    assert found["strength"].to_list() == pytest.approx(expected, rel=1e-5)
