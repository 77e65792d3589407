"""What is installed from a wheel: the demo is in it, and finds its files."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from screen.cli.options import demo_configuration
from tests.support.places import ROOT

FIND = """
from screen.cli.options import demo_configuration
from screen.running.configuration import load_config
config = load_config(demo_configuration())
print(demo_configuration(), config.model.checkpoint, config.cells.h5ad, sep="\\n")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a wheel, as pip would lay them down."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check", str(ROOT)]
    subprocess.run([*build, "--wheel-dir", str(folder)], check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_has_the_demo_and_finds_its_files(installed: Path, tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", FIND], env={"PYTHONPATH": str(installed)}, cwd=tmp_path, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    config, *files = map(Path, found.stdout.split())
    assert config == installed / "screen" / "demo.yaml"
    for path in files:
        assert path.resolve().is_relative_to(installed) and path.is_file()
    assert config.read_text() == demo_configuration().read_text()


def test_a_wheel_has_nothing_beside_the_two_packages(installed: Path) -> None:
    assert {p.name for p in installed.iterdir() if not p.name.endswith(".dist-info")} == {"screen", "screen_kernels"}


@pytest.mark.long
def test_the_transcript_is_what_the_commands_print() -> None:
    script = ROOT / "docs" / "make_transcript.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
