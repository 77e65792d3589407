"""What the first family of models asks of a configuration, whatever the generic rooms would allow."""

from pathlib import Path
from typing import Any

import pytest

from screen.cli.main import main
from tests.support.tiny import tiny, write


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("predict", {"pred_tps": None}, '"predict.pred_tps" is missing'),
        ("cells", None, "cells from an h5ad need `state_column`, `source` and `targets`"),
    ],
)
def test_targets_are_needed(section: str, change: Any, message: str, tmp_path: Path, capsys: Any) -> None:
    config = tiny()
    config[section] = {"h5ad": str(tmp_path / "x.h5ad")} if change is None else change
    assert main(["plan", str(write(config, tmp_path / "s.yaml"))]) == 2
    assert message in capsys.readouterr().err
