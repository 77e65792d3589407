"""The arithmetic of docs/performance.md: work per edit, bytes, ceilings, projected times. Nothing here is measured.

python -m benchmarks.kernels.roofline            # prints the tables
python -m benchmarks.kernels.roofline --write    # puts them between their markers in docs/performance.md
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

from benchmarks.engine.upstream_shaped import ENCODER_VOCABULARY, real_sizes
from benchmarks.record import ROOT
from benchmarks.table import between, markdown
from screen.models.perturbgen.network.sizes import Sizes

PAGE = ROOT / "docs" / "performance.md"
MEDIAN_LENGTH, SIGMA = 350.0, 0.45
MAX_LENS = (1233, 797)
N_GENES_SCREENED, N_CELLS, DETECTION = 6_000, 20_000, 0.19
N_EDITS = round(N_GENES_SCREENED * N_CELLS * DETECTION)
# Rows as long as 19 % of 6,000 genes makes them.
LONG_MEDIAN = DETECTION * N_GENES_SCREENED / math.exp(SIGMA**2 / 2)


@dataclass(frozen=True)
class Length:
    """A length in tokens, by its mean and its mean square."""

    mean: float
    square: float


def exactly(n_tokens: int) -> Length:
    """A padded length, the same for every row."""
    return Length(n_tokens, n_tokens**2)


def log_normal(median: float, by_edit: bool, sigma: float = SIGMA) -> Length:
    """Every cell once; or every edit once, where a cell has as many edits as tokens."""

    def moment(k: int) -> float:
        return median**k * math.exp((k * sigma) ** 2 / 2)

    return Length(moment(2) / moment(1), moment(3) / moment(1)) if by_edit else Length(moment(1), moment(2))


@dataclass(frozen=True)
class Op:
    """One step of one edit: FLOPs, and values (of 4 or 2 bytes) read and written; weights not counted."""

    part: str
    kind: Literal["product", "attention", "element"]
    flops: float
    n_values: float

    def times(self, n: int) -> "Op":
        """The step, n times over."""
        return replace(self, flops=self.flops * n, n_values=self.n_values * n)


def product(part: str, n_tokens: float, d_in: int, d_out: int) -> Op:
    """A matrix product of n tokens: reads them once, writes the result once."""
    return Op(part, "product", 2 * n_tokens * d_in * d_out, n_tokens * (d_in + d_out))


def projections(part: str, n_tokens: float, width: int, inner: int, n: int, is_fused: bool) -> list[Op]:
    """n projections of the same tokens: one product if fused, else one each, which reads the tokens n times."""
    return [product(part, n_tokens, width, n * inner)] if is_fused else [product(part, n_tokens, width, inner).times(n)]


def residual_norm(part: str, n_tokens: float, width: int, is_fused: bool) -> Op:
    """Residual sum and LayerNorm: one pass (2 reads, 1 write), or two (5 in all)."""
    return Op(part, "element", 0, n_tokens * width * (3 if is_fused else 5))


def self_attention(part: str, width: int, inner: int, n: Length, is_fused: bool) -> list[Op]:
    """Projections, attention, output product, residual and norm."""
    return [
        *projections(part, n.mean, width, inner, 3, is_fused),
        Op(part, "attention", 4 * n.square * inner, 4 * n.mean * inner),
        product(part, n.mean, inner, width),
        residual_norm(part, n.mean, width, is_fused),
    ]


def cross_attention(
    part: str,
    width: int,
    inner: int,
    n: Length,
    context: Length,
    is_fused: bool,
    has_own_queries: bool = True,
    has_own_keys: bool = True,
) -> list[Op]:
    """As self-attention, over a context of its own length, independent of n; queries, or K and V, may be known already."""
    queries = [product(part, n.mean, width, inner)] if has_own_queries else []
    keys = projections(part, context.mean, width, inner, 2, is_fused) if has_own_keys else []
    return [
        *queries,
        *keys,
        Op(part, "attention", 4 * n.mean * context.mean * inner, 2 * (n.mean + context.mean) * inner),
        product(part, n.mean, inner, width),
        residual_norm(part, n.mean, width, is_fused),
    ]


def feed_forward(part: str, width: int, n: Length, is_fused: bool) -> list[Op]:
    """Two products, gelu (free if fused into the first), residual and norm."""
    gelu = [] if is_fused else [Op(part, "element", 0, 2 * n.mean * width)]
    both = product(part, n.mean, width, width).times(2)
    return [both, *gelu, residual_norm(part, n.mean, width, is_fused)]


def encoder_block(sizes: Sizes, n: Length, is_fused: bool) -> list[Op]:
    """One block of the encoder."""
    encoder = sizes.encoder
    attention = self_attention("encoder", encoder.width, encoder.n_heads * encoder.head_width, n, is_fused)
    return [*attention, *feed_forward("encoder", encoder.width, n, is_fused)]


def decoder_pass(
    sizes: Sizes,
    n: Length,
    context: Length,
    is_fused: bool = True,
    has_own_keys: bool = True,
    has_own_start: bool = True,
) -> list[Op]:
    """All decoder blocks over one time point, and the count head.

    `has_own_start`: False where the first block's self-attention and the queries that follow it are the control's.
    """
    width, inner = sizes.width, sizes.n_heads * sizes.head_width
    ops: list[Op] = []
    for block in range(sizes.n_blocks):
        is_own = has_own_start or block > 0
        if is_own:
            ops += self_attention("decoder", width, inner, n, is_fused)
        ops += cross_attention("decoder", width, inner, n, context, is_fused, is_own, has_own_keys)
        ops += feed_forward("decoder", width, n, is_fused)
    head = 2 * width * (2 * width + 2 * sizes.n_genes)
    return [*ops, Op("head", "product", head, 4 * width + 4 * sizes.n_genes)]


def upstream(sizes: Sizes, max_len: int, n_times: int) -> list[Op]:
    """Upstream's shape: both forwards, all encoder blocks, all logits, padded, every step on its own."""
    n = exactly(max_len)
    encoder = encoder_block(sizes, n, is_fused=False) * sizes.encoder.n_blocks
    decoder = decoder_pass(sizes, n, n, is_fused=False) * n_times
    logits = [product("logits", max_len, sizes.encoder.width, ENCODER_VOCABULARY)]
    logits += [product("logits", max_len, sizes.width, sizes.n_tokens)] * n_times
    return [*encoder, *decoder, *logits] * 2


