"""Sample: what a test is given of one group, N cells or replicates and G genes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from screen.stats.moments import FLOAT32, Moments, Rounding

Needs = Literal["moments", "changes", "values"]
"""Moments alone; the change of every single cell too; the expression with and without the edit too."""


@dataclass(frozen=True)
class Sample:
    """Changes `delta_NG`, and expression without and with the edit, as far as they are at hand; moments always are.

    The moments are of all genes of the group; what else there is may be of some of them.
    rounding       how the changes of cells were stored
    of_replicates  whether N are replicates (donors), each the mean of its cells
    """

    moments: Moments
    delta_NG: NDArray[np.floating] | None = None
    before_NG: NDArray[np.floating] | None = None
    after_NG: NDArray[np.floating] | None = None
    rounding: Rounding = FLOAT32
    of_replicates: bool = False

    @property
    def fewest_for_t(self) -> int:
        """How many a t-test needs: 3 cells, as two that rounding made equal say nothing of how cells differ; 2 replicates."""
        return 2 if self.of_replicates else 3

    def has(self, needs: Needs) -> bool:
        """Whether a test with these needs can be made."""
        there = {"moments": True, "changes": self.delta_NG is not None, "values": self.after_NG is not None}
        return there[needs]

    @cached_property
    def delta_GN(self) -> NDArray[np.float32]:
        """Changes, a gene's cells side by side."""
        return _by_gene(self.delta_NG)

    @cached_property
    def before_GN(self) -> NDArray[np.float32]:
        """Expression without the edit, a gene's cells side by side."""
        return _by_gene(self.before_NG)

    @cached_property
    def after_GN(self) -> NDArray[np.float32]:
        """Expression with the edit, a gene's cells side by side."""
        return _by_gene(self.after_NG)


def _by_gene(values_NG: NDArray[np.floating] | None) -> NDArray[np.float32]:
    assert values_NG is not None, "the test did not say that it needs these values"
    return np.ascontiguousarray(values_NG.T, dtype=np.float32)
