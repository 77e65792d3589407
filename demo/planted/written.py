"""Written: a planted screen as a finished directory, its gene sets and its truth beside it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from demo.planted.cells import DONOR_COLUMN, STRATUM_COLUMN, Cells, make_cells
from demo.planted.effects import PlantedEngine, PlantedScreen, Responses
from demo.planted.sizes import Sizes
from demo.planted.truth import MODULES, N_SHIFT, Truth, plant
from screen.config.sections import DegConfig, EnrichConfig, OutputConfig
from screen.directory import PROVENANCE, STORE
from screen.engine.screen import NUMERICS_VERSION
from screen.errors import StoreError
from screen.files import write_file
from screen.planning.index import BankIndex
from screen.planning.plan import order
from screen.planning.selection import select_items
from screen.planning.window import Window
from screen.results.results import Results, open_results
from screen.running.listener import Lines, Listener
from screen.running.runner import run_units
from screen.running.tables import make_tables
from screen.stats.sets.gene_sets import view_of_gene_sets
from screen.stats.tables import write_coverage
from screen.store.reader import FORMAT_VERSION
from screen.store.store import ScreenStore

TRUTH, GENE_SETS = "truth.json", "planted.gmt"
CREATED = "2026-01-01T00:00:00+00:00"
UNIT_BYTES, MOST_ROWS, ROWS_STEP, FEWEST_CELLS = 48 * 2**20, 8192, 256, 16
N_RANDOM_SETS = 60
HOSTILE_SET = "</script><b>RANDOM</b>"
NOTES = ("a synthetic screen: no model predicted it, and truth.json says what was planted",)


def build(
    directory: Path, sizes: Sizes, listener: Listener | None = None, compare: tuple[tuple[int, int], ...] = ()
) -> Results:
    """Makes a finished screen. The same bytes for the same sizes and directory.

    compare  pairs of time points, as `deg: {compare}`
    Raises StoreError where a screen is there already.
    """
    if (directory / STORE).exists():
        raise StoreError(f"{directory} holds a screen already; remove it, or choose another --out")
    listener = listener or Lines(lambda text: None)
    cells = make_cells(sizes)
    screen = planned(sizes, cells, plant(sizes, cells))
    engine = PlantedEngine(screen)
    return finished(
        directory, screen, engine, _gene_sets(screen, engine.responses), described(screen), listener, compare
    )


def planned(sizes: Sizes, cells: Cells, truth: Truth) -> PlantedScreen:
    """Its items, cut into units."""
    index = BankIndex(cells.bank, truth.vocabulary, cells.max_len)
    selection = select_items(
        truth.library, index, Window(sizes.times, (), cells.max_len), cells.stratum_C, cells.stratum
    )
    row_bytes = 4 * len(sizes.times) * sizes.genes
    unit_rows = max(min(UNIT_BYTES // row_bytes, MOST_ROWS) // ROWS_STEP, 1) * ROWS_STEP
    plan = order(selection, unit_rows=unit_rows, cells_per_block=max(FEWEST_CELLS, unit_rows // len(truth.library)))
    return PlantedScreen(sizes, cells, truth, plan, index)


def finished(
    directory: Path,
    screen: PlantedScreen,
    engine: PlantedEngine,
    gene_sets: Iterable[str],
    truth: Mapping[str, Any],
    listener: Listener,
    compare: tuple[tuple[int, int], ...] = (),
) -> Results:
    """A finished screen of what an engine makes up; `gene_sets` are lines of a GMT file. Raises StoreError as `build`."""
    if (directory / STORE).exists():
        raise StoreError(f"{directory} holds a screen already; remove it, or choose another --out")
    directory.mkdir(parents=True, exist_ok=True)
    sets = directory / GENE_SETS
    write_file(sets, "".join(gene_sets).encode())
    store = _create(screen, directory, sets.resolve(), compare)
    with listener.progress(screen.plan.n_items) as progress:
        run_units(engine, store, progress)
    store.finish()
    write_coverage(screen.plan.coverage, store, directory)
    write_file(directory / TRUTH, (json.dumps(truth, indent=1) + "\n").encode())
    make_tables(store, directory, listener)
    return open_results(directory)


def _create(screen: PlantedScreen, directory: Path, sets: Path, compare: tuple[tuple[int, int], ...]) -> ScreenStore:
    sizes, truth = screen.sizes, screen.truth
    output = OutputConfig(strata=[STRATUM_COLUMN], min_cells=sizes.min_cells, keep=screen.layout.keep)
    replicate = DONOR_COLUMN if sizes.has_replicates else None
    deg = DegConfig(replicate=replicate, top=sizes.top, compare=compare, relations=sizes.has_relations)
    enrich = EnrichConfig(gene_sets=[sets])
    provenance: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "identity": {
            "model": "planted", "vocabulary": truth.vocabulary.fingerprint, "cells": screen.cells.bank.fingerprint(),
            "layout": screen.layout.as_json(), "strata": None, "precision": "float32", "numerics_version": NUMERICS_VERSION,
        },
        "decided": {"precision": "float32", "batch_tokens": 0}, "pilot": None, "created": CREATED,
        "perturbscreen": "planted", "notes": list(NOTES),
        "view": {
            "var_list": output.var_list, "export_batch_size": output.export_batch_size, "strata": output.strata,
            "min_cells": output.min_cells, "deg": deg.recorded(), "enrich": view_of_gene_sets(enrich), "named": [],
        },
    }  # fmt: skip
    attributes = {
        "library": truth.library.fingerprint(truth.vocabulary), "plan": screen.plan.fingerprint(), "created": CREATED,
        "config": f"# python -m demo.planted\n{yaml.safe_dump(sizes.as_json())}", "perturbscreen": "planted",
    }  # fmt: skip
    store = ScreenStore.create(
        directory / STORE, truth.vocabulary, screen.cells.bank, screen.layout, provenance,
        lambda new: new.add_block(screen.plan, truth.library, truth.vocabulary, attributes),
    )  # fmt: skip
    write_file(directory / PROVENANCE, json.dumps(store.history, indent=2).encode())
    return store


def _gene_sets(screen: PlantedScreen, found: Responses) -> Iterator[str]:
    """Lines of a GMT file: what rises and falls in a module, what a shifted set is, everybody's response, random genes."""
    rng, symbol = np.random.default_rng([screen.sizes.seed, 5]), screen.truth.vocabulary.symbol

    def line(name: str, genes: Any) -> str:
        return "\t".join([name, "planted", *(symbol[g] for g in genes)]) + "\n"

    for name, program, sign in planted_sets():
        yield line(name, np.flatnonzero(sign * found.program_KG[program] > 0))
    yield line("EVERYBODYS_RESPONSE", np.argsort(-found.shared_TG[-1])[:30])
    for i in range(N_RANDOM_SETS):
        name = HOSTILE_SET if screen.sizes.is_hostile and i == 0 else f"RANDOM_{i + 1:02d}"
        yield line(name, rng.choice(len(symbol), int(rng.integers(8, 60)), replace=False))


