"""Every key of a configuration is described, and the generated pages are what the model says."""

import json
from pathlib import Path

import pytest

from docs.make_configuration import files, main, page, schema, sections
from screen.config.screen_config import ScreenConfig
from screen.stats.tests import table

KEYS = {"": ScreenConfig, **{place: section for place, section, _ in sections()}}


def test_every_section_is_found() -> None:
    assert {"model", "cells", "library", "null", "deg", "enrich", "cluster", "cluster.slurm"} <= set(KEYS)


@pytest.mark.parametrize("place", KEYS)
def test_every_key_has_a_description(place: str) -> None:
    fields = KEYS[place].model_fields
    assert fields
    assert [key for key, field in fields.items() if not (field.description or "").strip()] == []


def test_every_key_of_a_section_is_in_the_page_and_in_the_schema() -> None:
    text, defined = page(), schema()["$defs"]
    for place, section in KEYS.items():
        for key in section.model_fields if place else ():
            assert f"| `{key}` |" in text.split(f"## `{place}`\n")[1].split("\n## ")[0]
            assert defined[section.__name__]["properties"][key]["description"]


def test_every_test_of_differential_expression_is_named_where_it_is_chosen() -> None:
    said = str(KEYS["deg"].model_fields["test"].description)
    assert [name for name in table.NAMES if name not in said] == []


@pytest.mark.parametrize("path", files(), ids=lambda p: p.name)
def test_a_generated_file_is_up_to_date(path: Path) -> None:
    assert path.read_text() == files()[path], "run: python docs/make_configuration.py"


def test_the_check_says_what_is_stale(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("docs.make_configuration.DOCS", tmp_path)
    assert main(["--check"]) == 1
    assert not list(tmp_path.iterdir())
    assert "schema.json is not up to date" in capsys.readouterr().err
    assert main([]) == 0
    assert main(["--check"]) == 0
    assert json.loads((tmp_path / "schema.json").read_text())["properties"]["library"]["anyOf"]
