"""The table of modes: it says of each mode what the definition does, names it one way, and nothing else knows modes by name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import screen_kernels
import torch
from hypothesis import given
from hypothesis import strategies as st
from screen_kernels import edit_row_reference, edit_tokens_reference

from screen import edits
from screen.cells.vocabulary import PAD, Vocabulary
from screen.cli.options import parser
from screen.edits import TABLE, Edit, Mode, Parameter, Site, UnknownModeError
from screen.errors import ConfigError
from screen.planning.perturbations import Perturbation, make_perturbation, parse_perturbation
from tests.support.house import SOURCES
from tests.support.kernel_cases import EDIT_CASES, edit_batch
from tests.support.modes import CODES, EVERY
from tests.support.places import ROOT

NAMES = ("ENSG00000125538", "ENSG00000232810", "ENSG00000136244")
VOCABULARY = Vocabulary(NAMES, ("IL1B", "TNF", "IL6"), NAMES, np.array([8, 9, 10]), np.array([4, 5, 6]))
modes, sites = st.sampled_from(EVERY), st.sampled_from(["src", "tgt"])
genes = st.lists(st.integers(4, 9), min_size=1, max_size=3, unique=True)
rows = st.lists(st.integers(4, 14), max_size=8, unique=True)


def edited(row: list[int], genes: list[int], mode: str, site: Site, n_more: int = 4) -> list[int]:
    """The edited ids of a row with room for more."""
    return edit_row_reference(torch.tensor([*row, *[PAD] * n_more]), genes, mode, site).tolist()


@given(rows, genes, modes, sites)
def test_the_table_says_what_the_definition_does(row: list[int], genes: list[int], text: str, site: Site) -> None:
    mode, after = edits.parse(text).mode, edited(row, genes, text, site)
    is_there, stay = bool(set(row) & set(genes)), [t for t in row if t not in genes]
    if not is_there:
        assert (after == [*row, *[PAD] * 4]) == mode.needs_gene
    assert [t for t in after if t in stay] == stay, "an edit leaves the order of other tokens as it is"
    if mode.keeps_places:
        assert [after[i] for i, t in enumerate(row) if t in stay] == stay
    n_left = mode.n_inserted * len(genes) if mode.n_inserted else mode.leaves_token * (len(row) - len(stay))
    assert sum(t != PAD for t in after) == len(stay) + n_left
    if is_there and not stay:
        assert any(after) == mode.leaves_token
    assert (edited(row, genes[::-1], text, site) == after) == (not mode.is_ordered or len(genes) == 1)


def test_every_code_is_one_modes_and_the_kernels_name_them_in_order() -> None:
    assert [mode.code for mode in TABLE] == list(range(1, len(TABLE) + 1))
    assert ("none", *(mode.name for mode in TABLE)) == screen_kernels.MODES
    assert len({mode.name for mode in TABLE}) == len(TABLE)
    for code, parameter in CODES[1:]:
        edit = edits.numbered(code, parameter)
        assert edits.parse(str(edit)) == edit


@pytest.mark.parametrize("text", EVERY)
def test_a_mode_is_spelled_one_way_and_an_id_is_read_back(text: str) -> None:
    assert edits.canonical(text) == text
    p = make_perturbation([1, 0], text, ["src"], [], VOCABULARY)
    assert p.mode == text
    assert p.id(VOCABULARY).startswith(f"src:{text}:ENSG")
    assert parse_perturbation(p.id(VOCABULARY), VOCABULARY) == p


WRONG = ("knockdown", "", "Mask", "mask ", " mask", "mask+1", "mask-0", "mask+", "none", "+1", "ma\nsk", "mask:pad")


@pytest.mark.parametrize("text", WRONG)
def test_an_unknown_mode_is_refused_everywhere_with_what_is_allowed(text: str) -> None:
    calls = (
        lambda: edits.parse(text),
        lambda: Perturbation((0,), text, ("src",)),
        lambda: make_perturbation([0], text, ["src"], [], VOCABULARY),
        lambda: edit_row_reference(torch.tensor([4, 5]), [4], text, "src"),
    )
    for call in calls:
        with pytest.raises(UnknownModeError, match=r"(?s)mode is \".*\"; allowed: mask, pad, delete, overexpress"):
            call()
    assert issubclass(UnknownModeError, ConfigError) and issubclass(UnknownModeError, ValueError)


def test_the_command_line_takes_what_the_table_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert parser().parse_args(["bench", "--modes", *EVERY]).modes == list(EVERY)
    with pytest.raises(SystemExit) as stopped:
        parser().parse_args(["bench", "--modes", "mask", "knockdown"])
    assert stopped.value.code == 2
    assert 'argument --modes: mode is "knockdown"; allowed: mask, pad,' in capsys.readouterr().err


def test_an_unknown_code_is_refused() -> None:
    for code in (edits.NO_EDIT, -1, len(TABLE) + 1):
        with pytest.raises(UnknownModeError, match="not in the table"):
            edits.numbered(code)
    batch = edit_batch(EDIT_CASES["one gene, src"], 0)
    rows, cell_B, gene_BK, mode_B, parameter_B = batch.arguments("cpu")
    with pytest.raises(ValueError, match="mode_B holds"):
        edit_tokens_reference(rows, cell_B, gene_BK, mode_B - 9, parameter_B, site="src", width=8, out_width=8)


TURN = Mode("turn", 9, None, True, True, False, parameter=Parameter(most=20))


def test_a_parameter_has_a_sign_and_a_range_and_one_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edits, "TABLE", (*TABLE, TURN))
    parse = edits.parse.__wrapped__
    for value in (1, -1, 20, -20):
        edit = parse(f"turn{value:+d}")
        assert edit == Edit(TURN, value) == edits.numbered(9, value)
        assert str(edit) == f"turn{value:+d}"
    for text in (
        "turn",
        "turn+0",
        "turn-0",
        "turn+01",
        "turn10",
        "turn+21",
        "turn-21",
        "turn+1.5",
        "turn+",
        "turn+1+1",
    ):
        with pytest.raises(UnknownModeError, match=r"turn\+K, turn-K \(K from 1 to 20\).*did you mean \"turn\""):
            parse(text)
    with pytest.raises(UnknownModeError, match="parameter 0"):
        edits.numbered(9, 0)


def named_in(path: Path) -> Iterator[str]:
    """Where a file tells modes apart by their names: comparisons, look-ups, cases, keys."""
    names = {mode.name for mode in TABLE}
    for node in ast.walk(ast.parse(path.read_text())):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Dict):
            parts = [*node.keys]
        elif isinstance(node, ast.Subscript):
            parts = [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            parts = [*node.args]
        for part in parts:
            words = [x.value for x in ast.walk(part) if isinstance(x, ast.Constant)] if part is not None else []
            yield from (f"{path}:{node.lineno}: {w}" for w in words if w in names)  # type: ignore[attr-defined]


def test_no_file_but_the_table_tells_modes_apart_by_name() -> None:
    benchmarks = sorted((ROOT / "benchmarks").rglob("*.py"))
    found = [w for p in [*SOURCES, *benchmarks] if p != ROOT / "screen" / "edits.py" for w in named_in(p)]
    assert found == []


@pytest.mark.parametrize(
    "line", ['mode == "mask"', 'x in ("a", "pad")', 'MODES.index("delete")', '{"overexpress": 1}[mode]', 'm[f"mask"]']
)
def test_such_a_place_would_be_found(line: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(line)
    assert list(named_in(tmp_path / "x.py"))
