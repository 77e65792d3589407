"""The engine at the model's published size: against upstream's shape, its own bare forward, and its bare products.

python -m benchmarks.engine.real_size            # about six minutes on two quiet cores; appends to benchmarks/results.jsonl

Upstream's cost per edit depends on the padded length, the time points and context mode, not on the edit: it is timed
once per setting, and figures of one setting share it. What an edit does is compared in every figure.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import QUICK, REAL, SHIPPED_LENGTH, Case, Engine, Scale, Upstream, make_case, worst_error
from benchmarks.engine.bare import forward_of, products_of, seconds_in_lanes
from benchmarks.engine.upstream_shaped import SPECIAL_IDS, UpstreamShaped, flops
from benchmarks.record import median, p20_p80, record, rounds
from benchmarks.run_all import exit_code, options, verdict
from screen.config.sections import ComputeConfig
from screen.engine.choose import choose_executor
from screen.engine.executor import Executor
from screen.engine.lanes import default_lanes
from screen.engine.packed import PackedEngine
from screen.models.perturbgen.network.model import PerturbGen
from screen.models.perturbgen.random import random_model, sizes_of
from screen.running.workload import total_flops

WORST_ERROR = 1e-4
MAIN, TARGET = "src_mask_vs_upstream_shaped", "tgt_mask_vs_upstream_shaped"
SHIPPED = f"{MAIN}_{SHIPPED_LENGTH}"
AT_LEAST = {MAIN: 24.0, SHIPPED: 13.0, TARGET: 24.0}
"""The least ratio of a figure; it must not be below the ratio of FLOPs either."""
END_TO_END, NEAR_PRODUCTS = 0.9, 0.8
Seconds = Mapping[str, Sequence[float]]


@dataclass
class Report:
    """Where figures go and what is wrong with them; `upstream_s` are upstream's seconds per edit by figure."""

    results: Path
    faults: list[str] = field(default_factory=list)
    upstream_s: dict[str, Sequence[float]] = field(default_factory=dict)

    def add(self, name: str, at_least: float | None = None, **line: Any) -> None:
        """Records, prints and judges a figure."""
        made = record(name, path=self.results, **line)
        sys.stdout.write(json.dumps(made) + "\n")
        sys.stdout.flush()
        self.faults.append(verdict(made, at_least=at_least))


def cases(model: PerturbGen, scale: Scale) -> Iterator[Case]:
    """The figures against upstream's shape after the main one."""
    few = {"n_edits": scale.n_few_edits, "n_rounds": scale.n_few_rounds}
    two: dict[str, Any] = {"site": "tgt", "pred_tps": (1, 2)}
    shared: dict[str, Any] = {"baseline_of": TARGET, "most_cells": 1, **few, **two}
    both, context = (f"tgt_mask_{x}_vs_upstream_shaped" for x in ("both", "context"))
    yield make_case(SHIPPED, model, scale, n_edits=scale.n_edits, n_rounds=scale.n_few_rounds, max_len=scale.shorter)
    yield make_case(TARGET, model, scale, n_edits=scale.n_edits, n_rounds=scale.n_few_rounds, pert_tps=(1,), **two)
    yield make_case(both, model, scale, pert_tps=(1, 2), **shared)
    yield make_case(context, model, scale, pert_tps=(1,), context_mode=True, most_cells=2, **few, **two)
    for mode in ("delete", "overexpress"):
        yield make_case(f"tgt_{mode}_vs_upstream_shaped", model, scale, mode=mode, pert_tps=(1,), **shared)


