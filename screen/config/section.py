"""Section: what every part of a configuration is, and the kinds of value in it."""

from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema

from screen import edits

TimePoint = Annotated[int, Field(ge=1, le=9)]
Mode = Annotated[str, AfterValidator(edits.canonical)]


def beside_yaml(path: Path, info: ValidationInfo) -> Path:
    """Relative paths are relative to the YAML file."""
    base: Path = (info.context or {}).get("base", Path())
    return (base / path.expanduser()).resolve()


FilePath = Annotated[Path, AfterValidator(beside_yaml)]


def _as_text(value: object) -> object:
    """YAML reads 6, 0.5, true and 2024-01-31 as other than text; tables of cells hold their text."""
    return str(value) if isinstance(value, bool | int | float | date) else value


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str | bool | int | float | date) else value


Value = Annotated[
    str,
    BeforeValidator(_as_text),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]}),
]
"""What a column of cells holds: text, a number, true or false."""
OneOrMore = Annotated[list[Value], BeforeValidator(_as_list)]


class Section(BaseModel):
    """A part of the configuration; an unknown key is an error. The text below a key is its `description`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
