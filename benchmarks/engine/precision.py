"""How exactly each precision gives deltas: emulated on a CPU, against float64, at the model's published size.

python -m benchmarks.engine.precision            # about a minute and a half; appends to benchmarks/results.jsonl

Error of the log1p-CP10K delta over its root mean square, median over edits. Weights are random, so
that genes differ as they do in cells; a trained model has other deltas, which a pilot measures. Tensor cores may round
otherwise than the emulation by a last bit.
"""

import copy
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch

from benchmarks.cases import QUICK, REAL, Scale, bank_of, prepared
from benchmarks.record import median, p20_p80, record
from benchmarks.run_all import exit_code, options
from screen.bench.synthetic import every_gene
from screen.config.sections import ComputeConfig
from screen.engine.choose import choose_executor
from screen.engine.effects import log_expression
from screen.engine.packed import PackedEngine
from screen.engine.screen import Screen
from screen.models.adapter import Rows
from screen.models.ops import Precision
from screen.models.perturbgen.network.model import PerturbGen
from screen.models.perturbgen.random import random_model, sizes_of
from screen.models.synthetic import synthetic_vocabulary
from screen.planning.window import Window

N_EDITS = 4
MOST_FLOAT32 = 0.01
"""A float32 error beyond this means that the two do not compute the same."""


@dataclass(frozen=True)
class Length:
    """A class of cells: source and target length of each."""

    name: str
    cells: tuple[tuple[int, int], ...]


CLASSES = (Length("250_420", ((260, 410), (400, 290))), Length("over_700", ((720, 900), (880, 740))))


def screen_of(length: Length, model: PerturbGen, scale: Scale) -> Screen:
    """A few source edits of each cell, deltas kept in float32."""
    length_CS = np.maximum(np.rint(np.array(length.cells) * scale.length_factor).astype(int), N_EDITS)
    library = every_gene(synthetic_vocabulary(scale.sizes), ["mask"], ["src"], genes=range(2 * N_EDITS))
    window = Window((1,), (), scale.sizes.max_len)
    return prepared(model, scale, bank_of(length_CS, scale, N_EDITS), library, window, dtype="float32")


def delta_of(screen: Screen, precision: Precision) -> np.ndarray:
    """Deltas (I, G) of every item by the engine."""
    engine = PackedEngine(screen, replace(choose_executor(ComputeConfig(), screen), precision=precision))
    found = np.zeros((screen.plan.n_items, screen.adapter.schema.n_genes))
    for unit in engine.units(range(screen.plan.n_units), lambda *_: None):
        found[unit.rows] = unit.columns["delta/t1"]
    return found


@torch.inference_mode()
def exact_delta_of(screen: Screen) -> np.ndarray:
    """Deltas (I, G) of every item by the plain model in float64, one item at a time."""
    adapter = replace(screen.adapter, model=copy.deepcopy(screen.adapter.model).double())

    def log_G(rows: Rows) -> torch.Tensor:
        readout = adapter.predict(rows)
        assert readout.value_BG[1].dtype == torch.float64
        return log_expression(
            readout.value_BG[1], readout.size_factor_B[1], str(screen.layout.expression_scale)
        ).log_BG[0]

    before = {c: log_G(screen.rows.control(c)) for c in np.unique(screen.plan.cell_I).tolist()}
    items = zip(screen.plan.cell_I.tolist(), screen.plan.perturbation_I.tolist(), strict=True)
    edited = [(c, screen.rows.edited(c, screen.library.perturbations[p])) for c, p in items]
    return torch.stack([log_G(rows) - before[c] for c, rows in edited]).numpy()


def relative_errors(found_IG: np.ndarray, exact_IG: np.ndarray) -> list[float]:
    """Per item: root mean square of the error over that of the delta."""

    def rms(x_IG: np.ndarray) -> np.ndarray:
        return np.sqrt(np.square(x_IG).mean(1))

    assert (rms(exact_IG) > 0).all(), "an edit changes nothing"
    return (rms(found_IG - exact_IG) / rms(exact_IG)).tolist()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: these figures have no threshold, but float32 must be near float64."""
    given = options(__doc__, arguments)
    scale = QUICK if given.quick else REAL
    model = random_model(sizes_of(scale.sizes))
    for length in CLASSES:
        screen = screen_of(length, model, scale)
        exact_IG = exact_delta_of(screen)
        errors = {p: relative_errors(delta_of(screen, p), exact_IG) for p in get_args(Precision)}
        assert median(errors["float32"]) <= MOST_FLOAT32, f"float32 is {median(errors['float32']):.2g} from float64"
        for precision, found in errors.items():
            line = record(
                f"precision_error_{precision}_{length.name}", float(f"{median(found):.3g}"), "of the delta's rms", None, None,
                given.results, p20_p80=[float(f"{q:.3g}") for q in p20_p80(found)], n_edits=len(found),
                lengths=length.cells, delta_rms=float(f"{np.sqrt(np.square(exact_IG).mean()):.3g}"), weights="random",
            )  # fmt: skip
            sys.stdout.write(json.dumps(line) + "\n")
    return exit_code([], given.quick)


if __name__ == "__main__":
    sys.exit(main())
