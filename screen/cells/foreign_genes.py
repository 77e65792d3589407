"""Foreign genes: names of another species, genome or kind than the model's, and what to do about them."""

import re
from collections.abc import Callable, Mapping, Sequence

from screen.cells.metadata import Strings
from screen.cells.vocabulary import Vocabulary

SPECIES = {
    "ENSG": "human", "ENSMUSG": "mouse", "ENSRNOG": "rat", "ENSDARG": "zebrafish", "ENSSSCG": "pig", "ENSBTAG": "cow",
    "ENSMMUG": "rhesus macaque", "ENSMFAG": "crab-eating macaque", "ENSPTRG": "chimpanzee", "ENSCAFG": "dog",
    "ENSGALG": "chicken", "ENSOARG": "sheep", "ENSXETG": "frog", "FBGN": "fruit fly", "WBGENE": "roundworm",
}  # fmt: skip
"""How Ensembl's gene IDs begin."""
TRIED = 200
MOST = 0.5


def advice_for(vocabulary: Vocabulary, schemes: Mapping[str, Strings]) -> str:
    """What to do where no name of a file is one of the model's."""
    for names in schemes.values():
        tried = [str(n) for n in names if n][:TRIED]
        if found := _advice(vocabulary, tried):
            return found
    return "add Ensembl IDs or symbols as a column of var"


def case_note(names: Sequence[str], file: str) -> list[str]:
    """A note about names that are the model's only if letter case is ignored."""
    n = len(names)
    if _most(names, lambda x: x[:1].isupper() and any(c.islower() for c in x[1:]) and x[1:] == x[1:].lower()):
        return [
            f'Warning: {n:,} genes of {file} are written as those of mouse and rat are ("{names[0]}") and were taken for the '
            "model's of the same letters. Where that is another species, map one-to-one orthologs first (Ensembl BioMart)."
        ]
    return [f'{n:,} genes match only if letter case is ignored ("{names[0]}"); check the species of {file}.']


def r_note(vocabulary: Vocabulary, lacking: Sequence[int], schemes: Mapping[str, Strings]) -> list[str]:
    """A note about genes (numbers) that a file lacks but for R's `make.names`, which puts full stops for hyphens."""
    names = {str(n) for names in schemes.values() for n in names}
    written = [
        (s, r) for s in (vocabulary.symbol[g] for g in lacking) if (r := re.sub(r"[^\w.]", ".", s)) != s and r in names
    ]
    if not written:
        return []
    symbol, seen = written[0]
    return [
        f'Warning: {len(written):,} of them are there as R writes names ("{seen}" for {symbol}), and count as 0 all the same: '
        "give them their hyphens back."
    ]


def _advice(vocabulary: Vocabulary, names: Sequence[str]) -> str:
    theirs, ours = _species(names), _species(vocabulary.ensembl_id[:TRIED])
    if theirs is not None and theirs != ours:
        return (
            f"these are IDs of {theirs}, and the model's genes are of {ours or 'another species'}: map one-to-one orthologs "
            "first (Ensembl BioMart), or use a model of that species"
        )
    if _most(names, lambda x: re.match(r"(chr)?[\dXYM]+[:_-]\d+-\d+$", x)):
        return "these are stretches of a genome (peaks), and genes are needed: name the file of gene expression"
    if part := _part_that_is_a_gene(vocabulary, names):
        return f"these names hold a gene and more: {part}; write the gene alone into a column of var"
    if _most(names, str.isdigit) and len(set(names)) > len(names) / 2 and not _are_row_numbers(names):
        return "these may be NCBI (Entrez) gene numbers: add their Ensembl IDs or symbols as a column of var"
    return ""


def _species(names: Sequence[str]) -> str | None:
    """Whose IDs most of the names are, None where they are no IDs."""
    found = [m[1].upper() for m in (re.match(r"([A-Za-z]+)\d{6,}", n) for n in names) if m]
    known = [SPECIES[p] for p in found if p in SPECIES]
    if 2 * len(known) <= len(names):
        return None
    return max(set(known), key=known.count)


def _part_that_is_a_gene(vocabulary: Vocabulary, names: Sequence[str]) -> str:
    """'in "GRCh38_STAT1" it is "STAT1"', where most of the names have such a part; else ''."""
    known = {n.lower() for table in vocabulary.name_tables for n in table}
    parts = [(n, next((p for p in re.split(r"[^\w.-]+|_+", n) if p.lower() in known), None)) for n in names]
    whole = [(n, p) for n, p in parts if p is not None]
    return f'in "{whole[0][0]}" it is "{whole[0][1]}"' if 2 * len(whole) > len(names) else ""


def _are_row_numbers(names: Sequence[str]) -> bool:
    return [int(n) for n in names] == list(range(int(names[0]), int(names[0]) + len(names)))


def _most(names: Sequence[str], is_so: Callable[[str], object]) -> bool:
    return sum(bool(is_so(n)) for n in names) > MOST * len(names)
