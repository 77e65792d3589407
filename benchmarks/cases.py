"""Case: a synthetic screen of the model's published size for one figure, and upstream's loop and our engine on it.

Cells are drawn as edits meet them: in a screen of every gene a cell has as many edits as tokens, so edited rows are as
long as the length-weighted log-normal (median 350, 5-95 % 150-700), taken here as the means of its equal parts; the
other rows are as long as cells are. Every cell holds the same number of the library's genes. Weights are random.
"""

import math
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from benchmarks.engine.upstream_shaped import Edit, PaddedCells, Settings, UpstreamShaped
from screen import edits
from screen.bench.synthetic import every_gene
from screen.cells.bank import SOURCE, Ragged, State, TokenBank
from screen.config.sections import OutputConfig
from screen.edits import Site
from screen.engine.executor import Executor
from screen.engine.packed import PackedEngine
from screen.engine.rows import RowBuilder
from screen.engine.screen import Screen
from screen.models.perturbgen.adapter import PerturbGenAdapter
from screen.models.perturbgen.network.model import PerturbGen
from screen.models.synthetic import MEDIAN_LENGTH, P5_LENGTH, P95_LENGTH, SyntheticSizes, synthetic_vocabulary
from screen.planning.index import BankIndex
from screen.planning.layout import Layout, counts
from screen.planning.perturbations import Library
from screen.planning.selection import select_items
from screen.planning.window import Window
from screen.running.resume import open_store
from screen.running.runner import run_units
from screen.running.unit_sizes import plan_units
from screen.store.store import ScreenStore

SHIPPED_LENGTH = 797


@dataclass(frozen=True)
class Scale:
    """How large everything is. Each cell holds `n_edits` genes of twice as many; minor figures have fewer of all."""

    sizes: SyntheticSizes
    shorter: int = SHIPPED_LENGTH
    n_cells: int = 5
    n_edits: int = 40
    n_few_edits: int = 12
    n_rounds: int = 3
    n_few_rounds: int = 2
    length_factor: float = 1.0


REAL = Scale(SyntheticSizes(n_times=2))
QUICK = Scale(
    SyntheticSizes(
        width=32, n_heads=2, encoder_head_width=16, head_width=8, n_encoder_blocks=3, n_blocks=2,
        n_genes=300, n_source_tokens=1000, max_len=120, n_times=2,
    ),
    shorter=80, n_edits=6, n_few_edits=3, n_rounds=1, n_few_rounds=1, length_factor=0.1,
)  # fmt: skip


def lengths(n: int, by_edit: bool, factor: float = 1.0) -> list[int]:
    """Mean length of each n-th part of all cells, or of all edits, shortest first."""
    sigma = math.log(P95_LENGTH / P5_LENGTH) / (2 * NormalDist().inv_cdf(0.95))
    mean = factor * MEDIAN_LENGTH * math.exp(sigma**2 * (1.5 if by_edit else 0.5))
    below = [0.0, *(NormalDist().cdf(NormalDist().inv_cdf(i / n) - sigma) for i in range(1, n)), 1.0]
    return [round(n * mean * (b - a)) for a, b in pairwise(below)]


