"""A small planted screen, made once."""

import pytest

import screen
from demo.planted.sizes import Sizes
from demo.planted.written import build

SIZES = Sizes(
    n_perturbations=260, n_strata=2, n_cells=20, n_genes=320, n_nulls=40, has_replicates=False, has_relations=True
)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> screen.Results:
    return build(tmp_path_factory.mktemp("relations") / "screen", SIZES)
