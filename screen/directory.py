"""Directory: what the files of an output directory are called. Nothing else spells these names; `screen.results` reads them."""

from pathlib import Path

STORE = "screen.zarr"
"""Every prediction and change, docs/store.md."""
HITS, COVERAGE = "hits.parquet", "coverage.parquet"
GENES = "deg"
"""Folder of the parts of the table of differential expression."""
GENE_SETS = "enrichment"
SCORES, TARGETS, RANKED = (f"{GENE_SETS}/{name}.parquet" for name in ("scores", "targets", "ranked"))
RELATIONS = "relations"
"""Folder of what perturbations have to do with each other, docs/relations.md."""
BACKGROUND, ON_TARGET, HALVES, SIMILARITY, FACTORS, MODULES, EPISTASIS, EPISTASIS_GENES = (
    f"{RELATIONS}/{name}.parquet"
    for name in ("genes", "targets", "halves", "similarity", "factors", "modules", "epistasis", "epistasis_genes")
)
PARTS = "part-*.parquet"
COMPARE = "compare"
"""Folder of the parts of the table of differences between time points."""
ANALYSES = "analyses"
"""Folder of tables that were asked for later, under names of their own, each as the first ones."""
PROVENANCE = "provenance.json"
STAMP = "tables.json"
"""What the tables were made of; there as long as all of them are whole."""
SESSIONS = "sessions.jsonl"
"""A line for each `run` that computed something: when, how much, how fast, on what."""
REPORT = "report.html"
PREDICTIONS = "predictions.h5ad"
"""Every prediction as upstream writes them, where a configuration asks for it."""
EVALUATION, EVALUATION_SUMMARY = "evaluation", "evaluation.json"
"""Folder of the tables that `evaluate` makes, and what it says."""
CHECKS = "check"
"""Folder of what `check` found, if it was asked."""
CHECK, CHECKED_CELLS = "check.json", "check.parquet"
"""In it: all figures, and a row per cell."""


def part(folder: Path, number: int) -> Path:
    """One of PARTS."""
    return folder / f"part-{number:04d}.parquet"


def tables_in(directory: Path) -> list[Path]:
    """Every table that is there."""
    named = [p for p in (directory / HITS, directory / COVERAGE) if p.is_file()]
    folders = (f"{GENES}/{PARTS}", f"{COMPARE}/{PARTS}", f"{GENE_SETS}/*.parquet", f"{RELATIONS}/*.parquet")
    return [*named, *(path for files in folders for path in sorted(directory.glob(files)))]


def analysis(directory: Path, name: str) -> Path:
    """Where the tables of an analysis lie."""
    return directory / ANALYSES / name


def analyses_in(directory: Path) -> list[str]:
    """Names of the analyses whose tables are whole."""
    return sorted(p.parent.name for p in directory.glob(f"{ANALYSES}/*/{STAMP}"))


def described(directory: Path, has_counts: bool, has_gene_sets: bool) -> str:
    """What a finished screen, or an analysis of it, leaves, in a line."""
    genes = [f"{GENES}/{PARTS}"] if has_counts else []
    genes += [f"{COMPARE}/{PARTS}"] if any(directory.glob(f"{COMPARE}/{PARTS}")) else []
    sets = [f"{GENE_SETS}/*.parquet"] if has_gene_sets else []
    sets += [f"{RELATIONS}/*.parquet"] if (directory / RELATIONS).is_dir() else []
    sets += [f"{ANALYSES}/{name}" for name in analyses_in(directory)]
    # a run of an earlier version wrote no sessions, and a report is made on request
    there = [
        name
        for name in (PROVENANCE, SESSIONS, PREDICTIONS, REPORT, f"{CHECKS}/{CHECK}")
        if (directory / name).is_file()
    ]
    store = [STORE] if (directory / STORE).is_dir() else []
    return ", ".join([*store, HITS, *genes, *sets, COVERAGE, *there])
