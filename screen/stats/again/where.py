"""Where: which cells an expression over their metadata chooses, `cell_type in ['CD14', 'CD16'] and t1.donor != 'D3'`.

The text is parsed by Python's grammar and looked at, node by node; nothing of it is ever run. What is not in the table below is
refused, with the place in the text.
"""

import ast
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from screen.cells.donors import levels_of
from screen.errors import ConfigError, nearest, some

MOST_CHARACTERS, DEEPEST, SHOWN = 2000, 40, 100
"""Of an expression: characters; conditions inside conditions; characters that an error shows around the place."""
LARGEST = 2**53
"""Whole numbers beyond are not told apart from their neighbours."""
OPTION = "--where"
Bools: TypeAlias = NDArray[np.bool_]
Columns: TypeAlias = Mapping[str, Mapping[str, NDArray[Any]]]
"""State ("source", "t1", ...) -> column -> the text of each cell, empty where it is missing. States in the order of preference."""
Literal: TypeAlias = str | float | bool

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
_MIRRORED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.Eq, ast.NotEq: ast.NotEq, ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE,
}  # fmt: skip
_WORDS: dict[type[ast.AST], str] = {
    ast.Call: "a call", ast.Lambda: "a function", ast.BinOp: "arithmetic", ast.Subscript: "an index", ast.IfExp: "if ... else",
    ast.JoinedStr: "an f-string", ast.NamedExpr: ":=", ast.ListComp: "a comprehension", ast.Dict: "a dictionary",
    ast.Starred: "*", ast.Await: "await",
}  # fmt: skip
ALLOWED = "==, !=, <, <=, >, >=, in, not in, and, or, not, parentheses, text in quotes, numbers, True and False"


def chosen(text: str, columns: Columns) -> Bools:
    """(C,) which cells an expression chooses: those of which it is true whatever a missing value might be.

    A column is that of the first state that has it, or of the one before the dot: `t1.donor`; backquotes hold names with
    spaces. Text is compared with text, a number with what reads as one; True and False with these words. A value that is
    missing, or is no number where one is asked for, makes its comparison neither true nor false, and `not` leaves that so.
    Raises ConfigError, which shows the place, for what is no such expression, unknown columns and values, and where no cell
    is chosen.
    """
    reader = _Reader(text, columns)
    found = reader.read()
    if not found.any():
        raise reader.error(reader.tree, f"no cell of {len(found):,} fulfils this")
    return found


class _Truth(NamedTuple):
    """Per cell whether something is true, and whether it is false; neither where a value is missing."""

    yes: Bools
    no: Bools


class _Column(NamedTuple):
    """A column's different values, and which of them each cell has; -1 where it is missing."""

    name: str
    level: list[str]
    code_C: NDArray[np.int64]

    def where(self, yes: Sequence[bool], no: Sequence[bool]) -> _Truth:
        """Of what is said of every level; the last, of missing cells, is neither."""
        return _Truth(*(np.array([*said, False])[self.code_C] for said in (yes, no)))

    @property
    def said(self) -> str:
        """What is in it, for messages."""
        return some(self.level, 4) or "no value at all"


