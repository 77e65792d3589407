"""What is wrong with a configuration is told in our words: the place, what may stand there, what does."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from docs.make_configuration import sections
from screen.config.screen_config import parse_config
from screen.errors import ConfigError
from tests.support.tiny import tiny

WRONG = (3, -1, 1.5, "text", "", True, None, [], [1, 2], [[1]], [None], {}, {"a": 1}, float("nan"), 10**30)
THEIRS = re.compile(
    r"pydantic|Input should|valid (string|integer|boolean|list|tuple|dict)|<class|function-|type=|Trace"
)


def wrong(raw: dict[str, Any], folder: Path) -> str | None:
    """What is said, if anything is."""
    try:
        parse_config(raw, folder / "s.yaml")
    except ConfigError as error:
        return str(error)
    return None


def test_no_word_of_a_library_is_said_whatever_stands_where(tmp_path: Path) -> None:
    n_refused = 0
    for place, section, _ in sections():
        for key in section.model_fields:
            for value in WRONG:
                raw = copy.deepcopy(tiny())
                inner: Any = raw
                for name in place.split("."):
                    inner = inner.setdefault(name, {})
                inner[key] = value
                said = wrong(raw, tmp_path)
                n_refused += said is not None
                assert said is None or THEIRS.search(said) is None, (place, key, value, said)
    assert n_refused > 800


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("library", {"genes": 3}, "library.0.genes in s.yaml must be 'all', a list or a path (it is 3)"),
        (
            "library",
            [{"genes": "all", "mode": ["mask"]}],
            'unknown key "library.0.mode" in s.yaml; did you mean "modes"',
        ),
        ("deg", {"top": -1}, "deg.top in s.yaml must be 0 or more (it is -1)"),
        ("expect", {"A": []}, "expect.A in s.yaml must be a list of 1 or more (it is [])"),
        (
            "cluster",
            {"kind": "slurm", "slurm": {"gpu": 1}},
            'unknown key "cluster.slurm.gpu" in s.yaml; did you mean "gpus"',
        ),
        ("expect", {"A (1)": 3}, "expect.A (1) in s.yaml must be a list (it is 3)"),
        ("null", 5, "null in s.yaml must be keys with values (it is 5)"),
    ],
)
def test_a_problem_says_what_may_stand_there(section: str, value: Any, message: str, tmp_path: Path) -> None:
    said = wrong(tiny() | {section: value}, tmp_path)
    assert said is not None and message in said
