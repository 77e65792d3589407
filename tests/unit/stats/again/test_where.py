"""Expressions over the cells choose what a slow evaluator on pandas chooses; all else is refused, pointing at the place."""

import operator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from screen.errors import ConfigError
from screen.stats.again.where import DEEPEST, chosen

TEXTS = ("CD14", "CD16", "B", "NK", "it's", "")
NUMBERS = ("3", "4.5", "-2", "1e2", "many", "")
TRUTHS = ("True", "False", "true", "")
COMPARISONS = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
MIRROR = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


def text(*values: str) -> Any:
    return np.array(values, dtype=object)


CELLS = {
    "source": {
        "cell_type": text("CD14", "CD16", "B", "CD14", ""),
        "age": text("3", "4.5", "", "many", "7"),
        "is_doublet": text("True", "False", "", "True", "false"),
        "Sample ID": text("a", "b", "c", "d", "e"),
        "Größe": text("1", "2", "3", "4", "5"),
    },
    "t1": {"donor": text("D1", "D2", "D1", "", "D2"), "cell_type": text("CD14", "CD14", "B", "B", "")},
}


@pytest.mark.parametrize(
    ("expression", "cells"),
    [
        ("cell_type in ['CD14', 'CD16']", [0, 1, 3]),
        ("not cell_type in ('CD14',)", [1, 2]),
        ("cell_type not in {'CD14'}", [1, 2]),
        ("age > 3", [1, 4]),
        ("3 < age <= 7", [1, 4]),
        ("-3 < age and 4 > age", [0]),
        ("age == 'many'", [3]),
        ("is_doublet", [0, 3]),
        ("not is_doublet", [1, 4]),
        ("is_doublet != True", [1, 4]),
        ("t1.cell_type != source.cell_type", [1, 3]),
        ("donor == 'D1'", [0, 2]),
        ("t1.donor == 'D1' or cell_type == 'CD16'", [0, 1, 2]),
        ("`Sample ID` in ['a', 'e'] and not source.`Sample ID` == 'e'", [0]),
        ("Größe >= 4", [3, 4]),
        (" cell_type == 'CD14'\n  and age == 3 ", [0]),
    ],
)
def test_what_is_written_is_chosen(expression: str, cells: list[int]) -> None:
    np.testing.assert_array_equal(np.flatnonzero(chosen(expression, CELLS)), cells)


@st.composite
def conditions(draw: st.DrawFn) -> tuple[str, Any]:
    """(expression, what pandas with missing values says of a frame)."""
    kind = draw(st.sampled_from(["text", "number", "truth", "list", "columns", "and", "or", "not"]))
    if kind in ("and", "or"):
        parts = draw(st.lists(conditions(), min_size=2, max_size=3))
        join = operator.and_ if kind == "and" else operator.or_
        said = f" {kind} ".join(f"({a})" for a, _ in parts)

        def of_parts(frame: pd.DataFrame) -> Any:
            found = parts[0][1](frame)
            for _, part in parts[1:]:
                found = join(found, part(frame))
            return found

        return said, of_parts
    if kind == "not":
        inner, evaluate = draw(conditions())
        return f"not ({inner})", lambda frame: ~evaluate(frame)
    if kind == "list":
        values = draw(st.lists(st.sampled_from(TEXTS[:-1]), max_size=3))
        word = draw(st.sampled_from(["in", "not in"]))
        sign = (lambda x: x) if word == "in" else operator.invert
        return f"cell_type {word} {values!r}", lambda f: sign(one_by_one(f["cell_type"], lambda v: v in values))
    if kind == "columns":
        return "t1.kind == cell_type", lambda f: two_by_two(f["kind"], f["cell_type"])
    if kind == "truth":
        value = draw(st.booleans())
        return f"flag == {value}", lambda f: one_by_one(f["flag"], lambda v: (v.lower() == "true") == value)
    sign = draw(st.sampled_from(list(COMPARISONS)))
    mirrored = draw(st.booleans())
    if kind == "text":
        value, column = draw(st.sampled_from(TEXTS[:-1])), "cell_type"
        compare: Any = lambda v: COMPARISONS[sign](v, value)  # noqa: E731
    else:
        value, column = draw(st.sampled_from([-2.0, 3.0, 4.5, 7.0, 100.0])), "age"
        compare = lambda v: COMPARISONS[sign](float(v), value) if v != "many" else None  # noqa: E731
    said = f"{value!r} {MIRROR[sign]} {column}" if mirrored else f"{column} {sign} {value!r}"
    return said, lambda f: one_by_one(f[column], compare)


def one_by_one(column: Any, compare: Any) -> Any:
    return pd.Series([None if v == "" else compare(v) for v in column], dtype="boolean")


def two_by_two(a: Any, b: Any) -> Any:
    return pd.Series([None if "" in (x, y) else x == y for x, y in zip(a, b, strict=True)], dtype="boolean")


