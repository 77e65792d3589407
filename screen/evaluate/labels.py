"""Labels: what the perturbation column of a real screen calls its perturbations, and which genes of the model these are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from screen.cells.bank import MISSING
from screen.cells.gene_columns import strength_and_gene
from screen.cells.vocabulary import Vocabulary
from screen.store.reader import StoreReader

SEPARATORS = ("+", "_", "|", ",", ";", "&")
"""What may stand between the genes of a joint perturbation; a name that is a gene as it stands is not cut."""
CONTROLS = ("ctrl", "control", "non-targeting")
"""What stands for no second gene: "STAT1+ctrl" is STAT1 alone. The control's own name does too."""
FIRST_TOKEN = 10
Genes = tuple[int, ...]
"""Columns of the model's genes, ascending."""


def vocabulary_of(store: StoreReader) -> Vocabulary:
    """The genes of a screen, by every name that it knows; tokens mean nothing."""
    ids, symbols, names = (tuple(store.strings(f"genes/{n}").tolist()) for n in ("ensembl_id", "symbol", "name"))
    tokens = np.arange(len(ids)) + FIRST_TOKEN
    return Vocabulary(ids, symbols, names, tokens, tokens, origin=str(store.path))


@dataclass(frozen=True)
class Labels:
    """The labels of a file: genes -> the labels that mean them; and labels that mean no gene of the model."""

    of_genes: Mapping[Genes, tuple[str, ...]]
    unknown: tuple[str, ...]


def read_labels(labels: Iterable[str], control: str, vocabulary: Vocabulary) -> Labels:
    """What distinct labels mean. Several labels of the same genes, as A+B and B+A, are one perturbation."""
    found: dict[Genes, list[str]] = {}
    unknown = []
    for label in labels:
        if label in (control, MISSING):
            continue
        genes = genes_of(label, control, vocabulary)
        if genes is None:
            unknown.append(label)
        else:
            found.setdefault(genes, []).append(label)
    return Labels({g: tuple(names) for g, names in found.items()}, tuple(unknown))


def genes_of(label: str, control: str, vocabulary: Vocabulary) -> Genes | None:
    """The genes that a label means, by symbol, Ensembl ID or alias; None where a part of it is no gene of the model."""
    parts = [[label]] + [label.split(s) for s in SEPARATORS if s in label]
    for names in parts:
        own = [n.strip() for n in names if n.strip() not in (control, "") and n.strip().lower() not in CONTROLS]
        genes = [strength_and_gene(vocabulary, n) for n in own]
        known = sorted({g[1] for g in genes if g is not None})
        if own and len(known) == len(own):
            return tuple(known)
    return None
