"""What is asked of a finished screen without its model: every table and every read, each in two seconds at most.

python -m benchmarks.stats.questions                       # a planted screen, made first: two minutes
python -m benchmarks.stats.questions --screen runs/demo    # of a finished screen, which is copied and left as it is
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.record import median, p20_p80, record, rounds
from benchmarks.run_all import exit_code, parser_of, reported
from demo.planted.sizes import Sizes
from demo.planted.written import build
from screen.config.sections import DegConfig
from screen.directory import GENES, STORE
from screen.results.related import TABLES
from screen.results.results import open_results
from screen.stats.again import analysis
from screen.stats.again.metadata import metadata_of
from screen.stats.deg import Names
from screen.stats.hits import hits
from screen.stats.parts import gene_tables
from screen.stats.relations.background import gene_background
from screen.stats.relations.epistasis import epistasis
from screen.stats.relations.halves import halves
from screen.stats.relations.items import Items
from screen.stats.relations.kinds import kinds
from screen.stats.relations.modules import modules
from screen.stats.relations.similarity import Changes, factors, similarity
from screen.stats.relations.tables import with_n_joint
from screen.stats.relations.targets import on_target
from screen.stats.sets.groups import Groups
from screen.stats.tables import read_coverage, strata_of
from screen.store.store import ScreenStore

LIMIT_S = 2.0
N_ROUNDS = 3
READ = "read"
"""The analysis that is read again; each question makes one under its own name."""
Question = Callable[[], object]


def asked_of_cells(directory: Path) -> dict[str, Question]:
    """Analyses under names of their own, and time points compared: those that this screen allows."""
    store = ScreenStore.open(directory / STORE)
    own: Sequence[str] = store.provenance["view"]["strata"]
    asked: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "deg_name": ({"strata": list(own)}, {}),
        "deg_name_top_50": ({"strata": list(own)}, {"top": 50}),
        "deg_name_top_0": ({"strata": list(own)}, {"top": 0}),
    }
    if (where := some_cells(store)) is not None:
        asked["deg_where"] = ({"where": where}, {})
    if len(times := store.layout.pred_tps) > 1 and not store.layout.keeps_summaries:
        asked["deg_compare"] = ({}, {"compare": [list(times[:2])]})
    return {name: partial(made, directory, name, *what) for name, what in asked.items()}


def some_cells(store: ScreenStore) -> str | None:
    """An expression that chooses some of the cells and not all: by the first column with two values."""
    for columns in metadata_of(store).values():
        for column, value_C in columns.items():
            levels = sorted(set(value_C.tolist()) - {""})
            if len(levels) > 1:
                return f"`{column}` != {levels[-1]!r}"
    return None


def made(directory: Path, name: str, cells: Mapping[str, Any], changes: Mapping[str, object]) -> None:
    """The tables of an analysis, gene sets apart, from the start."""
    shutil.rmtree(analysis.place(directory, name), ignore_errors=True)
    store = ScreenStore.open(directory / STORE)
    analysis.write_analysis(
        store, directory, analysis.asked(store, directory, name, cells, changes, (), ("gene_sets",))
    )


@contextmanager
def asked_of_changes(directory: Path) -> Iterator[dict[str, Question]]:
    """Each table of relations by itself, from mean changes that are there; what tables share is made for each."""
    store = ScreenStore.open(directory / STORE)
    view = store.provenance["view"]
    config = DegConfig(replicate=view["deg"]["replicate"], top=0)
    strata, names, n_min = strata_of(store, view["strata"], config.replicate), Names(store), view["min_cells"]
    number = {perturbation: i for i, perturbation in enumerate(names.id.tolist())}
    with (
        tempfile.TemporaryDirectory(dir=directory) as folder,
        gene_tables(store, Path(folder), strata, config) as (summaries, means),
    ):
        assert means is not None, "a model without counts has no relations"
        table = hits(summaries, names, read_coverage(directory, store), store.layout.pred_tps, n_min, means)
        groups, items = Groups.of(table, names, strata, means, n_min), Items(store, strata)
        of_kinds, joint = list(kinds(groups)), with_n_joint(table)
        background = gene_background(of_kinds, means, names)

        def of_changes(make: Callable[[Changes], object]) -> Question:
            return lambda: [make(Changes.of(kind, means)) for kind in of_kinds]

        found: dict[str, Question] = {
            "genes": lambda: gene_background(of_kinds, means, names),
            "targets": lambda: on_target(joint, summaries, names, strata.name_S, background),
            "similarity": of_changes(similarity), "factors": of_changes(lambda c: factors(c, names)),
            "modules": of_changes(lambda c: modules(c, names)),
            "epistasis": lambda: epistasis(joint, names, store.layout, items, means, n_min),
        }  # fmt: skip
        if not store.layout.keeps_summaries:
            found["halves"] = lambda: halves(of_kinds, items, number, means.n_genes)
        yield {f"relations_{name}": question for name, question in found.items()}


def asked_of_tables(directory: Path) -> dict[str, Question]:
    """Reads of tables that are there, each from a fresh start."""
    made(directory, READ, {}, {"relations": True})
    strongest = str(open_results(directory, READ).hits["perturbation"][0])
    there = [name for name, file in TABLES.items() if (analysis.place(directory, READ) / file).is_file()]

    def read(what: Callable[[Any], object]) -> Question:
        return lambda: what(open_results(directory, READ))

    return {
        "read_wide": read(lambda r: r.wide()), "read_null_z": read(lambda r: r.null_z(strongest)),
        "read_relations": read(lambda r: [r.relations(name) for name in there]),
    }  # fmt: skip


def with_cpu(question: Question, cpu_s: list[float]) -> Callable[[], float]:
    """Seconds of a question; `cpu_s` learns those of all cores."""

    def seconds() -> float:
        start, cpu = time.perf_counter(), time.process_time()
        question()
        cpu_s.append(time.process_time() - cpu)
        return time.perf_counter() - start

    return seconds


def measured(directory: Path, n_rounds: int, n_warm_up: int, results: Path) -> list[str]:
    """A figure for every question, recorded and in a table; what takes longer than LIMIT_S."""
    store = ScreenStore.open(directory / STORE)
    about = {
        "n_perturbations": len(store.perturbations("id")), "n_cells": store.n_cells,
        "n_genes": len(store.strings("genes/ensembl_id")), "n_times": len(store.layout.pred_tps),
    }  # fmt: skip
    with asked_of_changes(directory) as of_changes:
        questions = asked_of_cells(directory) | of_changes | asked_of_tables(directory)
        cpu_s: dict[str, list[float]] = {name: [] for name in questions}
        variants = {name: with_cpu(question, cpu_s[name]) for name, question in questions.items()}
        taken = rounds(variants, n_rounds, n_warm_up)
    faults, rows = [], []
    for name, seconds in taken.items():
        cpu = round(median(cpu_s[name][-n_rounds:]), 3)
        line = record(
            f"question_{name}", round(median(seconds), 3), "s", None, None, results,
            p20_p80=[round(s, 3) for s in p20_p80(seconds)], cpu_s=cpu, **about,
        )  # fmt: skip
        faults.append(reported(line, at_most=LIMIT_S))
        rows.append(f"{name:22}{line['value']:8.3f} s{cpu:8.3f} s of CPU{'  too slow' if faults[-1] else ''}")
    sys.stdout.write("\n".join(rows) + "\n")
    return faults


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 1 if a table takes longer than LIMIT_S."""
    parser = parser_of(__doc__)
    parser.add_argument("--screen", type=Path, help="a finished screen; by default a planted one is made")
    given = parser.parse_args(arguments)
    n_rounds, n_warm_up = (1, 0) if given.quick else (N_ROUNDS, 1)
    sizes = Sizes(n_perturbations=250, n_strata=2, n_cells=20, n_nulls=20) if given.quick else Sizes()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "screen"
        if given.screen is None:
            build(directory, sizes)
        else:
            shutil.copytree(given.screen, directory, ignore=shutil.ignore_patterns(GENES, "analyses"))
        return exit_code(measured(directory, n_rounds, n_warm_up, given.results), given.quick)


if __name__ == "__main__":
    sys.exit(main())
