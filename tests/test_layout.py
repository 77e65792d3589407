"""The house: imports only go down the floors, outside libraries stay in their homes, files and functions stay small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = (
    ("errors",),
    ("genes", "perturbations", "sections", "config"),
    ("tokens", "plan", "pack", "rows", "library", "effects", "layout", "columns", "models", "importers"),
    ("segments", "moments", "statistics", "dense", "gene_sets"),
    ("executor", "lanes", "resident", "control", "decompose", "arrays", "reading", "export", "store", "lock"),
    ("prepared", "prepare", "synthetic", "decide", "groups", "null", "deg", "enrich", "parts", "hits", "tables"),
    (
        "engine",
        "sample",
        "work",
        "forward",
        "reference",
        "summaries",
        "resume",
        "runner",
        "preflight",
        "pilot",
        "audit",
        "handoff",
        "worker",
    ),
    ("report",),
    ("cluster", "session", "bench"),
    ("cli",),
)
# library -> modules of `screen` that may import it
HOMES = {
    "zarr": {"store", "arrays", "reading", "dense"},
    "anndata": {"importers", "export", "demo"},
    "h5py": {"importers", "demo"},
    "pandas": {"importers", "export", "enrich", "demo"},
    "gseapy": {"enrich"},
    "dask": {"parts", "cluster", "reading"},
    "distributed": {"cluster", "worker"},
    "triton": set(),
    "datasets": set(),
    "argparse": {"cli", "demo"},
}
SOURCES = sorted([*(ROOT / "screen").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
FILE_LINES, FUNCTION_LINES, KERNEL_LINES = 400, 60, 100


def room(path: Path) -> str:
    """The module or package right below `screen` that a file belongs to."""
    return path.relative_to(ROOT / "screen").parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Every module that a file imports, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(str(node.module))
    return found


def floor(name: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if name in rooms)


SCREEN = [p for p in SOURCES if p.is_relative_to(ROOT / "screen") and room(p) not in ("__init__", "demo")]


@pytest.mark.parametrize("path", SCREEN, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_the_floors(path: Path) -> None:
    here = room(path)
    for module in imports(path):
        if module.startswith("screen.") and (there := module.split(".")[1]) != here:
            assert floor(there) <= floor(here), f"{here} may not import {there}"


def test_modules_of_one_floor_do_not_import_in_circles() -> None:
    edges = {p: {m.split(".")[1] for m in imports(p) if m.startswith("screen.")} for p in SCREEN}
    graph: dict[str, set[str]] = {}
    for path, targets in edges.items():
        graph.setdefault(room(path), set()).update(targets - {room(path)})
    seen: list[str] = []
    while ready := [n for n in graph if n not in seen and graph[n] <= {*seen, "demo"}]:
        seen += ready
    assert set(graph) == set(seen), f"circle among {set(graph) - set(seen)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_outside_libraries_stay_in_their_homes(path: Path) -> None:
    here = room(path) if path.is_relative_to(ROOT / "screen") else "screen_kernels"
    for module in imports(path):
        library = module.split(".")[0]
        if library in HOMES and not (library == "triton" and here == "screen_kernels"):
            assert here in HOMES[library], f"{path} may not import {library}"
        assert library != "kernels", "import screen_kernels, never kernels.screen_kernels"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= FILE_LINES
    limit = KERNEL_LINES if path.is_relative_to(ROOT / "kernels") else FUNCTION_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            n_lines = (node.end_lineno or 0) - node.lineno + 1
            assert n_lines <= limit, f"{node.name} has {n_lines} lines"


def test_no_file_is_called_utils_and_kernels_is_no_package() -> None:
    names = {p.stem for p in SOURCES}
    assert not names & {"utils", "util", "helpers", "common", "misc"}
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_planning_and_packing_know_nothing_of_torch_or_files() -> None:
    for name in ("plan", "pack", "tokens", "perturbations"):
        libraries = {m.split(".")[0] for m in imports(ROOT / "screen" / f"{name}.py")}
        assert not libraries & {"torch", "zarr", "pathlib", "os"}, name


def test_nothing_names_a_registry_host_or_the_network() -> None:
    words = ("pypi" + ".org", "files.python" + "hosted", "registry." + "npmjs", "http" + "s://")
    for path in [*SOURCES, ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / ".ci" / "run"]:
        assert not [w for w in words if w in path.read_text()], path
