"""Speed and error of the packed engine in every precision, beside float32."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.job import Job, results, say, twin
from screen.bench.measure import Wanted, measure
from screen.bench.report import measured_as_json
from screen.cells.bank import SOURCE
from screen.config.sections import ComputeConfig
from screen.engine.choose import choose_executor
from screen.engine.packed import PackedEngine
from screen.models.ops import Precision

PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "fp16x2", "bf16")
GROUPS = {"250-420 tokens": (250, 420), "more than 700 tokens": (701, 10**9)}


def precisions(job: Job) -> None:
    """Speed and error of every precision at the model's real sizes, float32 first: the others are compared with it."""
    n_genes, n_cells = job.sizes.n_genes, 12 if job.is_quick else 96
    screen = twin(job.sizes, n_cells, range(0, n_genes, n_genes // 10))
    length_I = screen.bank.states[SOURCE].tokens.length_C[screen.plan.cell_I]
    expected: NDArray[np.float32] | None = None
    for precision in PRECISIONS:
        with job.part(f"precision {precision}"):
            wanted = Wanted(job.sizes, str(job.device), precision, batch_tokens=job.batch_tokens, seconds=job.seconds)
            found = measured_as_json(measure(wanted))
            job.figures.setdefault("precisions", {})[precision] = found
            # of a CPU, where only the code is tried; not timed against each other
            products: dict[str, Any] = {"cpu_products": "torch"} if job.is_quick else {}
            compute = ComputeConfig(
                device=str(job.device), precision=precision, batch_tokens=job.batch_tokens, **products
            )
            ours = results(PackedEngine(screen, choose_executor(compute, screen)))["delta/t1"]
            expected = ours if precision == "float32" else expected
            if expected is None:
                raise RuntimeError("float32 failed: there is nothing to compare with")
            found["delta error"] = delta_errors(ours, expected, length_I)


def delta_errors(ours: NDArray[Any], expected: NDArray[Any], length_I: NDArray[Any]) -> dict[str, Any]:
    """Median over items of rms error over rms delta, for all of them and by the length of the edited row."""
    error_I, size_I = (np.sqrt(np.square(x, dtype=np.float64).mean(1)) for x in (ours - expected, expected))
    error_I /= np.where(size_I > 0, size_I, np.nan)
    chosen = {"all": size_I > 0}
    chosen |= {name: (length_I >= a) & (length_I <= b) & (size_I > 0) for name, (a, b) in GROUPS.items()}
    found = {name: error_I[is_in] for name, is_in in chosen.items()}
    return {name: {"n": len(x), "median": float(np.median(x)) if len(x) else None} for name, x in found.items()}


def table(job: Job) -> None:
    """The precisions side by side, if they were measured."""
    if "precisions" not in job.figures:
        return
    head = f"\n{'precision':<10}{'edits/s':>12}{'TFLOP/s':>10}{'ceiling':>10}{'share':>8}{'outside':>9}{'peak GB':>9}"
    say(head + "".join(f"{'error, ' + g:>30}" for g in GROUPS))
    for precision, m in job.figures["precisions"].items():
        line = f"{precision:<10}{m['edits_per_s']:>12,.1f}{m['tflops']:>10.3g}{m['ceiling_tflops']:>10.3g}"
        line += f"{m['share_of_ceiling']:>8.0%}{m['outside_model_share']:>9.1%}{m['peak_memory_bytes'] / 1e9:>9.2f}"
        for error in (m.get("delta error", {}).get(g, {"n": 0}) for g in GROUPS):
            line += f"{'{median:.2e} ({n} edits)'.format(**error) if error['n'] else 'no edit':>30}"
        say(line)