def bank_of(length_CS: np.ndarray, scale: Scale, n_edits: int, seed: int = 0) -> TokenBank:
    """Cells with rows of given lengths; each holds `n_edits` of the first 2 x `n_edits` genes, the same in all states."""
    rng, vocabulary = np.random.default_rng(seed), synthetic_vocabulary(scale.sizes)
    n_cells, n_states = length_CS.shape
    states = {}
    for s in range(n_states):
        token_G = vocabulary.source_token_G if s == SOURCE else vocabulary.target_token_G
        rows = []
        for c in range(n_cells):
            screened = (np.arange(n_edits) + c * n_edits // 2) % (2 * n_edits)
            others = rng.permutation(np.arange(2 * n_edits, scale.sizes.n_genes))[: length_CS[c, s] - n_edits]
            rows.append(token_G[rng.permutation(np.concatenate([screened, others]))])
        size_factor = None if s == SOURCE else rng.lognormal(8.0, 0.4, n_cells).astype(np.float32)
        states[s] = State(Ragged.from_rows(rows), np.arange(n_cells), size_factor_C=size_factor)
    return TokenBank(states, tuple(f"cell{c}" for c in range(n_cells)))


def prepared(
    model: PerturbGen, scale: Scale, bank: TokenBank, library: Library, window: Window, dtype: str = "float16"
) -> Screen:
    """A screen in memory, planned as the command line plans it."""
    vocabulary, n_cells = synthetic_vocabulary(scale.sizes), bank.n_cells
    adapter = PerturbGenAdapter(model, window.pred_tps, window.context_tps, bool(window.context_tps))
    layout = Layout(window.pred_tps, scale.sizes.width, adapter.schema.expression_scale, dtype)
    index = BankIndex(bank, vocabulary, window.max_len)
    selection = select_items(library, index, window, np.zeros(n_cells, np.int64), ["all"])
    plan = plan_units(selection, bank, adapter, 0, layout)
    rows = RowBuilder(bank, vocabulary, window, {t: np.zeros((n_cells, 0), np.int64) for t in window.pred_tps})
    return Screen(OutputConfig(), vocabulary, bank, index, library, plan, window, adapter, rows, layout)


@dataclass(frozen=True)
class Case:
    """One figure against upstream's shape: a screen, and what upstream is asked.

    n_rounds     how often both run
    most_cells   of the cells with an item of a gene, upstream runs so many at most
    baseline_of  the figure whose upstream timings this one shares; upstream runs once then, to compare results
    """

    name: str
    screen: Screen
    settings: Settings
    n_rounds: int
    most_cells: int
    baseline_of: str = ""

    @property
    def max_len(self) -> int:
        """What upstream pads to."""
        return self.screen.window.max_len


def make_case(
    name: str,
    model: PerturbGen,
    scale: Scale,
    *,
    n_edits: int,
    mode: str = "mask",
    site: Site = "src",
    pred_tps: tuple[int, ...] = (1,),
    pert_tps: tuple[int, ...] = (),
    context_mode: bool = False,
    max_len: int | None = None,
    n_rounds: int = 1,
    most_cells: int = 3,
    baseline_of: str = "",
) -> Case:
    """The screen of one figure; of edits at several time points the first one's rows are weighted by length."""
    rng, weighted = np.random.default_rng(1), SOURCE if site == "src" else pert_tps[0]
    columns = []
    for s in (SOURCE, *pred_tps):
        length_C = lengths(scale.n_cells, s == weighted, scale.length_factor)
        columns.append(length_C if s == weighted else rng.permutation(length_C))
    bank = bank_of(np.maximum(np.stack(columns, axis=1), n_edits), scale, n_edits)
    # upstream leaves perturbed genes out of pooling at every time point; so does this screen, to say the same
    window = Window(pred_tps, pred_tps if context_mode else (), max_len or scale.sizes.max_len, pool_everywhere=True)
    n_genes = 2 * n_edits if edits.parse(mode).mode.needs_gene else n_edits
    library = every_gene(synthetic_vocabulary(scale.sizes), [mode], [site], pert_tps, range(n_genes))
    settings = Settings(pred_tps, window.context_tps, context_mode, readout="expected")
    return Case(name, prepared(model, scale, bank, library, window), settings, n_rounds, most_cells, baseline_of)


@dataclass
class Upstream:
    """Upstream's loop, one gene after another, and what it said: (perturbation, cell) -> counts per time point."""

    case: Case
    loop: UpstreamShaped
    found: dict[tuple[int, int], dict[int, Tensor]] = field(default_factory=dict)
    n_genes: int = 0

    def seconds_per_edit(self) -> float:
        """The next gene, in cells that have an item of it; torch's own number of threads."""
        screen, settings = self.case.screen, self.case.settings
        number = self.n_genes % len(screen.library)
        self.n_genes += 1
        p = screen.library.perturbations[number]
        cell_N = np.sort(screen.plan.cell_I[screen.plan.perturbation_I == number])[: self.case.most_cells]
        source, target = (tuple(p.tokens(screen.vocabulary, site)) for site in ("src", "tgt"))
        edit = Edit(source, target, p.mode, p.sites, p.pert_tps)
        cells = PaddedCells.from_bank(screen.bank, settings.pred_tps, self.case.max_len)
        cells = cells.take(torch.from_numpy(cell_N).long())
        start = time.perf_counter()
        results = list(self.loop.run(cells, edit, settings))
        elapsed_s = time.perf_counter() - start
        for r in results:
            for k, row in enumerate(r.row_B.tolist()):
                self.found[number, int(cell_N[row])] = {t: x[k] for t, x in r.perturbed.count_BG.items()}
        return elapsed_s / sum(len(r.row_B) for r in results)


@dataclass
class Engine:
    """Our engine on a case's screen, into a store of its own every time; the last one is kept."""

    screen: Screen
    executor: Executor
    folder: Path
    store: ScreenStore | None = None

    def seconds(self) -> float:
        """Packing, controls, edits, effects and writing; weights, plan and empty store are there before."""
        store = open_store(self.screen, Path(tempfile.mkdtemp(dir=self.folder)), "", self.executor)
        engine = PackedEngine(self.screen, self.executor)
        start = time.perf_counter()
        run_units(engine, store, lambda *_: None)
        elapsed_s = time.perf_counter() - start
        self.store = store
        return elapsed_s

    def counts(self, number: int, cell: int, time_point: int) -> np.ndarray:
        """Expected counts (G,) of one item as the store has them."""
        assert self.store is not None
        store, plan = self.store, self.screen.plan
        (row,) = np.flatnonzero((plan.perturbation_I == number) & (plan.cell_I == cell)).tolist()
        block, at = store.blocks[0], slice(row, row + 1)
        control_1G = store.control(f"expression_t{time_point}", block, np.array([cell]))
        return counts(control_1G + block.delta(time_point, at), block.effect(f"total_t{time_point}", at))[0]


def worst_error(upstream: Upstream, engine: Engine) -> float:
    """Largest difference of expected counts over all edits that both did, relative to the largest count."""
    pairs = [
        (x.numpy().astype(np.float64), engine.counts(number, cell, t))
        for (number, cell), of_time in upstream.found.items()
        for t, x in of_time.items()
    ]
    return max(float(np.abs(a - b).max()) for a, b in pairs) / max(float(a.max()) for a, _ in pairs)
