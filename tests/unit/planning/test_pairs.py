"""Pairs and anchors: what is planned is what was written, with the single edits that pairs are compared with, marked as such."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from screen.cells.bank import TokenBank
from screen.cli.main import main
from screen.config.sections import LibraryConfig, NullConfig
from screen.edits import MASK, OVEREXPRESS
from screen.errors import ConfigError
from screen.planning.index import BankIndex
from screen.planning.library import expand
from screen.planning.null_genes import NullPlan
from screen.planning.perturbations import Library
from screen.planning.window import Window
from screen.running.configuration import load_config
from screen.running.prepare import prepare
from tests.support.tiny import tiny, write
from tests.unit.planning.test_plan import MAX_LEN, N_GENES, VOCABULARY, bank_of

BANK: TokenBank = bank_of([[14, 9], [11, 7], [9, 12], [5]], [[4], [5], [6], [7]], [[4], [5], [6], [7]])
GENES = [f"ENSG{100_000 + 7 * i:011d}" for i in range(6)]
names = st.lists(st.sampled_from([f"ENSG{i}" for i in range(N_GENES)]), min_size=2, max_size=5)


def expanded(*blocks: dict[str, Any]) -> Library:
    window, index = Window((1, 2), (), MAX_LEN), BankIndex(BANK, VOCABULARY, MAX_LEN)
    null = NullPlan(NullConfig(n=0), [0] * 4, ("all",), 1, {})  # type: ignore[arg-type]
    return expand([LibraryConfig.model_validate(b) for b in blocks], index, window, null)


@given(names, st.sampled_from([MASK.name, OVEREXPRESS.name]), st.booleans())
def test_pairs_are_every_two_genes_and_each_alone(genes: list[str], mode: str, is_asked_alone: bool) -> None:
    different = list(dict.fromkeys(genes))
    block = {"genes": genes, "modes": [mode]}
    alone = {"genes": different[:1], "modes": [mode]}
    blocks = [block | {"combos": "pairs"}, *([alone] if is_asked_alone else [])]
    if len(different) < 2:
        with pytest.raises(ConfigError, match="`combos: pairs` needs two different genes"):
            expanded(*blocks)
        return
    library = expanded(*blocks)
    # an insertion keeps the order of the list
    pairs = [p if mode == OVEREXPRESS.name else tuple(sorted(p)) for p in combinations(different, 2)]
    assert list(library.ids(VOCABULARY)) == [f"src:{mode}:{'+'.join(x)}" for x in [*pairs, *((g,) for g in different)]]
    needed = [i for i, is_needed in zip(library.ids(VOCABULARY), library.is_needed, strict=True) if is_needed]
    assert needed == [f"src:{mode}:{g}" for g in different[is_asked_alone:]]
    assert all(library.must_screen) and not any(library.is_null)
    assert library.take([0, len(library) - 1]).is_needed == (False, library.is_needed[-1])


@given(names, st.sampled_from([MASK.name, OVEREXPRESS.name]))
def test_an_anchor_is_edited_with_each_of_the_others(genes: list[str], mode: str) -> None:
    anchor, others = genes[0], [g for g in dict.fromkeys(genes) if g != genes[0]]
    block = {"genes": genes, "modes": [mode], "anchor": anchor}
    if not others:
        with pytest.raises(ConfigError, match=f"`anchor: {anchor}` needs a gene beside itself"):
            expanded(block)
        return
    pairs = [(anchor, g) if mode == OVEREXPRESS.name else tuple(sorted((anchor, g))) for g in others]
    library = expanded(block)
    assert set(library.ids(VOCABULARY)[: len(pairs)]) == {f"src:{mode}:{'+'.join(x)}" for x in pairs}
    assert set(library.ids(VOCABULARY)[len(pairs) :]) == {f"src:{mode}:{g}" for g in (anchor, *others)}


def test_an_anchor_with_all_genes_is_with_those_that_can_be_edited() -> None:
    library = expanded({"genes": "all", "modes": ["mask"], "anchor": "ENSG0"})
    of_all = expanded({"genes": "all", "modes": ["mask"]})
    assert len(library) == 2 * len(of_all) - 1 and not any(library.must_screen)
    assert set(of_all.perturbations) == {p for p in library.perturbations if len(p.genes) == 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"anchor": GENES[0], "combos": "joint"},
            "`anchor` makes pairs of its own and does not go with `combos: joint`",
        ),
        ({"genes": "all", "combos": "pairs"}, "`combos: pairs` would edit every two genes; use `singles`, or `anchor`"),
        ({"anchor": "NOBODY"}, "NOBODY"),
    ],
)
def test_what_makes_no_pairs_is_an_error(changes: Any, message: str, tmp_path: Path, capsys: Any) -> None:
    config = tiny(library={"genes": GENES, "modes": ["mask"]} | changes)
    assert main(["plan", str(write(config, tmp_path / "s.yaml"))]) == 2
    assert message in capsys.readouterr().err


def test_plan_says_which_edits_pairs_need_and_null_pairs_stay_pairs(tmp_path: Path, capsys: Any) -> None:
    config = tiny(library={"genes": GENES[:4], "modes": ["overexpress"], "combos": "pairs"}) | {"null": {"n": 20}}
    path = write(config, tmp_path / "s.yaml")
    assert main(["plan", str(path)]) == 0
    assert "4 of the perturbations are single edits that the pairs are compared with" in capsys.readouterr().out
    library = prepare(load_config(path)).library
    nulls = [p for p, is_null in zip(library.perturbations, library.is_null, strict=True) if is_null]
    assert [len(p.genes) for p in nulls].count(2) == 20 and [len(p.genes) for p in nulls].count(1) == 20
