"""Problems: what is wrong with a configuration, in words: the place, what may stand there, what does."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from screen.errors import nearest

MAX_SHOWN = 120
TRIED = re.compile(r"\[key\]$|[\w-]+[\[(]")
"""What pydantic puts into a place where one kind of value after another is tried: `list[str]`, `function-after[...]`."""
NEEDED: Mapping[str, str] = {
    "string_type": "text",
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of a usual size",
    "float_type": "a number", "float_parsing": "a number", "finite_number": "a finite number",
    "bool_type": "true or false", "bool_parsing": "true or false",
    "list_type": "a list", "tuple_type": "a list", "dict_type": "keys with values", "model_type": "keys with values",
    "path_type": "a path",
    "literal_error": "{expected}",
    "greater_than_equal": "{ge} or more", "greater_than": "more than {gt}",
    "less_than_equal": "{le} or less", "less_than": "less than {lt}",
    "too_short": "a list of {min_length} or more", "too_long": "a list of {max_length} at most",
}  # fmt: skip
"""Kind of problem of pydantic's -> what is needed instead."""


def described(problems: Iterable[Any], path: Path, names: Mapping[str, str], keys: Mapping[str, Sequence[str]]) -> str:
    """A line for each place that is wrong, of pydantic's list of problems with the configuration in a file.

    `names` translates places into the words of the file; `keys` are those that a section ("": the file) may have.
    """
    needed: dict[tuple[str, str], list[str]] = {}
    lines: dict[str, None] = {}
    for problem in problems:
        place = [str(p) for p in problem["loc"] if not TRIED.match(str(p))]
        where = _named(".".join(place), names)
        if problem["type"] == "extra_forbidden":
            section = ".".join(p for p in place[:-1] if not p.isdigit())
            lines[f'unknown key "{where}" in {path.name}{nearest(place[-1], keys.get(section, keys[""]))}'] = None
        elif problem["type"] == "missing":
            lines[f'"{where}" is missing in {path.name}'] = None
        elif problem["type"] in NEEDED:
            what = NEEDED[problem["type"]].format(**problem.get("ctx", {}))
            others = needed.setdefault((where, _short(problem["input"])), [])
            others += [what] if what not in others else []
        else:
            message = problem["msg"].removeprefix("Value error, ")
            seen = "" if isinstance(problem["input"], dict) else f" (it is {_short(problem['input'])})"
            lines[f"{where} in {path.name}: {message}{seen}"] = None
    for (where, seen), all_of_it in needed.items():
        lines[f"{where} in {path.name} must be {_either(all_of_it)} (it is {seen})"] = None
    return "\n".join(lines)


def _named(where: str, names: Mapping[str, str]) -> str:
    ours = next((k for k in sorted(names, key=len, reverse=True) if where == k or where.startswith(k + ".")), None)
    return (where if ours is None else names[ours] + where.removeprefix(ours)) or "the file"


def _either(what: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(what[:-1]), what[-1]]))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + " ..."