def control(sizes: Sizes, source: Length, target: Length, n_times: int) -> list[Op]:
    """The unedited forward of one cell, shared by all its edits; time points share K and V of the encoder's output."""
    decoder = [decoder_pass(sizes, target, source, has_own_keys=t == 0) for t in range(n_times)]
    return [*encoder_block(sizes, source, is_fused=True), *chain.from_iterable(decoder)]


def source_edit(sizes: Sizes, source: Length, target: Length, n_times: int) -> list[Op]:
    """An edit of the source: what the decoder does before it sees the source is the control's."""
    decoder = [decoder_pass(sizes, target, source, has_own_keys=t == 0, has_own_start=False) for t in range(n_times)]
    return [*encoder_block(sizes, source, is_fused=True), *chain.from_iterable(decoder)]


def target_edit(sizes: Sizes, source: Length, target: Length, n_edited: int) -> list[Op]:
    """An edit of some time points: no encoder, the control's K and V, and only the edited time points decoded."""
    return decoder_pass(sizes, target, source, has_own_keys=False) * n_edited


@dataclass(frozen=True)
class Machine:
    """Data-sheet ceilings: TFLOP/s by format (dense), and TB/s."""

    name: str
    float32: float
    tf32: float
    half: float
    terabytes_s: float


MACHINES = (Machine("A100 80 GB SXM", 19.5, 156, 312, 2.0), Machine("H100 80 GB SXM", 67, 495, 989, 3.35))


@dataclass(frozen=True)
class Precision:
    """The formats of products and attention, and the bytes of a stored value."""

    name: str
    products: Literal["float32", "tf32", "half"]
    attention: Literal["float32", "tf32", "half"] = "float32"
    value_bytes: int = 4


FLOAT32 = Precision("float32", "float32")
# Two fp16 products for one take as long as one in tf32.
SPLIT = Precision("tf32 or fp16x2 products, float32 attention", "tf32")
BF16 = Precision("bf16 throughout", "half", "half", 2)


