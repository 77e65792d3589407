"""The house as its own imports show it: packages, arrows between them, sizes. `python -m tests.support.house` prints it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles

from tests.support.places import ROOT

FLOORS = (
    ("directory", "errors", "edits", "files", "machine"),
    ("config", "cells"),
    ("planning", "screen_kernels"),
    ("models",),
    ("engine", "store"),
    ("stats",),
    ("plots",),
    ("results",),
    ("evaluate",),
    ("report",),
    ("running",),
    ("bench", "checking", "starting"),
    ("cli",),
)
"""Rooms of `screen` from the ground up, and the kernels; imports go down, or stay on a floor without a circle."""
PACKAGES = sorted({p.parent for p in (ROOT / "screen").rglob("*.py")})
SOURCES = sorted([*(ROOT / "screen").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])


def room(path: Path) -> str:
    """The module or package right below `screen` that a file belongs to, or `screen_kernels`."""
    if not path.is_relative_to(ROOT / "screen"):
        return "screen_kernels"
    return path.relative_to(ROOT / "screen").parts[0].removesuffix(".py")


def imports(path: Path, at_import: bool = False) -> list[str]:
    """Every module that a file imports; `at_import`: only those that importing the file imports."""
    tree = ast.parse(path.read_text())
    nodes: list[ast.AST] = list(_run_at_import(tree)) if at_import else list(ast.walk(tree))
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = str(node.module)
            # `from screen import edits` imports a module
            below = [f"{module}.{a.name}" for a in node.names if _is_module(f"{module}.{a.name}")]
            found += below or [module]
    return found


def _run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _run_at_import(child)


def _is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))
    return name.startswith("screen.") and (place.with_suffix(".py").is_file() or place.is_dir())


def room_of(module: str) -> str | None:
    """The room of an imported module, None for what is not ours."""
    parts = module.split(".")
    if parts[0] == "screen_kernels":
        return parts[0]
    return parts[1] if parts[0] == "screen" and len(parts) > 1 else None


def floor(name: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if name in rooms)


def arrows() -> dict[str, set[str]]:
    """Room -> the rooms it imports."""
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        here = room(path)
        if here in ("__init__", "demo"):
            continue
        there = {room_of(m) for m in imports(path)} - {None, here}
        found.setdefault(here, set()).update(str(r) for r in there)
    return found


def order(graph: dict[str, set[str]]) -> list[str]:
    """The rooms, each after those it imports. Raises AssertionError naming those in a circle."""
    seen: list[str] = []
    while ready := sorted(n for n in graph if n not in seen and graph[n] <= set(seen)):
        seen += ready
    assert set(graph) == set(seen), f"circle among {sorted(set(graph) - set(seen))}"
    return seen


def functions(path: Path) -> Iterator[tuple[str, int, bool]]:
    """(name, lines, whether all of it is typed) of every function of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            a = node.args
            named = [*a.posonlyargs, *a.args, *a.kwonlyargs]
            is_typed = node.returns is not None and all(x.annotation or x.arg in ("self", "cls") for x in named)
            yield node.name, (node.end_lineno or 0) - node.lineno + 1, is_typed


def main() -> None:
    """Prints the house."""
    graph, say = arrows(), sys.stdout.write
    for name in reversed(order(graph)):
        say(f"{name:<15} floor {floor(name)}  -> {', '.join(sorted(graph[name])) or '-'}\n")
    say("no circle\n\nfiles per package (of at most 16)\n")
    for folder in PACKAGES:
        say(f"  {folder.relative_to(ROOT)!s:<36} {sum(1 for _ in folder.glob('*.py')):>3}\n")
    found = [f for p in SOURCES for f in functions(p)]
    lengths = sorted(n for _, n, _ in found)
    longest = max(found, key=lambda f: f[1])
    typed = sum(t for _, _, t in found) / len(found)
    say(f"\n{len(SOURCES)} files, {len(found)} functions: longest {longest[0]} {longest[1]} lines, ")
    say(f"95 % within {quantiles(lengths, n=20)[-1]:.0f}, typed {typed:.1%}\n")


if __name__ == "__main__":
    main()
