"""GeneTest: what a test of every gene of a group declares; tables, settings and command line follow from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.stats.tests.sample import Needs, Sample

Values = Mapping[str, NDArray[np.float64]]
"""Name -> a number per gene (G,), NaN where there is none."""


@dataclass(frozen=True, kw_only=True)
class GeneTest:
    """One test; `name` is that of its file, of `deg.test` and of `perturbscreen deg --test`.

    compute         gives its values for a Sample of 2 items or more: `statistic`, `p_value` and all `columns`
    statistic       which value fills the column `statistic` where this is the chosen test
    p_value         which value fills the column `p_value` there, and by it `fdr`
    needs           what it must be given of a sample
    columns         what it adds to the table of differential expression: name -> polars type
    in_every_table  its columns are there also where it is not computed; those of other tests only where they are chosen
    is_wanted       whether these settings ask for it beside the chosen test
    takes_groups    many groups of as many cells may be given at once, moments (N, G): it says of each what it says of it alone
    """

    name: str
    compute: Callable[[Sample, DegConfig], Values]
    statistic: str
    p_value: str
    needs: Needs
    columns: Mapping[str, Any] = field(default_factory=dict)
    in_every_table: bool = False
    is_wanted: Callable[[DegConfig], bool] = lambda config: False
    takes_groups: bool = False
