"""The house: imports only go down the floors, outside libraries stay in their homes, files and functions stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.house import FLOORS, PACKAGES, SOURCES, arrows, floor, functions, imports, order, room, room_of
from tests.support.places import ROOT

HOMES = {
    "zarr": {"cells", "store"},
    "anndata": {"cells", "store", "models"},
    "h5py": {"cells", "models", "store"},
    "pandas": {"cells", "store", "stats"},
    "pyarrow": {"models", "stats", "report"},
    "gseapy": {"stats"},
    "matplotlib": {"plots"},
    "plotly": {"report"},
    "jinja2": {"report"},
    "decoupler": set[str](),
    "google_crc32c": {"files"},
    "dask": {"running", "stats", "store"},
    "distributed": {"running"},
    "rich": {"cli"},
    "argparse": {"cli"},
    "triton": {"screen_kernels"},
    "torch": {"screen_kernels", "models", "engine", "running", "bench"},
    "datasets": set[str](),
}
"""Library -> rooms of `screen` that may import it."""
FILE_LINES, FUNCTION_LINES, KERNEL_LINES, PACKAGE_FILES = 400, 60, 100, 16
FAMILIES = ("perturb" + "gen",)
"""Words that only the model of that name, and the registry, may say."""
NO_TORCH = (
    "screen.config.screen_config", "screen.planning.plan", "screen.store.store", "screen.store.export", "screen.stats.tables",
    "screen.results.results", "screen.running.tables", "screen.cli.commands", "screen.report.page",
)  # fmt: skip

ids = {"ids": lambda p: str(p.relative_to(ROOT))}


@pytest.mark.parametrize("path", SOURCES, **ids)
def test_imports_go_down_the_floors(path: Path) -> None:
    here = room(path)
    for module in imports(path):
        there = room_of(module)
        if there is not None and there != here and here != "__init__":
            assert floor(there) <= floor(here), f"{here} may not import {module}"


def test_packages_do_not_import_in_circles() -> None:
    assert set(order(arrows())) <= {name for rooms in FLOORS for name in rooms}


@pytest.mark.parametrize("path", SOURCES, **ids)
def test_outside_libraries_stay_in_their_homes(path: Path) -> None:
    for module in imports(path):
        library = module.split(".")[0]
        if library in HOMES:
            assert room(path) in HOMES[library], f"{path} may not import {library}"
        assert library != "kernels", "import screen_kernels, never kernels.screen_kernels"


@pytest.mark.parametrize("path", SOURCES, **ids)
def test_files_and_functions_stay_small(path: Path) -> None:
    assert path.read_text().count("\n") <= FILE_LINES
    limit = KERNEL_LINES if room(path) == "screen_kernels" else FUNCTION_LINES
    assert [(name, n) for name, n, _ in functions(path) if n > limit] == []


@pytest.mark.parametrize("folder", PACKAGES, **ids)
def test_a_package_has_few_files_and_its_init_holds_nothing_else(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= PACKAGE_FILES
    body = ast.parse((folder / "__init__.py").read_text()).body
    assert not [x for x in body if isinstance(x, ast.FunctionDef | ast.ClassDef) and not x.name.startswith("__")]


def test_no_file_is_called_utils_and_kernels_is_no_package() -> None:
    names = {p.stem for p in SOURCES}
    assert not names & {"utils", "util", "helpers", "common", "misc"}
    assert not (ROOT / "kernels" / "__init__.py").exists()


@pytest.mark.parametrize("word", FAMILIES)
def test_a_family_of_models_is_named_in_its_own_folder_and_in_the_registry_only(word: str) -> None:
    own = ROOT / "screen" / "models"
    elsewhere = [p for p in SOURCES if not p.is_relative_to(own / word) and p != own / "registry.py"]
    assert [str(p.relative_to(ROOT)) for p in elsewhere if word in p.read_text().lower()] == []


def modules_after(code: str) -> set[str]:
    """What a fresh interpreter has imported after some code."""
    text = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_what_needs_no_torch_does_not_import_it() -> None:
    each = "; ".join(f"import {module}; found.append(('{module}', 'torch' in sys.modules))" for module in NO_TORCH)
    text = f"import sys; found = []; {each}; print(*[name for name, has_torch in found if has_torch][:1])"
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    # the first of them imports it
    assert done.stdout.split() == []


def test_planning_knows_nothing_of_files() -> None:
    for path in (ROOT / "screen" / "planning").glob("*.py"):
        libraries = {m.split(".")[0] for m in imports(path)}
        # a list of genes may be a file
        assert not libraries & {"torch", "zarr", "os"} and ("pathlib" not in libraries or path.stem == "library"), path


@pytest.mark.parametrize("path", [p for p in SOURCES if room(p) != "files"], **ids)
def test_files_are_renamed_and_synced_in_one_place(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            # of a path; text has two arguments to replace, a table names those of rename
            is_renamed = node.func.attr in ("replace", "rename") and len(node.args) == 1 and not node.keywords
            is_other = ast.unparse(node.func) in ("os.replace", "os.rename", "os.renames", "shutil.move", "os.fsync")
            assert not is_renamed and not is_other, f"{path}:{node.lineno}: see screen/files.py"


def test_a_bare_node_imports_what_writes_files() -> None:
    assert not {"google_crc32c", "numpy"} & modules_after("import screen.files")


def test_nothing_names_a_registry_host_or_the_network() -> None:
    words = ("pypi" + ".org", "files.python" + "hosted", "registry." + "npmjs", "http" + "s://")
    for path in [*SOURCES, ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / ".ci" / "run"]:
        assert not [w for w in words if w in path.read_text()], path