def planted_sets() -> list[tuple[str, int, int]]:
    """(name, number of the response, 1 for the genes that rise in it and -1 for those that fall)."""
    modules = [(f"MODULE_{m}_{up}", k, s) for k, m in enumerate(MODULES) for up, s in (("UP", 1), ("DOWN", -1))]
    return [*modules, *((f"SHIFTED_{k + 1}", len(MODULES) + k, 1) for k in range(N_SHIFT))]


def described(screen: PlantedScreen) -> dict[str, Any]:
    """What `truth.json` says; strata and time points by their names."""
    truth, cells, times = screen.truth, screen.cells, screen.sizes.times
    ids, found = truth.library.ids(truth.vocabulary), list[dict[str, Any]]()
    set_of = {program: name for name, program, sign in planted_sets() if sign > 0}
    for number, p in enumerate(truth.library.perturbations):
        pair, roles = truth.pair_of.get(number), [truth.role[g] for g in p.genes]
        if truth.library.is_null[number] or (pair is None and all(r.kind == "ordinary" for r in roles)):
            continue
        entry: dict[str, Any] = {"perturbation": ids[number], "symbols": [r.symbol for r in roles], "mode": p.mode}
        if pair is not None:
            entry |= {"kind": "pair", "interaction": pair.interaction}
        elif len(roles) == 1:
            role = roles[0]
            entry |= {
                "kind": role.kind, "strata": [cells.stratum[s] for s in role.strata],
                "times": [times[t] for t in role.times], "strength": role.strength, "gene_set": set_of.get(role.program),
            }  # fmt: skip
        else:
            entry["kind"] = "additive"
        found.append(entry)
    ordinary = [
        ids[n] for n, p in enumerate(truth.library.perturbations)
        if not truth.library.is_null[n] and n not in truth.pair_of and all(truth.role[g].kind == "ordinary" for g in p.genes)
    ]  # fmt: skip
    modules = {
        letter: [r.symbol for r in truth.role if r.kind == "module" and r.program == m]
        for m, letter in enumerate(MODULES)
    }
    return {
        "sizes": screen.sizes.as_json(), "strata": list(cells.stratum), "times": list(times), "planted": found,
        "modules": modules, "ordinary": ordinary, "n_null": sum(truth.library.is_null), "gene_sets": [n for n, *_ in planted_sets()],
    }  # fmt: skip