@dataclass(frozen=True)
class Times:
    """Seconds at the ceilings: products, attention, memory traffic, and step by step the larger of work and traffic."""

    products: float
    attention: float
    memory: float
    roofline: float


def times(ops: Iterable[Op], machine: Machine, precision: Precision) -> Times:
    """How long the steps take at the data sheet's rates."""
    rate = {
        "product": getattr(machine, precision.products) * 1e12,
        "attention": getattr(machine, precision.attention) * 1e12,
        "element": math.inf,
    }
    work = [(op.kind, op.flops / rate[op.kind]) for op in ops]
    traffic = [op.n_values * precision.value_bytes / (machine.terabytes_s * 1e12) for op in ops]
    by_kind = {kind: sum(s for k, s in work if k == kind) for kind in rate}
    roofline = sum(max(s, moved) for (_, s), moved in zip(work, traffic, strict=True))
    return Times(by_kind["product"], by_kind["attention"], sum(traffic), roofline)


Shape = tuple[str, Callable[[bool], list[Op]], int]


def necessary(median: float = MEDIAN_LENGTH) -> list[Shape]:
    """(name, every edit once? -> steps, time points predicted) of our shapes, lengths log-normal."""
    sizes, plain = real_sizes(MAX_LENS[0]), log_normal(median, by_edit=False)

    def weighed(edit: Callable[..., list[Op]], site: str, n: int) -> Callable[[bool], list[Op]]:
        def ops(by_edit: bool) -> list[Op]:
            edited = log_normal(median, by_edit)
            return edit(sizes, edited if site == "src" else plain, edited if site == "tgt" else plain, n)

        return ops

    return [
        ("`src` mask, one time point", weighed(source_edit, "src", 1), 1),
        ("`src` mask, two time points", weighed(source_edit, "src", 2), 2),
        ("`tgt` mask at one of two time points", weighed(target_edit, "tgt", 1), 2),
        ("`tgt` mask at both time points", weighed(target_edit, "tgt", 2), 2),
    ]


def giga(ops: Iterable[Op], part: str = "", kind: str = "") -> float:
    """GFLOP of the steps of one part or kind."""
    return sum(op.flops for op in ops if part in ("", op.part) and kind in ("", op.kind)) / 1e9


def work_row(name: str, ops: list[Op], cells_total: float | None, ratios: Sequence[float]) -> list[str]:
    """One row of the work table."""
    parts = [giga(ops, "encoder", "product"), giga(ops, "decoder", "product"), giga(ops, "logits")]
    cells = "" if cells_total is None else f"{cells_total:.1f}"
    return [
        name,
        *(f"{g:.1f}" for g in (*parts, giga(ops, kind="attention"), giga(ops))),
        cells,
        *map("{:.0f}".format, ratios),
    ]


def work() -> str:
    """GFLOP per edit by part, and upstream's shape over ours."""
    header = ["shape", "encoder products", "decoder products", "logits", "attention", "total", "total, every cell once"]
    header += [f"upstream's {n:,} over this" for n in MAX_LENS]
    theirs = {(n, t): upstream(real_sizes(n), n, t) for n in MAX_LENS for t in (1, 2)}
    rows = [
        [
            *work_row(
                f"upstream's, padded to {n:,}, {'one time point' if t == 1 else 'two time points'}", ops, None, []
            ),
            "",
            "",
        ]
        for (n, t), ops in theirs.items()
    ]
    for name, build, n_times in necessary():
        total = giga(build(True))
        ratios = [giga(theirs[n, n_times]) / total for n in MAX_LENS]
        rows.append(work_row(name, build(True), giga(build(False)), ratios))
    plain = log_normal(MEDIAN_LENGTH, by_edit=False)
    once = control(real_sizes(MAX_LENS[0]), plain, plain, 1)
    rows.append([*work_row("control, one time point, once per cell", once, giga(once), []), "", ""])
    return markdown(header, rows)


