"""configuration.md and schema.json, made from the model of the configuration; a test compares them.

python docs/make_configuration.py            # writes both
python docs/make_configuration.py --check    # writes nothing; exit code 1 if one is not up to date
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args

from pydantic.fields import FieldInfo

from screen.config.screen_config import ScreenConfig
from screen.config.section import Section

DOCS = Path(__file__).parent
HEAD = """# Configuration

A screen is one YAML file. Three sections are needed, `model`, `cells` and `library`; what is left out of the others is as the
tables say. Relative paths are relative to the YAML file. An unknown key is an error that names the nearest known one.

Upstream's `perturbation.yaml` is read as it is; [From val.py](from-val.md) has its keys. `configs/` of the source holds a demo,
upstream's IL1B tutorial, a genome-wide screen and a Slurm job in this format.

An editor with a YAML language server completes and checks the keys with [schema.json](schema.json), named in the file's first line:

```text
# yaml-language-server: $schema=schema.json
```

<!-- made by docs/make_configuration.py from screen/config: change it there -->
"""


def sections(section: type[Section] = ScreenConfig, place: str = "") -> Iterator[tuple[str, type[Section], FieldInfo]]:
    """(place, section, the field it stands in) of every part of a configuration, from the top."""
    for key, info in section.model_fields.items():
        for found in _sections_in(info.annotation):
            yield f"{place}{key}", found, info
            yield from sections(found, f"{place}{key}.")


def _sections_in(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and not isinstance(annotation, UnionType) and not get_args(annotation):
        return [annotation] if issubclass(annotation, Section) else []
    return [found for part in get_args(annotation) for found in _sections_in(part)]


def schema() -> dict[str, Any]:
    """The JSON schema of a configuration, for editors: `library` may be one block or a list of them."""
    made: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **ScreenConfig.model_json_schema(),
    }
    made["description"] = _said(ScreenConfig)
    for _, section, _ in sections():
        made["$defs"][section.__name__]["description"] = _said(section)
    library = made["properties"]["library"]
    block = library["items"]
    made["properties"]["library"] = {
        **{k: v for k, v in library.items() if k in ("title", "description")},
        "anyOf": [block, {"type": "array", "items": block, "minItems": 1}],
    }
    return made


def page() -> str:
    """The whole page."""
    tables = [_table(place, section, info) for place, section, info in sections()]
    return "\n".join([HEAD, *tables])


def _table(place: str, section: type[Section], info: FieldInfo) -> str:
    made = section.model_json_schema(mode="validation")
    rows = []
    for key, field in section.model_fields.items():
        value = made["properties"][key]
        values = f"[section](#{_anchor(f'{place}.{key}')})" if _sections_in(field.annotation) else _values(value)
        cells = (f"`{key}`", " ".join(str(field.description).split()), values, _default(field))
        rows.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    doc = _said(section)
    need = " Needed." if info.is_required() else ""
    head = f"## `{place}`\n\n{doc}{need}\n\n| key | meaning | values | default |\n| --- | --- | --- | --- |\n"
    return head + "\n".join(rows) + "\n"


def _said(section: type[Section]) -> str:
    """What a section's docstring says, without examples."""
    return " ".join((section.__doc__ or "").split(">>>")[0].split())


def _anchor(place: str) -> str:
    return place.replace(".", "").lower()


def _values(value: dict[str, Any]) -> str:
    """What may stand at a key, in words."""
    if "anyOf" in value:
        return ", or ".join(dict.fromkeys(_values(v) for v in value["anyOf"] if v.get("type") != "null"))
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{v}`" for v in value["enum"])
    if "prefixItems" in value:
        return f"[{', '.join(_values(v) for v in value['prefixItems'])}]"
    if value["type"] == "array":
        return f"list of: {_values(value['items'])}"
    if value["type"] == "object":
        inner = value.get("additionalProperties") or next(iter(value["patternProperties"].values()))
        return f"mapping to: {_values(inner)}"
    word = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}[
        value["type"]
    ]
    word = "path" if value.get("format") == "path" else word
    low, high = value.get("minimum"), value.get("maximum")
    if low is not None and high is not None:
        return f"{word}, {low} to {high}"
    above = f" above {value['exclusiveMinimum']}" if "exclusiveMinimum" in value else ""
    least = f", {low} or more" if low is not None else ""
    most = f", at most {high}" if high is not None else ""
    return f"{word}{above}{least}{most}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    default = field.get_default(call_default_factory=True)
    return "" if default is None or default in ([], {}) else f"`{json.dumps(default)}`".replace('"', "")


def files() -> dict[Path, str]:
    """What each generated file must hold."""
    return {
        DOCS / "configuration.md": page(),
        DOCS / "schema.json": json.dumps(schema(), indent=1, ensure_ascii=False) + "\n",
    }


def main(arguments: list[str]) -> int:
    """Exit code: 0 up to date or written, 1 out of date (--check)."""
    stale = [path for path, text in files().items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        if "--check" in arguments:
            sys.stderr.write(f"{path} is not up to date; run: python docs/make_configuration.py\n")
        else:
            path.write_text(files()[path])
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
