"""Section: what every part of a configuration is, and the kinds of value in it."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

from screen import edits

TimePoint = Annotated[int, Field(ge=1, le=9)]
Mode = Annotated[str, AfterValidator(edits.canonical)]


def beside_yaml(path: Path, info: ValidationInfo) -> Path:
    """Relative paths are relative to the YAML file."""
    base: Path = (info.context or {}).get("base", Path())
    return (base / path.expanduser()).resolve()


FilePath = Annotated[Path, AfterValidator(beside_yaml)]


class Section(BaseModel):
    """A part of the configuration; an unknown key is an error. The text below a key is its `description`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