def against_upstream(case: Case, upstream: Upstream, engine: Engine, taken: Seconds, report: Report) -> None:
    """Checks that both say the same, then records edits per second."""
    error = worst_error(upstream, engine)
    assert error <= WORST_ERROR, (
        f"{case.name}: expected counts differ by {error:.2g} of the largest; nothing is recorded"
    )
    report.upstream_s[case.name] = taken["upstream"]
    shared = report.upstream_s[case.baseline_of or case.name]
    plan, sizes = case.screen.plan, case.screen.adapter.model.sizes
    per_edit = total_flops(case.screen, engine.executor.batch_tokens) / plan.n_items
    theirs = sum(flops(sizes, case.max_len, case.settings, 0, upstream.loop.encoder_logits.out_features).values())
    value, baseline = plan.n_items / median(taken["engine"]), 1 / median(shared)
    least = AT_LEAST.get(case.name)
    report.add(
        case.name,
        None if least is None else max(least, theirs / per_edit),
        value=round(value, 3),
        unit="edits/s",
        baseline=round(baseline, 4),
        ratio=round(value / baseline, 2),
        p20_p80=[round(plan.n_items / s, 3) for s in reversed(p20_p80(taken["engine"]))],
        baseline_p20_p80=[round(1 / s, 4) for s in reversed(p20_p80(shared))],
        flops_ratio=round(theirs / per_edit, 2),
        gflop_per_edit=[round(per_edit / 1e9, 2), round(theirs / 1e9, 1)],
        worst_error=float(f"{error:.2g}"),
        padded_to=case.max_len,
        n_edits=plan.n_items,
        n_cells=case.screen.bank.n_cells,
        n_baseline_edits=len(upstream.found),
        baseline_of=case.baseline_of or case.name,
        n_lanes=engine.executor.n_lanes or default_lanes(engine.executor.device),
        n_baseline_threads=torch.get_num_threads(),
        engine=engine.executor.decided(),
    )


def main_figures(case: Case, loop: UpstreamShaped, executor: Executor, folder: Path, report: Report) -> None:
    """The main figure, the engine over its bare forward, and that over its bare products, all in turn in one run."""
    bare = PackedEngine(case.screen, executor)
    forward = forward_of(bare)
    products, flops_heard = products_of(bare, forward)
    total = total_flops(case.screen, executor.batch_tokens)
    assert flops_heard == total, f"the forward's calls have {flops_heard} FLOPs, its batches {total}"
    upstream, engine = Upstream(case, loop), Engine(case.screen, executor, folder)
    variants = {
        "upstream": upstream.seconds_per_edit,
        "engine": engine.seconds,
        "forward": lambda: seconds_in_lanes(forward, executor),
        "products": lambda: seconds_in_lanes(products, executor),
    }
    taken = rounds(variants, case.n_rounds, n_warm_up=0)
    against_upstream(case, upstream, engine, taken, report)
    n_items = case.screen.plan.n_items
    middle = {name: median(seconds) for name, seconds in taken.items()}
    report.add(
        "engine_vs_bare_forward",
        END_TO_END,
        value=round(n_items / middle["engine"], 3),
        unit="edits/s",
        baseline=round(n_items / middle["forward"], 3),
        ratio=round(middle["forward"] / middle["engine"], 4),
        p20_p80=[round(n_items / s, 3) for s in reversed(p20_p80(taken["engine"]))],
        tflops=round(total / middle["engine"] / 1e12, 4),
    )
    report.add(
        "packed_forward_vs_matmul",
        NEAR_PRODUCTS,
        value=round(total / middle["forward"] / 1e9, 1),
        unit="GFLOP/s",
        baseline=round(total / middle["products"] / 1e9, 1),
        ratio=round(middle["products"] / middle["forward"], 4),
        p20_p80=[round(total / s / 1e9, 1) for s in reversed(p20_p80(taken["forward"]))],
    )


def other_figure(case: Case, loop: UpstreamShaped, executor: Executor, folder: Path, report: Report) -> None:
    """One more figure against upstream's shape."""
    upstream, engine = Upstream(case, loop), Engine(case.screen, executor, folder)
    if case.baseline_of:
        once = upstream.seconds_per_edit()
        taken = {"upstream": [once], **rounds({"engine": engine.seconds}, case.n_rounds, n_warm_up=0)}
    else:
        variants = {"upstream": upstream.seconds_per_edit, "engine": engine.seconds}
        taken = rounds(variants, case.n_rounds, n_warm_up=0)
    against_upstream(case, upstream, engine, taken, report)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 1 if a figure is below what it must show."""
    given = options(__doc__, arguments)
    scale, report = QUICK if given.quick else REAL, Report(given.results)
    model = random_model(sizes_of(scale.sizes))
    loop = UpstreamShaped.random(model, scale.sizes.n_encoder_blocks, scale.sizes.n_source_tokens - len(SPECIAL_IDS))
    with tempfile.TemporaryDirectory() as folder:
        first = make_case(MAIN, model, scale, n_edits=scale.n_edits, n_rounds=scale.n_rounds)
        executor = choose_executor(ComputeConfig(), first.screen)
        main_figures(first, loop, executor, Path(folder), report)
        for case in cases(model, scale):
            other_figure(case, loop, executor, Path(folder), report)
    return exit_code(report.faults, given.quick)


if __name__ == "__main__":
    sys.exit(main())