@given(conditions(), st.integers(0, 2**16), st.integers(0, 12))
def test_it_is_what_a_slow_evaluator_says(condition: tuple[str, Any], seed: int, n_more: int) -> None:
    expression, evaluate = condition
    rng = np.random.default_rng(seed)
    columns = {"cell_type": TEXTS, "age": NUMBERS, "flag": TRUTHS, "kind": TEXTS}
    # every value once, so that none is unknown
    frame = pd.DataFrame(
        {
            name: rng.permutation([*values, *rng.choice(values, 6 + n_more - len(values))])
            for name, values in columns.items()
        }
    )
    cells = {
        "source": {n: frame[n].to_numpy(dtype=object) for n in ("cell_type", "age", "flag")},
        "t1": {"kind": frame["kind"].to_numpy(dtype=object)},
    }
    expected = evaluate(frame).fillna(False).to_numpy(dtype=bool)
    if expected.any():
        np.testing.assert_array_equal(chosen(expression, cells), expected)
    else:
        with pytest.raises(ConfigError, match="no cell of"):
            chosen(expression, cells)


@pytest.mark.parametrize(
    ("expression", "place", "message"),
    [
        ("cel_type == 'CD14'", "cel_type", 'no column "cel_type"; .*did you mean "cell_type"'),
        ("age > 3 and cell_type == CD14", "CD14", "as a value of cell_type it needs quotes: 'CD14'"),
        ("cell_type = 'CD14'", "=", "compared by =="),
        ("age > 3 and cell_type == 'CD15'", "'CD15'", 'no cell has "CD15" as cell_type; .*did you mean "CD1'),
        ("Größe > 1 and cell_type == 'é'", "'é'", 'no cell has "é"'),
        ("cell_type > 3", "cell_type", "is never a number; it holds B, CD14, CD16"),
        ("cell_type", "cell_type", "is never True or False"),
        ("t1.age > 3", "t1.age", 'no column "age" at t1; there is donor, cell_type'),
        ("t9.donor == 'D1'", "t9.donor", "states are source, t1"),
        ("cell_type in 'CD14'", "'CD14'", r"`in` wants a list: \['CD14'\]"),
        ("(age > 3) & (age < 5)", "(age > 3) & (age < 5", "joined by `and`"),
        ("`Sample ID` == 'a' and `Sampel ID` == 'b'", "`Sampel ID`", 'did you mean "Sample ID"'),
        ("age > 1000", "age > 1000", "no cell of 5 fulfils this"),
        ("age == None", "None", "missing values fulfil no comparison"),
        ("1 < 2", "1", "neither side is a column"),
        ("age == [3]", "[3]", "a list goes with `in`"),
        ("age is 3", "3", "`is` has no place here"),
        ("True", "True", "says nothing of a cell"),
        ("is_doublet < True", "True", "by == or !="),
        ("age < cell_type", "cell_type", "two columns are compared by == or !="),
        ("age > ", "age > ", "no expression"),
        ("   ", " ", "says nothing"),
    ],
)
def test_an_error_points_at_the_place(expression: str, place: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s)^--where: .*{message}") as caught:
        chosen(expression, CELLS)
    _, shown, marks = str(caught.value).split("\n")
    start = len(marks) - len(marks.lstrip())
    assert shown[start:].startswith(place[: len(marks.strip())]) and marks.strip().strip("^") == ""


HOSTILE = [
    "__import__('os').system('true')", "cell_type.__class__.__mro__ == 'a'", "(lambda: 1)() == 1", "[x for x in y] == 1",
    "cell_type[0] == 'C'", "f'{age}' == 'a'", "age ** 9 ** 9 ** 9 > 1", "age == 1e999", f"age == {10**400}", "age == 2**3",
    f"age == {2**53 + 2}", "age == 1j", "age == b'3'", "age == ...", "(age := 3) == 3", "print", "not " * 200 + "is_doublet",
    "(" * 5000 + ")" * 5000, "age == 1" + " or age == 1" * 400, "-" * 900 + "1 < age",
    "a\0b", "\ud800 == 'a'", "age if age else age", "*age", "await age", "yield", "{'a': 1} == age", "import os",
    "age == 3; age == 4", "cell_type == 'CD14\\", "~is_doublet", "None", "\N{ZERO WIDTH SPACE}age == 3", "'\\N{x}' == cell_type",
]  # fmt: skip


@pytest.mark.parametrize("expression", HOSTILE, ids=lambda x: ascii(x[:24]))
def test_what_is_no_such_expression_is_refused(expression: str) -> None:
    with pytest.raises(ConfigError, match=r"^--where: "):
        chosen(expression, CELLS)


@given(st.text(max_size=60) | st.text(alphabet="()[]'\"`=<>!,. anotdrie1_\n\\#{}:", max_size=60))
def test_any_text_is_answered(expression: str) -> None:
    try:
        assert chosen(expression, CELLS).any()
    except ConfigError as error:
        assert str(error).startswith("--where: ")


def test_conditions_may_be_nested_but_not_without_end() -> None:
    def nested(n: int) -> str:
        return "not (" * n + "is_doublet" + ")" * n

    assert chosen(nested(DEEPEST), CELLS).any()
    with pytest.raises(ConfigError, match=f"nested more than {DEEPEST} deep"):
        chosen(nested(DEEPEST + 1), CELLS)
