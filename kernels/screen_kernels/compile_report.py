"""What the compiler makes of every Triton kernel, without a GPU: `python -m screen_kernels.compile_report`."""

# Triton ships no types.
# mypy: disable-error-code="import-untyped, no-untyped-call"

import re
import sys
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import astuple, dataclass, fields
from io import StringIO
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from screen_kernels import _add_norm_triton, _edit_tokens_triton, _pool_shift_triton, _split_half_triton
from screen_kernels.compile_variants import TYPES, WIDTH, Variant
from screen_kernels.delta.compile_variants import delta_variants

ARCHITECTURES = (80, 90)


@dataclass(frozen=True)
class Resources:
    """One compiled variant; load_bytes and store_bytes are its widest accesses to global memory."""

    kernel: str
    variant: str
    arch: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    load_bytes: int
    store_bytes: int


def variants() -> list[Variant]:
    """Every kernel, in the variants that a screen meets."""
    return [*_edit_variants(), *_pool_variants(), *_norm_variants(), *_split_variants(), *delta_variants()]


def _edit_variants() -> list[Variant]:
    types = {
        "token": "*i32",
        "start": "*i64",
        "length": "*i32",
        "cell": "*i64",
        "gene": "*i32",
        "mode": "*i8",
        "parameter": "*i32",
    }
    types |= {"ids": "*i32", "keep": "*i8", "edited_length": "*i32"}
    types = {f"{name}_ptr": kind for name, kind in types.items()} | {"width": "i32", "out_width": "i32"}
    found = []
    for k, site in ((1, "src"), (1, "tgt"), (4, "src"), (16, "src")):
        constants = {"K": k, "IS_SRC": site == "src", "CHUNK": _edit_tokens_triton.CHUNK}
        kernel = _edit_tokens_triton.edit_kernel
        found.append(Variant("edit_tokens", f"K={k} {site}", kernel, types, constants, odd=frozenset({"width"})))
    return found


def _pool_variants() -> list[Variant]:
    types = {"counted_ptr": "*i8", "control_ptr": "*fp32", "control_row_ptr": "*i64", "pooled_ptr": "*fp32"}
    types |= {"cosine_ptr": "*fp32", "n_places": "i32"}
    block = triton.next_power_of_2(WIDTH)
    constants = {"D": WIDTH, "BLOCK_D": block, "ROWS": _pool_shift_triton.rows_of(block)}
    kernel, warps = _pool_shift_triton.pool_kernel, _pool_shift_triton.WARPS
    return [
        Variant(
            "pool_shift",
            f"D={WIDTH} {name}",
            kernel,
            {"hidden_ptr": kind} | types,
            constants,
            warps,
            frozenset({"n_places"}),
        )
        for name, kind in TYPES.items()
    ]


def _norm_variants() -> list[Variant]:
    names = ("x", "update", "weight", "bias", "normed")
    types = {f"{name}_ptr": "*fp32" for name in names} | {"eps": "fp32"}
    block = triton.next_power_of_2(WIDTH)
    constants: dict[str, Any] = {"D": WIDTH, "BLOCK_D": block}
    kernel, warps = _add_norm_triton.norm_kernel, _add_norm_triton.warps_of(block)
    return [Variant("add_norm", f"D={WIDTH} float32", kernel, types, constants, warps, frozenset({"eps"}))]


def _split_variants() -> list[Variant]:
    block = min(triton.next_power_of_2(WIDTH), _split_half_triton.MOST_COLUMNS)
    warps = _split_half_triton.warps_of(block)
    types = {"x_ptr": "*fp32", "half_ptr": "*fp16"}
    found = []
    for activation in ("none", "gelu"):
        constants = {"D": WIDTH, "BLOCK_D": block, "GELU": activation == "gelu"}
        kernel = _split_half_triton.split_kernel
        found.append(Variant("split_half", f"D={WIDTH} float32 {activation}", kernel, types, constants, warps))
    return found


def compiled(variant: Variant, arch: int) -> Resources:
    """One variant for one architecture."""
    names = variant.function.arg_names
    signature = {n: "constexpr" if n in variant.constants else variant.types[n] for n in names}
    divisible = [["tt.divisibility", 16]]
    attributes = {(i,): divisible for i, n in enumerate(names) if signature[n] != "constexpr" and n not in variant.odd}
    source = ASTSource(variant.function, signature=signature, constexprs=dict(variant.constants), attrs=attributes)
    options = {"num_warps": variant.n_warps, "num_stages": variant.n_stages, "maxnreg": variant.most_registers}
    with knobs.nvidia.scope(), knobs.compilation.scope(), redirect_stdout(StringIO()) as assembler:
        knobs.nvidia.dump_ptxas_log = knobs.compilation.always_compile = True
        binary = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    registers, spill_bytes = _said(assembler.getvalue(), variant, arch)
    ptx = binary.asm["ptx"]
    wide = {way: _widest(ptx, way) for way in ("ld", "st")}
    shared = binary.metadata.shared
    return Resources(variant.kernel, variant.name, f"sm_{arch}", registers, spill_bytes, shared, wide["ld"], wide["st"])


def _said(log: str, variant: Variant, arch: int) -> tuple[int, int]:
    """Registers and bytes of spills, of what the assembler prints. Raises RuntimeError where it did not run."""
    registers = re.findall(r"Used (\d+) registers", log)
    if not registers:
        raise RuntimeError(f"{variant.kernel} {variant.name} was not assembled for sm_{arch}:\n{log}")
    return sum(map(int, registers)), sum(int(n) for n in re.findall(r"(\d+) bytes spill", log))


def _widest(ptx: str, way: str) -> int:
    """Bytes of the widest global access of a thread; way is ld or st."""
    accesses = re.findall(rf"\b{way}\.global[\w.:]*?(?:\.v(\d))?\.[bfsu](\d+)\b", ptx)
    return max((int(n or 1) * int(bits) // 8 for n, bits in accesses), default=0)


def resources(is_brief: bool = False) -> list[Resources]:
    """Every variant for every architecture; in brief, of a kernel of several variants each for one of them in turn.

    Raises RuntimeError where kernels are interpreted instead of compiled.
    """
    if not hasattr(_edit_tokens_triton.edit_kernel, "cache_key"):
        raise RuntimeError("TRITON_INTERPRET is set, so nothing can be compiled; unset it and start a new process")
    every = variants()
    n_variants, number, found = Counter(v.kernel for v in every), Counter[str](), []
    for variant in every:
        kernel = variant.kernel
        in_turn = ARCHITECTURES[number[kernel] % 2 :: 2] if is_brief and n_variants[kernel] > 1 else ARCHITECTURES
        found += [compiled(variant, arch) for arch in in_turn]
        number[kernel] += 1
    return found


def table(found: list[Resources]) -> str:
    """The figures as aligned text."""
    lines = [tuple(f.name for f in fields(Resources)), *[tuple(map(str, astuple(r))) for r in found]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


if __name__ == "__main__":
    sys.stdout.write(table(resources()) + "\n")
