"""What each optimisation buys at the model's published size: the forward with everything, and without one thing at a time.

python -m benchmarks.engine.ablation             # about a minute on two quiet cores

Value and baseline are edits per second of the bare forward, controls included; all variants run in turn in one run.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.cases import QUICK, REAL, Case, Scale, make_case
from benchmarks.engine.bare import Stages, forward_of, seconds_in_lanes
from benchmarks.record import median, p20_p80, record, rounds
from benchmarks.run_all import exit_code, options
from screen.bench.bare import control_call
from screen.config.sections import ComputeConfig
from screen.engine.choose import choose_executor
from screen.engine.executor import Executor
from screen.engine.packed import PackedEngine
from screen.models.perturbgen.chains import REUSE
from screen.models.perturbgen.network.model import PerturbGen
from screen.models.perturbgen.packed import PackedPerturbGen
from screen.models.perturbgen.random import random_model, sizes_of
from screen.planning.batches import pack_controls
from screen.running.workload import batches_by_block

N_CELLS, N_EDITS, N_ROUNDS = 2, 12, 2
SRC, TGT = "src", "tgt"


def engine_of(case: Case, executor: Executor, left_out: str = "") -> PackedEngine:
    """The engine of a case; one kind of reuse may be left out."""
    engine = PackedEngine(case.screen, executor)
    model = engine.computer.model
    assert isinstance(model, PackedPerturbGen)
    engine.computer.model = replace(model, reuse=REUSE - {left_out})
    return engine


def variants(source: Case, target: Case, executor: Executor, chained: PerturbGen) -> dict[str, tuple[Case, Stages]]:
    """Name -> (screen, the calls that it takes). The first two have everything."""
    torch_only = replace(executor, cpu_products="torch", attention_from={})
    all_blocks = replace(source, screen=replace(source.screen, adapter=replace(source.screen.adapter, model=chained)))
    return {
        SRC: (source, forward_of(engine_of(source, executor))),
        TGT: (target, forward_of(engine_of(target, executor))),
        "gain_first_self_attention": (source, forward_of(engine_of(source, executor, "first"))),
        "gain_few_keys": (source, forward_of(engine_of(source, executor, "few"))),
        "gain_context_keys_values": (target, forward_of(engine_of(target, executor, "context"))),
        "gain_unreached_time_points": (target, forward_of(engine_of(target, executor, "unchanged"))),
        "gain_onednn_products": (source, forward_of(engine_of(source, replace(executor, cpu_products="torch")))),
        "gain_onednn_attention": (
            source,
            forward_of(engine_of(source, replace(executor, attention_from={}))),
        ),
        "gain_onednn": (source, forward_of(engine_of(source, torch_only))),
        "gain_batches": (source, forward_of(engine_of(source, replace(executor, batch_tokens=1)))),
        "gain_one_encoder_block": (all_blocks, forward_of(engine_of(all_blocks, executor))),
        "gain_shared_control": (source, control_per_item(engine_of(source, executor))),
    }


def control_per_item(engine: PackedEngine) -> Stages:
    """The forward, and a control for every item beside the one for its cell."""
    budget = engine.executor.batch_tokens
    batches = [b for _, items in batches_by_block(engine.screen, budget, range(engine.plan.n_units)) for b in items]
    more = [
        control_call(engine.computer, c)
        for b in batches
        for c in pack_controls(engine.screen.lengths, b.cell_B, budget)
    ]
    return [*forward_of(engine), more]


def main(arguments: Sequence[str] | None = None) -> int:
    """Records every gain. Nothing has a threshold; exit code 0."""
    given = options(__doc__, arguments)
    scale: Scale = replace(QUICK if given.quick else REAL, n_cells=N_CELLS)
    n_edits, n_rounds = (3, 1) if given.quick else (N_EDITS, N_ROUNDS)
    sizes = sizes_of(scale.sizes)
    model = random_model(sizes)
    source = make_case(SRC, model, scale, n_edits=n_edits)
    target = make_case(TGT, model, scale, n_edits=n_edits, site="tgt", pred_tps=(1, 2), pert_tps=(1,))
    # where a prediction that no edit reaches may be pooled anew it must be kept: upstream's rule, not ours
    source, target = (
        replace(c, screen=replace(c.screen, window=replace(c.screen.window, pool_everywhere=False)))
        for c in (source, target)
    )
    executor = choose_executor(ComputeConfig(), source.screen)
    chained = random_model(replace(sizes, encoder=replace(sizes.encoder, chained=True)))
    made = variants(source, target, executor, chained)
    taken = rounds(
        {name: lambda s=stages: seconds_in_lanes(s, executor) for name, (_, stages) in made.items()},
        n_rounds,
        n_warm_up=0,
    )
    for name, (case, _) in made.items():
        if name in (SRC, TGT):
            continue
        n_items = case.screen.plan.n_items
        assert n_items == made[case.name][0].screen.plan.n_items
        whole, without = taken[case.name], taken[name]
        line = record(
            name, round(n_items / median(whole), 3), "edits/s", round(n_items / median(without), 3),
            round(median(without) / median(whole), 3), given.results, n_edits=n_items,
            p20_p80=[round(n_items / s, 3) for s in reversed(p20_p80(whole))], site=case.name,
        )  # fmt: skip
        sys.stdout.write(f"{line['name']}: {line['ratio']}\n")
    return exit_code([], given.quick)


if __name__ == "__main__":
    sys.exit(main())
