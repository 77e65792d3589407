"""A finished directory is read, checked, tabulated and exported without torch: a laptop need not have it."""

import subprocess
import sys
from pathlib import Path

import pytest

from screen.cli.main import main
from tests.support.places import ROOT
from tests.support.tiny import tiny, write

CODE = """
import sys
from screen.cli.main import main
code = main(sys.argv[1:])
print("with torch" if "torch" in sys.modules else "without torch")
sys.exit(code)
"""
COMMANDS = {
    "status": ["status", "DIR"],
    "verify": ["verify", "DIR"],
    "deg": ["deg", "DIR", "--test", "signed_rank", "--rank-sum", "plain", "--gene-sets", "SETS"],
    "deg of the ranking alone": ["deg", "DIR", "--top", "0"],
    "export": ["export", "DIR", "--h5ad", "H5AD"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a finished screen of every gene, its changes in float16."""
    folder = tmp_path_factory.mktemp("without_torch")
    config = write(tiny(output={"store_dtype": "float16", "strata": ["cell_type"]}), folder / "s.yaml")
    assert main(["run", str(config), "--out", str(folder / "out")]) == 0
    genes = [f"ENSG{100_000 + 7 * i:011d}" for i in range(20)]
    (folder / "sets.gmt").write_text("".join(f"set{i}\t\t" + "\t".join(genes[i : i + 9]) + "\n" for i in range(5)))
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_about_a_finished_directory_does_not_import_torch(finished: Path, name: str) -> None:
    places = {"DIR": finished / "out", "SETS": finished / "sets.gmt", "H5AD": finished / "out.h5ad"}
    arguments = [str(places.get(a, a)) for a in COMMANDS[name]]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "without torch"
