"""What the first family of models asks of a configuration, whatever the generic rooms would allow."""

from pathlib import Path
from typing import Any

import pytest

from screen.cli.main import main
from tests.support.tiny import E2E, tiny, write


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


@pytest.mark.parametrize(
    ("checkpoint", "predict", "is_said"),
    [
        ("count_zinb.ckpt", {}, True),
        ("count_zinb.ckpt", {"readout": "mu"}, False),
        ("count_zinb.ckpt", {"use_count_decoder": False}, False),
    ],
)
def test_a_plan_says_that_expected_counts_are_not_what_upstream_writes(
    checkpoint: str, predict: dict[str, Any], is_said: bool, tmp_path: Path, capsys: Any
) -> None:
    config = tiny(model={"checkpoint": str(E2E / "ckpt" / checkpoint)}, predict=predict)
    assert main(["plan", str(write(config, tmp_path / "s.yaml"))]) == 0
    assert ("upstream writes mu, which is larger" in capsys.readouterr().err) == is_said
