"""GeneSets: named groups of a model's genes, from GMT files."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.cells.vocabulary import strip_version
from screen.config.sections import EnrichConfig
from screen.errors import ConfigError, some

Listed = tuple[str, str, tuple[str, ...]]
"""Collection (the file's name), set, and the genes that the file lists for it."""


@dataclass(frozen=True)
class GeneSets:
    """S sets of a model's G genes; n_listed_S counts the genes that their files list, known to the model or not."""

    collection_S: tuple[str, ...]
    name_S: tuple[str, ...]
    n_listed_S: NDArray[np.int64]
    member_SG: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.name_S)

    @cached_property
    def member_GS(self) -> NDArray[np.float32]:
        """Ready to be multiplied with."""
        return np.ascontiguousarray(self.member_SG.T, dtype=np.float32)

    @staticmethod
    def read(
        paths: Sequence[Path], ensembl_id: Sequence[str], symbol: Sequence[str], min_size: int = 5, max_size: int = 500
    ) -> "GeneSets":
        """The sets of GMT files that have min_size to max_size of the given genes, by Ensembl ID or symbol.

        Raises ConfigError for a file that cannot be read or is no GMT, and where no set is left.
        """
        listed = [found for path in paths for found in read_gmt(path)]
        column = {name: i for i, name in reversed(list(enumerate(symbol)))} | {e: i for i, e in enumerate(ensembl_id)}
        member_SG = np.zeros((len(listed), len(ensembl_id)), dtype=bool)
        for s, (_, _, genes) in enumerate(listed):
            member_SG[s, [column[g] for g in map(strip_version, genes) if g in column]] = True
        size_S = member_SG.sum(1)
        kept = np.flatnonzero((size_S >= min_size) & (size_S <= max_size))
        if not len(kept):
            raise ConfigError(
                _nothing_left(paths, listed, size_S, [*symbol[:3], *ensembl_id[:2]], (min_size, max_size))
            )
        collection_S, name_S, genes_S = zip(*(listed[i] for i in kept.tolist()), strict=True)
        return GeneSets(collection_S, name_S, np.array([len(g) for g in genes_S]), member_SG[kept])


def read_gmt(path: Path) -> list[Listed]:
    """The lines of a GMT file: name, description, genes, separated by tabs. Raises ConfigError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the gene sets {path}: {error}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, *rest = line.rstrip().split("\t")
        genes = tuple(dict.fromkeys(g.strip() for g in rest[1:] if g.strip()))
        if not name or not genes:
            raise ConfigError(
                f"line {number} of {path} is no gene set: a GMT line is a name, a description and genes, separated by tabs; "
                f"it is {line[:60]!r}"
            )
        found.append((path.stem, name, genes))
    if not found:
        raise ConfigError(f"{path} has no gene set; a GMT file has one per line")
    return found


def checksums_of(paths: Sequence[Path]) -> Mapping[str, str]:
    """Path -> SHA-256. Raises ConfigError."""
    try:
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
    except OSError as error:
        raise ConfigError(f"cannot read the gene sets {error.filename}: {error.strerror}") from error


def view_of_gene_sets(config: EnrichConfig | None) -> dict[str, Any] | None:
    """How gene sets present the results, and what their files held."""
    return None if config is None else {**config.model_dump(), "files": checksums_of(config.gene_sets)}


def _nothing_left(
    paths: Sequence[Path],
    listed: Sequence[Listed],
    size_S: NDArray[np.int64],
    known: Sequence[str],
    sizes: tuple[int, int],
) -> str:
    best = int(size_S.max())
    return (
        f"none of the {len(listed)} sets of {some(p.name for p in paths)} has {sizes[0]} to {sizes[1]} of the model's genes "
        f"(enrich.min_size, enrich.max_size); the most is {best}. Its genes are called {some(listed[0][2], 3)}, "
        f"the model's {some(known)}"
    )
