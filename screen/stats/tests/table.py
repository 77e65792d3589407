"""The table of tests: every test per gene, one file each beside this one. Importing it imports none of them."""

from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from screen.errors import ConfigError, nearest

if TYPE_CHECKING:
    from screen.config.sections import DegConfig
    from screen.stats.tests.gene_test import GeneTest

NAMES = ("paired_t", "moderated_t", "signed_rank", "rank_sum", "sign")
"""Files of this package that hold a `TEST`, in the order of its columns in the tables."""

SIGN_AGREEMENT = "sign_agreement"
"""Column where there are replicates: the share of them that change to the side to which their mean does."""


def named(name: str) -> "GeneTest":
    """The test of this name. Raises ConfigError, which lists those there are."""
    if name not in NAMES:
        allowed = ", ".join(NAMES[:-1]) + f" or {NAMES[-1]}"
        raise ConfigError(f'deg.test: there is no test "{name}"; choose {allowed}{nearest(name, NAMES)}')
    found: GeneTest = import_module(f"{__package__}.{name}").TEST
    return found


def computed(config: "DegConfig") -> "tuple[GeneTest, ...]":
    """The tests that these settings ask for: the chosen one, and what is wanted beside it. Raises ConfigError."""
    named(config.test_name)
    return _computed(config, NAMES)


@lru_cache
def _computed(config: "DegConfig", names: tuple[str, ...]) -> "tuple[GeneTest, ...]":
    """Asked for every group: looking the files up took a tenth of the tables' time."""
    return tuple(t for t in map(named, names) if t.name == config.test_name or t.is_wanted(config))


def columns(config: "DegConfig") -> dict[str, Any]:
    """What tests add to the table of differential expression under these settings, and SIGN_AGREEMENT: name -> polars type."""
    import polars as pl

    there = [t for t in map(named, NAMES) if t.in_every_table or t.name == config.test_name]
    of_tests = {name: dtype for t in there for name, dtype in t.columns.items()}
    return of_tests if config.replicate is None else of_tests | {SIGN_AGREEMENT: pl.Float32}
