"""Checks of the attention kernels of differences against their definition, as `delta_cases` does for the others."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from screen_kernels.delta import (
    AttentionRows,
    RaggedRows,
    Scaled,
    attention_change_rows,
    attention_change_rows_reference,
    attention_control,
    ragged_rows,
)
from screen_kernels.delta.attention import LEAST_SUM
from torch import Tensor

from tests.support.delta_cases import (
    EPS,
    assert_close,
    assert_guards,
    double,
    guarded,
    on,
    run_checks,
    starts,
    stored,
)


@dataclass(frozen=True)
class Case:
    """Rows and keys of cells, the cell of every item, heads, and what changes.

    keeps   chance that a key is kept before
    moves   chance that a key leaves where it was kept, and joins where it was not
    anew    chance that the caller marks a row
    size    how large differences are; queries, keys and values are about 1 times `spread`
    control, change  what the control's queries, keys and values, and what differences are kept in
    """

    n_rows_C: tuple[int, ...]
    n_keys_C: tuple[int, ...]
    cell_B: tuple[int, ...]
    n_heads: int = 2
    width: int = 16
    changes: str = "qkv"
    keeps: float = 0.9
    moves: float = 0.1
    anew: float = 0.1
    size: float = 0.01
    spread: float = 1.0
    control: torch.dtype = torch.float32
    change: torch.dtype = torch.float16
    seed: int = 0
    tile: int = 16


def full(case: Case) -> Case:
    return replace(case, control=torch.float32, change=torch.float32)


def small(case: Case) -> Case:
    """No row is computed whole, whose errors would hide those of the others."""
    return replace(case, moves=0.0, anew=0.0)


MIXED = Case((5, 18, 1), (20, 7, 1), (1, 2, 0))
CASES = {
    "rows and keys of other states": MIXED,
    "the same in float32": full(MIXED),
    "a control in float16, float32 differences": replace(MIXED, control=torch.float16, change=torch.float32, seed=1),
    "all in float16": replace(MIXED, control=torch.float16, seed=25),
    "a head of 48": small(Case((18,), (40,), (0, 0), width=48, seed=2)),
    "a head of 24": full(Case((9,), (17,), (0,), 3, 24, seed=3)),
    "a head of 40": small(Case((9, 3), (17, 4), (1, 0), 1, 40, seed=4)),
    "a head of 4": Case((9, 3), (17, 4), (1, 0), 4, 4, seed=5),
    "queries alone change": small(Case((9, 3), (17, 4), (1, 0), changes="q", seed=6)),
    "keys and values change": small(Case((9, 3), (17, 4), (1, 0, 1), changes="kv", seed=7)),
    "values alone change": full(Case((9, 3), (17, 4), (1, 0), changes="v", seed=8)),
    "keys alone change": small(Case((9, 3), (17, 4), (1, 0), changes="k", seed=9)),
    "keys only come and leave": Case((9, 3), (17, 4), (1, 0), changes="", seed=10),
    "nothing changes": Case((9, 3), (17, 4), (1, 0), changes="", moves=0.0, anew=0.0, seed=11),
    "one row, one key": Case((1,), (1,), (0, 0), keeps=1.0, moves=0.0, seed=12),
    "all keys leave": Case((9, 3), (17, 4), (1, 0), keeps=1.0, moves=1.0, seed=13),
    "no key before": full(Case((9, 3), (17, 4), (1, 0), keeps=0.0, moves=1.0, seed=14)),
    "no key before or after": Case((9, 3), (17, 4), (1, 0), keeps=0.0, moves=0.0, anew=0.5, seed=15),
    "every row anew": full(Case((35,), (20,), (0,), 1, anew=1.0, seed=17)),
    "large differences": Case((20, 3), (17, 4), (1, 0), anew=0.0, size=1.0, spread=2.0, seed=18),
    "large differences in float32": full(Case((20, 3), (17, 4), (1, 0), anew=0.0, size=1.0, spread=2.0, seed=19)),
    "tiny differences": full(small(Case((20,), (17,), (0,), size=1e-5, seed=20))),
    "tiny differences in float16": small(Case((20,), (17,), (0,), size=1e-3, seed=22)),
    "longest rows": Case((40,), (130,), (0,), 1, seed=21),
    "tiles as on a GPU": Case((70, 64), (66, 3), (0, 1), 1, tile=64, seed=23),
    "more rows anew than one step takes": full(Case((40,), (5,), (0,), 1, keeps=0.0, moves=1.0, tile=64, seed=26)),
    "large scores": small(Case((20,), (17,), (0,), spread=3.0, seed=27)),
    "tiles as on a GPU in float32": full(Case((70, 31), (34, 3), (1, 0), 1, tile=64, seed=24)),
    "no item": Case((3,), (4,), ()),
}


@dataclass(frozen=True)
class Batch:
    """The arguments of one call."""

    queries: RaggedRows
    keys: RaggedRows
    control: AttentionRows
    dq: Scaled | None
    dk: Scaled | None
    dv: Scaled | None
    keep_U: Tensor
    anew_T: Tensor

    def arguments(self) -> tuple[object, ...]:
        return self.queries, self.keys, self.control, self.dq, self.dk, self.dv, self.keep_U, self.anew_T

    def exactly(self) -> Tensor:
        """The definition in float64."""
        c = self.control
        control = AttentionRows(
            *(x.double() for x in (c.query_MI, c.key_NI, c.value_NI, c.out_MI, c.log_sum_MH, c.value_mean_CI)), c.keep_N
        )
        changes = (double(x) for x in (self.dq, self.dk, self.dv))
        return attention_change_rows_reference(self.queries, self.keys, control, *changes, self.keep_U, self.anew_T)


def batch(case: Case, device: str) -> Batch:
    """Keys that nobody reads afterwards change by NaN; the control of cells without items is NaN."""
    draw = torch.Generator().manual_seed(case.seed)
    queries, keys = (ragged_rows(starts(n), case.cell_B, "cpu", case.tile) for n in (case.n_rows_C, case.n_keys_C))
    control = control_rows(case, draw)
    keep_U = control.keep_N[keys.control_T] ^ (torch.rand(keys.n_rows, generator=draw) < case.moves)
    anew_T = torch.rand(queries.n_rows, generator=draw) < case.anew
    shape = case.n_heads * case.width
    # columns of one wide product, as a network makes them
    dq = stored((queries.n_rows, shape + 16), case.size, draw, case.change, "cpu")
    both = stored((keys.n_rows, 2 * shape), case.size, draw, case.change, "cpu")
    both.values[~keep_U] = torch.nan
    found = Scaled(dq.values[:, :shape], dq.scale), *(Scaled(x, both.scale) for x in both.values.split(shape, 1))
    changes = [on(x, device) if name in case.changes else None for name, x in zip("qkv", found, strict=True)]
    queries, keys = (ragged_rows(starts(n), case.cell_B, device, case.tile) for n in (case.n_rows_C, case.n_keys_C))
    control = AttentionRows(*(x.to(device) for x in vars(control).values()))
    return Batch(queries, keys, control, *changes, keep_U.to(device), anew_T.to(device))


def control_rows(case: Case, draw: torch.Generator) -> AttentionRows:
    """What the control leaves, cell by cell, in float64 and then rounded."""
    n_rows, n_keys, width = sum(case.n_rows_C), sum(case.n_keys_C), case.n_heads * case.width
    q, k, v = (torch.randn(n, width, generator=draw, dtype=torch.float64) for n in (n_rows, n_keys, n_keys))
    q, k, v = q * case.spread, k * case.spread + 2, v * case.spread - 3
    keep_N = torch.rand(n_keys, generator=draw) < case.keeps
    start_q, start_k = starts(case.n_rows_C), starts(case.n_keys_C)
    found: list[list[Tensor]] = [[] for _ in range(6)]
    for c in range(len(case.n_rows_C)):
        asking, asked = slice(*start_q[c : c + 2]), slice(*start_k[c : c + 2])
        heads = [
            x.reshape(1, len(x), case.n_heads, case.width).transpose(1, 2) for x in (q[asking], k[asked], v[asked])
        ]
        one = attention_control(*heads, keep_N[asked][None])
        kept = one.query_CHLA, one.key_CHKA, one.value_CHKA, one.out_CHLA, one.log_sum_CHL1, one.value_mean_CH1A
        lost = 1.0 if c in case.cell_B else torch.nan
        for pieces, x in zip(found, kept, strict=True):
            pieces.append(x[0].transpose(0, 1).flatten(1) * lost)
    joined = [torch.cat(pieces) for pieces in found]
    control = AttentionRows(*(x.to(case.control) for x in joined[:3]), *(x.float() for x in joined[3:]), keep_N)
    # of a cell without keys any mean will do; the definition adds it
    control.value_mean_CI[control.value_mean_CI == 0] = 0.5
    return control


def half(x: Tensor) -> Tensor:
    return x.half().float()


def check_one(case: Case, name: str, device: str, backend: str, floor: float = 0.0) -> None:
    """Against the definition with what tensor cores round: twice its worst error, a floor, one unit in the last place."""
    given = batch(case, device)
    is_half = case.change == torch.float16
    scale, kind = (256.0, torch.float16) if is_half else (1.0, torch.float32)
    ours = attention_change_rows(*given.arguments(), scale=scale, dtype=kind, backend=backend)
    assert ours.values.dtype == kind and ours.scale == scale
    plain = attention_change_rows_reference(*given.arguments(), **({"operand": half} if is_half else {}))
    assert_close(ours, plain, given.exactly(), f"attention {kind}, {name}", floor)


def check_drawn(case: Case, device: str, backend: str) -> None:
    """Of few numbers the errors are a matter of luck: also allowed is rounding of the largest value over the least sum."""
    assert case.control == case.change == torch.float32
    largest = max(float(batch(case, "cpu").control.value_NI.nan_to_num().abs().max()), 1.0)
    check_one(case, "drawn", device, backend, EPS * largest / LEAST_SUM)


def check_attention(device: str, backend: str) -> None:
    for name, case in CASES.items():
        if case.change == torch.float16:
            check_one(case, name, device, backend)


def check_attention_in_float32(device: str, backend: str) -> None:
    for name, case in CASES.items():
        if case.change == torch.float32:
            check_one(case, name, device, backend)


def check_attention_of_no_change_is_none(device: str, backend: str) -> None:
    given = batch(CASES["nothing changes"], device)
    ours = attention_change_rows(*given.arguments(), scale=64.0, backend=backend)
    assert not bool(ours.values.any())


def check_attention_flags_what_changes_too_much(device: str, backend: str) -> None:
    """Rows of items whose keys all leave, or that had none, or whose weights grow; no other, and it writes nothing else."""
    from screen_kernels.delta import _attention_triton

    expected = {
        "all keys leave": True,
        "no key before": True,
        "no key before or after": False,
        "tiny differences": False,
    }
    for name, is_flagged in expected.items():
        given = batch(replace(CASES[name], anew=0.0), device)
        whole_T, flags = guarded((given.queries.n_rows,), torch.int8, device)
        values, buffer = guarded((given.queries.n_rows, given.control.query_MI.shape[1]), torch.float16, device)
        whole_T.zero_()
        *arguments, _ = given.arguments()
        _attention_triton.launch(*arguments, whole_T, Scaled(values, 256.0))
        assert_guards(flags, f"flags, {name}")
        assert_guards(buffer, f"attention, {name}")
        assert bool((whole_T == is_flagged).all()), name


def check_attention_takes_values_of_moving_keys_as_they_are(device: str, backend: str) -> None:
    """Where they are rounded all rows err alike: the mean over rows of the error is several times as large."""
    case = Case((200,), (40,), (0,), 1, changes="", keeps=1.0, moves=0.05, anew=0.0, seed=28)
    given = batch(case, device)
    assert 0 < int((~given.keep_U).sum()) < 5
    rounded = replace(given, control=replace(given.control, value_NI=given.control.value_NI.half().float()))
    exact = given.exactly()
    errors = []
    for one in (given, rounded):
        ours = attention_change_rows(*one.arguments(), scale=256.0, backend=backend)
        errors.append(float((ours.unscaled().double() - exact).mean(0).square().mean().sqrt()))
    assert 3 * errors[0] < errors[1], errors


CHECKS: tuple[Callable[[str, str], None], ...] = (
    check_attention,
    check_attention_in_float32,
    check_attention_of_no_change_is_none,
    check_attention_takes_values_of_moving_keys_as_they_are,
)
TRITON_CHECKS: tuple[Callable[[str, str], None], ...] = (check_attention_flags_what_changes_too_much,)

if __name__ == "__main__":
    device, backend = sys.argv[1:3]
    run_checks(CHECKS + (TRITON_CHECKS if backend == "triton" else ()), device, backend)
