"""Gene table: one walk over deg/part-*.parquet, a batch of rows at a time, as numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from screen.directory import GENES, PARTS
from screen.errors import StoreError

if TYPE_CHECKING:
    from screen.report.names import ScreenNames
    from screen.results.results import Results

ROWS_AT_ONCE = 2**19
TEXT = ("perturbation", "stratum", "feature")


@dataclass(frozen=True)
class GeneRows:
    """N rows of the table: the number of their group (`ScreenNames.group`) and gene, mean change and its fdr (NaN: none)."""

    group_N: NDArray[np.int64]
    gene_N: NDArray[np.int64]
    change_N: NDArray[np.float64]
    fdr_N: NDArray[np.float64]


def gene_rows(results: "Results", names: "ScreenNames") -> Iterator[GeneRows]:
    """The whole table in turn; nothing for a screen without counts. Raises StoreError where it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in sorted(results.tables.glob(f"{GENES}/{PARTS}")):
        try:
            # this reader does not take a file's word for its lengths
            file = pq.ParquetFile(path, read_dictionary=list(TEXT))
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[*TEXT, "time", "mean_delta", "fdr"]):
                batch.validate(full=True)
                yield _numbered(batch, names)
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise StoreError(
                f"cannot read {path} ({reason}); remove it, then `perturbscreen deg {results.asked_by}` makes it again"
            ) from error


def _numbered(batch: Any, names: "ScreenNames") -> GeneRows:
    strata = {name: i for i, name in enumerate(names.strata)}
    perturbation_N, stratum_N, gene_N = (
        _codes(batch.column(name), table)
        for name, table in zip(TEXT, (names.number, strata, names.feature_number), strict=True)
    )
    stored_N = batch.column("time").to_numpy(zero_copy_only=False)
    # time points ascend
    time_N = np.searchsorted(names.times, stored_N)
    if not np.array_equal(np.asarray(names.times)[np.minimum(time_N, len(names.times) - 1)], stored_N):
        raise ValueError(f"it has time points other than {names.times}")
    change_N, fdr_N = (
        batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64) for name in ("mean_delta", "fdr")
    )
    return GeneRows(names.group(perturbation_N, stratum_N, time_N), gene_N, change_N, fdr_N)


def _codes(column: Any, table: dict[str, int]) -> NDArray[np.int64]:
    """Numbers of a dictionary's texts. Raises KeyError for one that the screen does not have."""
    if column.null_count:
        raise ValueError("a name is missing")
    of_entry = np.array([table[text] for text in column.dictionary.to_pylist()], dtype=np.int64)
    found: NDArray[np.int64] = of_entry[column.indices.to_numpy(zero_copy_only=False)]
    return found
