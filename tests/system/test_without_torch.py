"""A finished directory is read, checked, tabulated and exported without torch: a laptop need not have it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from screen.cli.main import main
from tests.support.places import ROOT
from tests.support.tiny import tiny, write

CODE = """
import json, sys
from screen.cli.main import main
found = {name: [main(arguments), "torch" in sys.modules] for name, arguments in json.loads(sys.argv[1]).items()}
print(json.dumps(found))
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


@pytest.fixture(scope="module")
def ended(finished: Path) -> dict[str, tuple[int, bool]]:
    """Command -> (its exit code, whether torch was imported by then), one after another in one process."""
    places = {"DIR": finished / "out", "SETS": finished / "sets.gmt", "H5AD": finished / "out.h5ad"}
    commands = {name: [str(places.get(a, a)) for a in arguments] for name, arguments in COMMANDS.items()}
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(commands)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {name: tuple(found) for name, found in json.loads(done.stdout.splitlines()[-1]).items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_about_a_finished_directory_does_not_import_torch(
    ended: dict[str, tuple[int, bool]], name: str
) -> None:
    assert ended[name] == (0, False)
