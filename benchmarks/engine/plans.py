"""What packing pads, and what planning and a whole run need in time and memory.

python -m benchmarks.engine.plans            # about two minutes; appends to benchmarks/results.jsonl

Peak memory is that of a process of its own, Python, torch and the cells included. Weights are random, or only shapes.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cases import QUICK, Scale, prepared
from benchmarks.record import ROOT, record
from benchmarks.run_all import exit_code, parser_of, reported
from screen import edits
from screen.bench.synthetic import every_gene
from screen.cells.bank import SOURCE, Ragged, State, TokenBank
from screen.cells.vocabulary import Vocabulary
from screen.cli.terminal import Console
from screen.config.sections import ComputeConfig
from screen.engine.choose import choose_executor
from screen.engine.packed import PackedEngine
from screen.engine.screen import Screen
from screen.models.perturbgen.network.model import PerturbGen
from screen.models.perturbgen.random import random_model, sizes_of
from screen.models.synthetic import SyntheticSizes, random_bank, synthetic_vocabulary
from screen.planning.batches import pack_unit, padded_share
from screen.planning.perturbations import Library, make_library, make_perturbation
from screen.planning.window import Window
from screen.running.configuration import load_config
from screen.running.prepare import prepare
from screen.running.resume import coverage_of, open_store
from screen.running.runner import run_units
from screen.running.tables import make_tables
from screen.stats.tables import write_coverage
from screen.store.store import ScreenStore

NAIVE_CELLS = 64
MOST_PADDED, MOST_PLAN_S, MOST_PLAN_GB, MOST_GROWTH = 0.05, 60.0, 4.0, 1.15
LONG_MEDIAN, LONG_SIGMA, LONG_MAX = 1030, 0.45, 3629
"""Rows of cells that express 19 % of 6,000 genes."""


@dataclass(frozen=True)
class Work:
    """How large everything is.

    wide, n_wide_cells, every   the genome-wide plan, of which every n-th unit is packed
    small_plan, large_plan      cells and modes of the two plans that are timed, over n_planned_genes genes
    run, n_run_cells, n_run_pairs  the run whose perturbations are multiplied by ten: units and row groups are full at 1x
    """

    wide: SyntheticSizes
    n_wide_cells: int
    every: int
    n_planned_genes: int
    small_plan: tuple[int, str]
    large_plan: tuple[int, str]
    run: SyntheticSizes
    n_run_cells: int
    n_run_pairs: int


REAL = Work(
    SyntheticSizes(), 20_000, 40, 6_000, (9_000, "mask"), (14_000, "mask,overexpress"),
    SyntheticSizes(
        width=32, n_heads=2, encoder_head_width=16, head_width=8, n_encoder_blocks=1, n_blocks=1,
        n_genes=1000, n_source_tokens=4000, max_len=24,
    ), 128, 256,
)  # fmt: skip
TINY = Work(
    replace(QUICK.sizes, n_times=1), 200, 1, 300, (200, "mask"), (300, "mask,overexpress"),
    replace(QUICK.sizes, n_times=1), 16, 4,
)  # fmt: skip


def wide_screen(work: Work) -> Screen:
    """Every gene knocked out in many cells, planned but with no weights."""
    bank = random_bank(work.n_wide_cells, synthetic_vocabulary(work.wide), 1, work.wide.max_len)
    library = every_gene(synthetic_vocabulary(work.wide), ["mask"], ["src"])
    return prepared(shapes_of(work.wide), Scale(work.wide), bank, library, Window((1,), (), work.wide.max_len))


def shapes_of(sizes: SyntheticSizes) -> PerturbGen:
    """A model without weights."""
    with torch.device("meta"):
        return PerturbGen(sizes_of(sizes))


def shares(screen: Screen, units: Iterable[int], batch_tokens: int) -> tuple[float, float]:
    """Padded share of our batches of items, and of batches of 64 in store order padded to their longest."""
    ours, n_padded, n_tokens = [], 0, 0
    for number in units:
        batches = [b for _, some in pack_unit(screen.lengths, screen.plan, number, batch_tokens) for b in some]
        rows = screen.plan.unit(number)
        packed = np.sort(np.concatenate([b.item_B for b in batches]))
        assert np.array_equal(packed, np.arange(rows.start, rows.stop)), f"unit {number} is not packed item by item"
        ours += batches
        for first in range(rows.start, rows.stop, NAIVE_CELLS):
            part = slice(first, min(first + NAIVE_CELLS, rows.stop))
            edited = screen.lengths.edited(screen.plan.cell_I[part], screen.plan.perturbation_I[part])
            for length_B, _ in edited.values():
                whole = len(length_B) * max(int(length_B.max()), 1)
                n_tokens, n_padded = n_tokens + whole, n_padded + whole - int(length_B.sum())
    return padded_share(ours), n_padded / max(n_tokens, 1)


def padding(name: str, screen: Screen, units: range, results: Path) -> str:
    """Records a padded share; what is wrong with it."""
    executor = choose_executor(ComputeConfig(), screen)
    share, naive = shares(screen, units, executor.batch_tokens)
    n_items = sum(r.stop - r.start for r in map(screen.plan.unit, units))
    line = record(
        name, round(share, 5), "of all tokens", round(naive, 5), None, results,
        units=f"every {units.step}. of {screen.plan.n_units}", n_items=n_items,
        n_planned=screen.plan.n_items, batch_tokens=executor.batch_tokens,
    )  # fmt: skip
    return reported(line, at_most=MOST_PADDED)


def long_bank(n_cells: int, n_genes: int, seed: int = 0) -> TokenBank:
    """Cells with long rows of random genes, a source and one target."""
    rng, states = np.random.default_rng(seed), {}
    for state in (SOURCE, 1):
        longest = min(LONG_MAX, n_genes)
        length_C = np.clip(rng.lognormal(np.log(LONG_MEDIAN), LONG_SIGMA, n_cells), 20, longest).astype(np.int64)
        rows = [rng.permutation(n_genes)[:n].astype(np.int32) for n in length_C]
        states[state] = State(Ragged.from_rows(rows), np.arange(n_cells))
    return TokenBank(states, tuple(map(str, range(n_cells))))


def plan_child(n_cells: int, modes: str, n_genes: int) -> dict[str, Any]:
    """Plans a screen of every gene in this process: seconds, items, peak memory."""
    sizes = SyntheticSizes(n_genes=n_genes, n_source_tokens=n_genes + 4, max_len=LONG_MAX)
    bank, vocabulary = long_bank(n_cells, n_genes), synthetic_vocabulary(sizes)
    shift = int(vocabulary.target_token_G[0])
    states = {
        s: replace(x, tokens=Ragged(x.tokens.token_T + shift, x.tokens.offset_C1)) for s, x in bank.states.items()
    }
    library = every_gene(vocabulary, modes.split(","), ["src"])  # type: ignore[arg-type]
    model, bank = shapes_of(sizes), replace(bank, states=states)
    start = time.perf_counter()
    plan = prepared(model, Scale(sizes), bank, library, Window((1,), (), LONG_MAX)).plan
    elapsed_s = time.perf_counter() - start
    n_tokens = len(bank.states[SOURCE].tokens.token_T)
    needs_gene = [edits.parse(m).mode.needs_gene for m in modes.split(",")]
    expected = sum(n_tokens if needs else n_genes * n_cells for needs in needs_gene)
    assert plan.n_items == expected, f"{plan.n_items} items are planned"
    return {"n_items": plan.n_items, "elapsed_s": round(elapsed_s, 2), "n_cells": n_cells, "modes": modes}


def pairs(vocabulary: Vocabulary, n: int) -> Library:
    """`n` different pairs of genes, overexpressed in the source."""
    n_genes = len(vocabulary)
    genes = [(i % n_genes, (i + 1 + i // n_genes) % n_genes) for i in range(n)]
    return make_library([([make_perturbation(g, "overexpress", ["src"], [], vocabulary) for g in genes], False)])


def run_child(factor: int, work: Work) -> dict[str, Any]:
    """Runs a whole screen, tables included, in this process: items, units, peak memory."""
    vocabulary = synthetic_vocabulary(work.run)
    bank = random_bank(work.n_run_cells, vocabulary, 1, work.run.max_len)
    library = pairs(vocabulary, factor * work.n_run_pairs)
    model, window = random_model(sizes_of(work.run)), Window((1,), (), work.run.max_len)
    screen = prepared(model, Scale(work.run), bank, library, window)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        executor = choose_executor(ComputeConfig(), screen)
        store: ScreenStore = open_store(screen, Path(folder), "", executor)
        run_units(PackedEngine(screen, executor), store, lambda *_: None)
        assert store.is_complete
        before_tables = peak_gb()
        write_coverage(coverage_of(screen, store), store, Path(folder))
        make_tables(store, Path(folder), Console())
    return {
        "n_items": screen.plan.n_items,
        "n_units": screen.plan.n_units,
        "unit_rows": screen.plan.unit_rows,
        "n_perturbations": len(library),
        "peak_gb_without_tables": before_tables,
        "elapsed_s": round(time.perf_counter() - start, 1),
    }


def peak_gb() -> float:
    """Most memory that this process has held, in 10^9 bytes."""
    # ru_maxrss would be that of the parent where it is larger: a child starts as a copy of it
    kilobytes = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert kilobytes is not None
    return round(int(kilobytes[1]) * 1024 / 1e9, 4)


def child(kind: str, *values: object, is_quick: bool) -> dict[str, Any]:
    """What a process of its own reports."""
    command = [
        sys.executable,
        "-m",
        __spec__.name,
        *(["--quick"] if is_quick else []),
        "--child",
        kind,
        *map(str, values),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def planning(work: Work, results: Path, is_quick: bool) -> list[str]:
    """Records how fast items are planned, at two sizes; what is wrong with it."""
    small, large = (
        child("plan", *size, work.n_planned_genes, is_quick=is_quick) for size in (work.small_plan, work.large_plan)
    )
    line = record(
        "plan_genome_wide_items_per_s", round(large["n_items"] / large["elapsed_s"]), "items/s", None, None, results,
        **large, n_genes=work.n_planned_genes, smaller=small,
    )  # fmt: skip
    reported(line)
    slow = [
        f"planning {x['n_items']:,} items took {x['elapsed_s']} s"
        for x in (small, large)
        if x["elapsed_s"] > MOST_PLAN_S
    ]
    big = [
        f"planning {x['n_items']:,} items took {x['peak_gb']} GB" for x in (small, large) if x["peak_gb"] > MOST_PLAN_GB
    ]
    return slow + big


def growth(results: Path, is_quick: bool) -> str:
    """Records the peak memory of a run with ten times the perturbations; what is wrong with it."""
    once, tenfold = (child("run", factor, is_quick=is_quick) for factor in (1, 10))
    line = record(
        "peak_memory_10x", tenfold["peak_gb"], "GB", once["peak_gb"], round(tenfold["peak_gb"] / once["peak_gb"], 4), results,
        tenfold=tenfold, once=once,
    )  # fmt: skip
    return reported(line, at_most=MOST_GROWTH)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 1 if a figure is not what it must be."""
    parser = parser_of(__doc__)
    parser.add_argument("--child", nargs="+", help="what a process of its own measures; used by this script itself")
    given = parser.parse_args(arguments)
    work = TINY if given.quick else REAL
    if given.child:
        kind, *values = given.child
        found = (
            plan_child(int(values[0]), values[1], int(values[2])) if kind == "plan" else run_child(int(values[0]), work)
        )
        sys.stdout.write(json.dumps({**found, "peak_gb": peak_gb()}) + "\n")
        return 0
    demo = prepare(load_config(ROOT / "configs" / "demo.yaml"))
    faults = [padding("padding_demo", demo, range(demo.plan.n_units), given.results)]
    wide = wide_screen(work)
    faults.append(padding("padding_genome_wide", wide, range(0, wide.plan.n_units, work.every), given.results))
    del wide
    faults += planning(work, given.results, given.quick)
    faults.append(growth(given.results, given.quick))
    return exit_code(faults, given.quick)


if __name__ == "__main__":
    sys.exit(main())
