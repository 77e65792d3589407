"""Docstrings as Markdown, for the reference in python.md: examples become code, lines of arguments a list."""

import re
from inspect import cleandoc
from typing import Any

import griffe

ARGUMENT = re.compile(r"(?P<names>\w+(?:, \w+)*|\"\w+\") {2,}(?P<text>\S.*)")


class Docstrings(griffe.Extension):
    """Rewrites every docstring before it is rendered."""

    def on_object(self, *, obj: griffe.Object, **others: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(docstring: str) -> str:
    """A docstring as Markdown.

    name  what it is, with lines that go on
          further in: one entry of a list
    Lines from `>>>` to the next empty one are an example, sentences that begin with Raises a paragraph.
    """
    made: list[str] = []
    kind = "text"
    for line in cleandoc(docstring).splitlines():
        argument = ARGUMENT.fullmatch(line)
        if kind == "example" and line.strip():
            made.append(line)
        elif line.startswith(">>>"):
            made += ["", "```pycon", line]
            kind = "example"
        elif argument:
            names = argument["names"].replace(", ", "`, `")
            made += [*([""] if kind != "list" else []), f"- `{names}`: {argument['text']}"]
            kind = "list"
        elif kind == "list" and line.startswith(" "):
            made.append("  " + line.strip())
        else:
            made += _closed(kind)
            made += ["", line] if kind == "list" or line.startswith("Raises ") else [line]
            kind = "text"
    return "\n".join(made + _closed(kind)).strip() + "\n"


def _closed(kind: str) -> list[str]:
    return ["```", ""] if kind == "example" else []
