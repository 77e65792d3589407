"""How much of a screen is computed before anything of it is kept: what an interrupt may lose."""

from pathlib import Path
from typing import Any

import pytest

from screen.config.screen_config import parse_config
from screen.running.prepare import prepare
from screen.running.unit_sizes import CPU_UNIT_FLOPS, UNIT_FLOPS, unit_flops
from tests.support.tiny import tiny


@pytest.mark.parametrize(
    ("sections", "is_cpu"),
    [
        ({"compute": {"device": "cpu"}}, True),
        ({"compute": {"device": "cuda"}}, False),
        ({"compute": {"device": "cpu"}, "cluster": {"workers": 2}}, True),
        ({"cluster": {"kind": "gpus"}}, False),
        ({"cluster": {"scheduler": "tcp://10.0.0.1:8786"}}, False),
        ({"cluster": {"kind": "slurm", "slurm": {"gpus": 0}}}, True),
        ({"cluster": {"kind": "slurm", "slurm": {"gpus": 1}}}, False),
    ],
)
def test_units_are_smaller_where_cpus_compute(sections: dict[str, Any], is_cpu: bool) -> None:
    config = parse_config(tiny() | sections, Path("screen.yaml"))
    assert unit_flops(config) == (CPU_UNIT_FLOPS if is_cpu else UNIT_FLOPS)


def test_the_less_work_a_unit_may_be_the_fewer_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ever less work, down to the fewest rows."""
    config, sizes = parse_config(tiny() | {"compute": {"device": "cpu"}}, Path("screen.yaml")), []
    for work in (CPU_UNIT_FLOPS, 1e9, 1e6):
        monkeypatch.setattr("screen.running.unit_sizes.CPU_UNIT_FLOPS", work)
        plan = prepare(config).plan
        sizes.append(plan.unit_rows)
    assert sizes[0] > sizes[1] > sizes[2] == 64
