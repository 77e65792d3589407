"""Variants of the kernels of differences that the compiler reports on."""

# Triton ships no types.
# mypy: disable-error-code="import-untyped"

from typing import Any

import triton

from screen_kernels.compile_variants import TYPES, WIDTH, Variant
from screen_kernels.delta import (
    _activation_triton,
    _attention_triton,
    _frame_triton,
    _norm_triton,
    _pool_triton,
    _whole_rows_triton,
)
from screen_kernels.delta.ragged import TILE

N_HEADS = 8
ATTENTIONS = (
    ("float32", "float16", 48, "QKV"),
    ("float32", "float16", 64, "KV"),
    ("float16", "float16", 64, "QKV"),
    ("float32", "float32", 48, "QKV"),
)
"""What the control's queries, keys and values are kept in, all changes; the width of a head; what changes."""
KINDS = ("float16", "float32")
"""Of differences and of what the control gives to products."""


def delta_variants() -> list[Variant]:
    """Every kernel of differences, in the variants that a screen meets."""
    rows = [v for kind in KINDS for v in (_norm(kind), *_activations(kind), _pool(kind))]
    return rows + [v for of_attention in ATTENTIONS for v in _attention(*of_attention)] + _frames()


def _pointers(*of_type: tuple[str, str]) -> dict[str, str]:
    """Types by argument, from (type, names)."""
    return {f"{name}_ptr": kind for kind, names in of_type for name in names.split()}


def _norm(kind: str) -> Variant:
    types = _pointers((TYPES[kind], "dx dupdate unit change"), ("*fp32", "deviation weight"), ("*i64", "control"))
    types |= {"x_unit": "fp32", "update_unit": "fp32", "scale": "fp32"}
    block = triton.next_power_of_2(WIDTH)
    constants = {"D": WIDTH, "BLOCK_D": block, "HAS_UPDATE": True}
    kernel, warps = _norm_triton.norm_change_kernel, _norm_triton.warps_of(block)
    odd = frozenset({"x_unit", "update_unit", "scale"})
    return Variant("norm_change", f"D={WIDTH} {kind}", kernel, types, constants, warps, odd)


def _activations(kind: str) -> list[Variant]:
    types = _pointers((TYPES[kind], "h d change"), ("*i64", "control")) | {"d_unit": "fp32", "scale": "fp32"}
    block, width = _activation_triton.MOST_COLUMNS, 4 * WIDTH
    kernel, warps, odd = _activation_triton.activation_change_kernel, 4, frozenset({"d_unit", "scale"})
    return [
        Variant(
            "activation_change",
            f"D={width} {kind} {name}",
            kernel,
            types,
            {"D": width, "BLOCK_D": block, "GELU": name == "gelu"},
            warps,
            odd,
        )
        for name in ("gelu", "relu")
    ]


def _pool(kind: str) -> Variant:
    types = _pointers(
        ("*fp32", "x"),
        ("*fp64", "total change"),
        ("*i8", "before after"),
        (TYPES[kind], "d"),
        ("*i64", "start_b start_c cell"),
    )
    constants = {"D": WIDTH, "BLOCK_D": _pool_triton.MOST_COLUMNS, "ROWS": _pool_triton.ROWS, "HAS_D": True}
    kernel, odd = _pool_triton.pool_change_kernel, frozenset({"d_unit"})
    return Variant(
        "pool_change", f"D={WIDTH} {kind}", kernel, types | {"d_unit": "fp32"}, constants, _pool_triton.WARPS, odd
    )


def _attention(asked: str, kind: str, width: int, changes: str) -> list[Variant]:
    types = _pointers(
        (TYPES[asked], "query key value"),
        (TYPES[kind], "dq dk dv change"),
        ("*fp32", "out log_sum value_mean"),
        ("*i8", "before after whole"),
        ("*i32", "tile"),
        ("*i64", "cell start_qb start_qc start_kb start_kc"),
    )
    types |= {f"{name}_stride": "i32" for name in ("query", "key", "value", "dq", "dk", "dv")}
    numbers = ("score_scale", "dq_unit", "dk_unit", "dv_unit", "scale")
    types |= dict.fromkeys(numbers, "fp32")
    sizes: dict[str, Any] = {"H": N_HEADS, "A": width, "BLOCK_A": triton.next_power_of_2(width)}
    tile = _attention_triton.tile_of(kind == "float16", asked != kind)
    has = sizes | {f"HAS_D{x}": x in changes for x in "QKV"}
    name, odd = f"A={width} {asked} {kind} {changes}", frozenset(numbers)
    first = has | {"BLOCK_L": tile.n_rows, "BLOCK_K": tile.n_keys}
    first |= {"HALF": kind == "float16", "HAS_PAIRS": asked != kind}
    second = has | {"BLOCK_L": TILE, "BLOCK_K": _whole_rows_triton.BLOCK_K, "ROWS": _whole_rows_triton.ROWS}
    warps, change_kernel = _attention_triton.WARPS, _attention_triton.change_kernel
    whole_kernel, stages = _whole_rows_triton.whole_kernel, _whole_rows_triton.STAGES
    found = [Variant("attention_change", name, change_kernel, types, first, warps, odd, tile.n_stages)]
    # rows computed whole do not depend on what products are
    if width == 48:
        found.append(Variant("attention_whole_rows", name, whole_kernel, types, second, warps, odd, stages))
    return found


def _frames() -> list[Variant]:
    types = _pointers(("*i32", "control column_of last"), ("*i64", "cell ids column"))
    types |= _pointers(("*i8", "counted_control counted is_carried"), ("*i16", "keep is_counted"))
    types |= dict.fromkeys(("n_control", "n_columns", "width", "n_ids"), "i32")
    kernel, warps, stages = _frame_triton.frame_kernel, _frame_triton.WARPS, _frame_triton.STAGES
    odd = frozenset({"n_control", "n_columns", "n_ids"})
    return [
        Variant(
            "frame_rows",
            f"{name} {'counted' if has_counted else 'not counted'}",
            kernel,
            types | {"edited_ptr": kind},
            {"HAS_COUNTED": has_counted, "CHUNK": _frame_triton.CHUNK},
            warps,
            odd,
            stages,
            _frame_triton.MOST_REGISTERS,
        )
        for name, kind, has_counted in (("int32", "*i32", False), ("int64", "*i64", True))
    ]