def layer_bytes() -> str:
    """FLOPs and bytes of one token in one layer, and what a machine needs per byte to be kept busy."""
    sizes, one, none = real_sizes(MAX_LENS[0]), Length(1, 0), Length(0, 0)
    one_block = replace(sizes, n_blocks=1)
    layers: list[tuple[str, Callable[[bool], list[Op]]]] = [
        ("encoder block, per source token", lambda fused: encoder_block(sizes, one, fused)),
        ("decoder block, per target token", lambda fused: decoder_pass(one_block, one, none, fused)[:-1]),
        ("decoder block, per source token (K and V)", lambda fused: decoder_pass(one_block, none, one, fused)[:-1]),
    ]
    rows = []
    for name, build in layers:
        flops = sum(op.flops for op in build(True) if op.kind == "product")
        moved = {fused: 4 * sum(op.n_values for op in build(fused)) for fused in (False, True)}
        kilobytes = [f"{moved[fused] / 1e3:.1f}" for fused in (False, True)]
        rows.append([name, f"{flops / 1e6:.2f}", *kilobytes, f"{flops / moved[True]:.0f}"])
    header = ["layer", "MFLOP of products", "kB, every step on its own", "kB, fused", "FLOP per byte, fused"]
    return markdown(header, rows)


def ceilings() -> str:
    """The data sheets' ceilings, and the FLOPs per byte at which products and memory take equally long."""
    header = ["machine", "float32 TFLOP/s", "tf32", "fp16, bf16", "memory TB/s"]
    header += [f"FLOP per byte to break even, {name}" for name in ("float32", "tf32 or fp16x2")]
    rows = []
    for m in MACHINES:
        even = [m.float32 / m.terabytes_s, m.tf32 / m.terabytes_s]
        rows.append(
            [m.name, *(f"{x:g}" for x in (m.float32, m.tf32, m.half, m.terabytes_s)), *(f"{x:.0f}" for x in even)]
        )
    return markdown(header, rows)


def projected(median: float, max_len: int) -> Iterable[tuple[str, Machine, Precision, Times]]:
    """(shape, machine, precision, times) of a source edit, one time point."""
    name, build, n_times = necessary(median)[0]
    theirs = upstream(real_sizes(max_len), max_len, n_times)
    for machine in MACHINES:
        for precision in (FLOAT32, BF16):
            yield f"upstream's, padded to {max_len:,}", machine, precision, times(theirs, machine, precision)
        for precision in (FLOAT32, SPLIT):
            yield name, machine, precision, times(build(True), machine, precision)


def edit_times() -> str:
    """Milliseconds per edit at the ceilings."""
    header = ["machine", "shape", "precision", "products ms", "attention ms", "memory ms", "roofline ms"]
    rows = [
        [m.name, name, p.name, *(f"{s * 1e3:.3f}" for s in (t.products, t.attention, t.memory, t.roofline))]
        for name, m, p, t in projected(MEDIAN_LENGTH, MAX_LENS[0])
    ]
    return markdown(header, rows)


def gpu_hours() -> str:
    """GPU-hours of the whole job at the ceilings and at half of them."""
    header = ["row length", "machine", "shape", "precision", "arithmetic", "GPU-hours", "at half the ceilings"]
    long_max = round(MAX_LENS[0] * LONG_MEDIAN / MEDIAN_LENGTH)
    rows = []
    for median, max_len in ((MEDIAN_LENGTH, MAX_LENS[0]), (LONG_MEDIAN, long_max)):
        for name, m, p, t in projected(median, max_len):
            hours = N_EDITS * t.roofline / 3600
            arithmetic = f"{N_EDITS / 1e6:.1f} M x {t.roofline * 1e3:.3f} ms"
            rows.append([f"median {median:,.0f}", m.name, name, p.name, arithmetic, f"{hours:.1f}", f"{2 * hours:.1f}"])
    return markdown(header, rows)


TABLES = {"work": work, "bytes": layer_bytes, "ceilings": ceilings, "times": edit_times, "hours": gpu_hours}


def filled(page: str) -> str:
    """The page with every table between its markers."""
    for name, make in TABLES.items():
        page = between(page, f"<!-- roofline: {name} -->", f"<!-- /roofline: {name} -->", make())
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables, or writes them into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    if parser.parse_args(arguments).write:
        PAGE.write_text(filled(PAGE.read_text()))
    else:
        sys.stdout.write("\n\n".join(f"{name}\n\n{make()}" for name, make in TABLES.items()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