class _Reader:
    """One expression and what it is about."""

    def __init__(self, text: str, columns: Columns) -> None:
        # a tab or a line break stands for a space, so that a place in the text is a place in a line
        self._text = re.sub(r"\s", " ", text)
        self._source, self._columns, self._quoted = self._text, columns, dict[str, str]()
        self._read: dict[tuple[str, str], _Column] = {}
        self.tree: ast.expr = ast.Constant(True, lineno=1, col_offset=0, end_lineno=1, end_col_offset=0)

    def read(self) -> Bools:
        if not self._text.strip():
            raise self._error_at(0, 1, "it says nothing")
        if len(self._text) > MOST_CHARACTERS:
            raise ConfigError(f"{OPTION}: {len(self._text):,} characters; {MOST_CHARACTERS:,} are the most")
        self.tree = self._parsed()
        return self._truth(self.tree, 0).yes

    def _parsed(self) -> ast.expr:
        # names in backquotes become plain ones of the same length: places stay where they are
        source = self._source = re.sub(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`[^`]+`""", self._plain, self._text)
        indent = len(source) - len(source.lstrip())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(source.strip(), mode="eval")
        except SyntaxError as error:
            raise self._unreadable(error, source, indent) from error
        except (ValueError, RecursionError, MemoryError, OverflowError) as error:
            raise self._error_at(0, 1, "this is no expression that can be read") from error
        for node in ast.walk(tree):
            if isinstance(node, ast.expr):
                node.col_offset += len(source[:indent].encode())
                node.end_col_offset = (node.end_col_offset or 0) + len(source[:indent].encode())
        return tree.body

    def _unreadable(self, error: SyntaxError, source: str, indent: int) -> ConfigError:
        without_text = re.sub(r"'[^']*'|\"[^\"]*\"", lambda m: " " * len(m[0]), source)
        if (single := re.search(r"(?<![=!<>:])=(?!=)", without_text)) is not None:
            return self._error_at(single.start(), 1, "two things are compared by ==")
        start = indent + max((error.offset or 1) - 1, 0)
        message = f"this is no expression ({error.msg.partition('. Perhaps')[0]})"
        return self._error_at(start, (error.end_offset or 0) - (error.offset or 0), message)

    def _plain(self, found: re.Match[str]) -> str:
        if not found[0].startswith("`"):
            return found[0]
        name = f"_{np.base_repr(len(self._quoted), 36)}".ljust(len(found[0]), "_")
        self._quoted[name] = found[0][1:-1]
        return name

    def error(self, node: ast.expr, message: str) -> ConfigError:
        """An error that points at a node."""
        start, stop = self._place(node)
        return self._error_at(start, stop - start, message)

    def _place(self, node: ast.expr) -> tuple[int, int]:
        """Characters of the text; the tree counts bytes."""
        line = self._source.encode()
        start, stop = (len(line[:b].decode(errors="ignore")) for b in (node.col_offset, node.end_col_offset or 0))
        return start, max(stop, start + 1)

    def _error_at(self, start: int, width: int, message: str) -> ConfigError:
        first = max(min(start - SHOWN // 3, len(self._text) - SHOWN), 0)
        shown = self._text[first : first + SHOWN]
        marks = "^" * max(min(width, len(shown) - (start - first)), 1)
        return ConfigError(f"{OPTION}: {message}\n  {shown}\n  {' ' * (start - first)}{marks}")

    def _truth(self, node: ast.expr, depth: int) -> _Truth:
        """Of a condition."""
        if depth > DEEPEST:
            raise self.error(node, f"conditions are nested more than {DEEPEST} deep")
        if isinstance(node, ast.BoolOp):
            parts = [self._truth(value, depth + 1) for value in node.values]
            join = (np.logical_and, np.logical_or) if isinstance(node.op, ast.And) else (np.logical_or, np.logical_and)
            yes, no = (how.reduce([p[i] for p in parts]) for i, how in enumerate(join))
            return _Truth(yes, no)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            found = self._truth(node.operand, depth + 1)
            return _Truth(found.no, found.yes)
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            parts = [self._compared(a, op, b) for a, op, b in zip(sides, node.ops, sides[1:], strict=False)]
            return _Truth(np.logical_and.reduce([p.yes for p in parts]), np.logical_or.reduce([p.no for p in parts]))
        if isinstance(node, ast.Name | ast.Attribute):
            column = self._column(node)
            return self._with_literal(node, column, ast.Eq, node, True)
        if isinstance(node, ast.Constant | ast.List | ast.Tuple | ast.Set):
            raise self.error(node, "this says nothing of a cell; compare a column with it")
        raise self._misplaced(node)

    def _misplaced(self, node: ast.expr) -> ConfigError:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
            word = "and" if isinstance(node.op, ast.BitAnd) else "or"
            return self.error(node, f"conditions are joined by `{word}`")
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
            return self.error(node, "the opposite of a condition is `not`")
        what = next((words for kind, words in _WORDS.items() if isinstance(node, kind)), "this")
        return self.error(node, f"{what} has no place here; there are {ALLOWED}")

    def _compared(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> _Truth:
        if isinstance(op, ast.In | ast.NotIn):
            found = self._among(left, right)
            return found if isinstance(op, ast.In) else _Truth(found.no, found.yes)
        if type(op) not in _COMPARISONS:
            raise self.error(right, "`is` has no place here; two things are compared by ==")
        a, b = (isinstance(x, ast.Name | ast.Attribute) for x in (left, right))
        if a and b:
            return self._both(left, op, right)
        for side in (left, right):
            if isinstance(side, ast.List | ast.Tuple | ast.Set):
                raise self.error(side, "a list goes with `in`")
        if not a and not b:
            for side in (left, right):
                self._literal(side)
            raise self.error(left, "neither side is a column of the cells")
        if a:
            return self._with_literal(left, self._column(left), type(op), right, self._literal(right))
        return self._with_literal(right, self._column(right), _MIRRORED[type(op)], left, self._literal(left))

    def _among(self, left: ast.expr, right: ast.expr) -> _Truth:
        if isinstance(right, ast.Constant) and isinstance(right.value, str):
            raise self.error(right, f"`in` wants a list: [{right.value!r}]")
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise self.error(right, "`in` wants a list, as in cell_type in ['B', 'NK']")
        if not isinstance(left, ast.Name | ast.Attribute):
            raise self.error(left, "what is looked for must be a column of the cells")
        column = self._column(left)
        yes, no = column.where([False] * len(column.level), [True] * len(column.level))
        for item in right.elts:
            one = self._with_literal(left, column, ast.Eq, item, self._literal(item))
            yes, no = yes | one.yes, no & one.no
        return _Truth(yes, no)

    def _both(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> _Truth:
        """Two columns, as text."""
        if not isinstance(op, ast.Eq | ast.NotEq):
            raise self.error(right, "two columns are compared by == or !=, as text")
        a, b = self._column(left), self._column(right)
        place = {level: i for i, level in enumerate(a.level)}
        # what the first has not stands for none of it
        other_C = np.array([*(place.get(level, -2) for level in b.level), -1])[b.code_C]
        is_known_C = (a.code_C >= 0) & (other_C != -1)
        is_same_C = (a.code_C == other_C) & is_known_C
        same = _Truth(is_same_C, is_known_C & ~is_same_C)
        return same if isinstance(op, ast.Eq) else _Truth(same.no, same.yes)

    def _with_literal(
        self, at: ast.expr, column: _Column, op: type[ast.cmpop], there: ast.expr, literal: Literal
    ) -> _Truth:
        is_equality = op in (ast.Eq, ast.NotEq)
        if isinstance(literal, bool):
            if not is_equality:
                raise self.error(there, "True and False are compared by == or !=")
            values: list[Any] = [{"true": True, "false": False}.get(level.lower()) for level in column.level]
            kind = "True or False"
        elif isinstance(literal, float):
            values, kind = [_number(level) for level in column.level], "a number"
        else:
            values, kind = list(column.level), "text"
            if is_equality and literal not in column.level:
                near = nearest(literal, column.level)
                raise self.error(there, f'no cell has "{literal}" as {column.name}; there is {column.said}{near}')
        if all(v is None for v in values):
            raise self.error(at, f'"{column.name}" is never {kind}; it holds {column.said}')
        compare = _COMPARISONS[op]
        said = [None if v is None else bool(compare(v, literal)) for v in values]
        return column.where([x is True for x in said], [x is False for x in said])

    def _literal(self, node: ast.expr) -> Literal:
        sign, inner = 1, node
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            sign, inner = (-1 if isinstance(node.op, ast.USub) else 1), node.operand
        value = inner.value if isinstance(inner, ast.Constant) else None
        if isinstance(value, str | bool) and inner is node:
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            if isinstance(value, int) and abs(value) > LARGEST:
                raise self.error(
                    node, f"whole numbers beyond {LARGEST} are not told apart; write it as text, in quotes"
                )
            if not np.isfinite(float(value)):
                raise self.error(node, "this number is too large")
            return sign * float(value)
        if isinstance(inner, ast.Constant):
            raise self.error(
                node, f"this can't be compared with; missing values fulfil no comparison; there are {ALLOWED}"
            )
        raise self._misplaced(node)

    def _column(self, node: ast.expr) -> _Column:
        """The column that a name means, with or without a state before it."""
        parts: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name):
            raise self._misplaced(inner)
        first = self._quoted.get(inner.id, inner.id)
        parts = [first, *(self._quoted.get(p, p) for p in reversed(parts))]
        whole = ".".join(parts)
        state = next((s for s, there in self._columns.items() if whole in there), None)
        name = whole
        if state is None and len(parts) > 1 and parts[0] in self._columns:
            state, name = parts[0], ".".join(parts[1:])
        if state is None or name not in self._columns[state]:
            raise self._no_column(node, whole, name, state)
        if (state, name) not in self._read:
            code_C, level = levels_of(self._columns[state][name])
            self._read[state, name] = _Column(name, level, code_C)
        return self._read[state, name]

    def _no_column(self, node: ast.expr, whole: str, name: str, state: str | None) -> ConfigError:
        if state is not None:
            there = self._columns[state]
            return self.error(
                node, f'no column "{name}" at {state}; there is {some(there, 12) or "none"}{nearest(name, there)}'
            )
        names = list(dict.fromkeys(n for there in self._columns.values() for n in there))
        for there in self._columns.values():
            for column, value_C in there.items():
                if bool((value_C == whole).any()):
                    return self.error(node, f'no column "{whole}"; as a value of {column} it needs quotes: {whole!r}')
        more = "" if "." not in whole else f"; states are {some(self._columns, 9)}"
        return self.error(
            node, f'no column "{whole}"; there is {some(names, 12) or "none"}{more}{nearest(whole, names)}'
        )


def _number(text: str) -> float | None:
    """What a text reads as; None where it is no number."""
    try:
        found = float(text)
    except ValueError:
        return None
    return None if "_" in text or np.isnan(found) else found
