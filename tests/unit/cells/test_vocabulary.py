"""Vocabulary and perturbation ids: every name is accepted, none is guessed."""

from pathlib import Path

import numpy as np
import pytest

from screen.cells.vocabulary import Vocabulary, read_tsv
from screen.errors import GeneError
from screen.planning.perturbations import make_library, make_perturbation

VOCABULARY = Vocabulary(
    ensembl_id=("ENSG00000125538", "ENSG00000232810", "ENSG00000136244", "ENSG00000104432"),
    symbol=("IL1B", "TNF", "IL6", "IL7"),
    name=("ENSG00000125538", "ENSG00000232810", "ENSG00000136244", "ENSG00000104432"),
    source_token_G=np.array([40, 30, -1, 20]),
    target_token_G=np.array([4, 5, 6, 7]),
    aliases=(("IL1F2",), ("TNFA", "DIF"), ("IFNB2",), ("DIF",)),
)


@pytest.mark.parametrize("name", ["ENSG00000125538", "ENSG00000125538.12", "IL1B", "il1b", " IL1B ", "IL1F2"])
def test_ensembl_id_version_symbol_case_and_alias_name_the_same_gene(name: str) -> None:
    assert VOCABULARY.column(name) == 0


def test_an_unknown_gene_is_answered_with_its_nearest_names() -> None:
    with pytest.raises(GeneError, match=r'unknown gene "IL1BB".*did you mean "IL1B"'):
        VOCABULARY.column("IL1BB")


def test_every_unknown_gene_of_a_list_is_named_at_once() -> None:
    with pytest.raises(GeneError, match=r"(?s)FOO1.*BAR2"):
        VOCABULARY.columns(["FOO1", "TNF", "BAR2"])


def test_a_name_of_two_genes_is_refused_with_both_ids() -> None:
    with pytest.raises(GeneError, match=r"ENSG00000232810, ENSG00000104432; use the Ensembl ID"):
        VOCABULARY.column("DIF")


def test_tokens_find_their_genes_on_both_sides() -> None:
    source, target = VOCABULARY.column_of_token("src"), VOCABULARY.column_of_token("tgt")
    assert [source[t] for t in (40, 30, 20, 0, 3, 21)] == [0, 1, 3, -1, -1, -1]
    assert [target[t] for t in (4, 5, 6, 7, 2)] == [0, 1, 2, 3, -1]


def test_one_token_for_two_genes_is_refused() -> None:
    names = ("A", "B")
    with pytest.raises(GeneError, match=r"more than one gene"):
        Vocabulary(names, names, names, np.array([9, 9]), np.array([4, 5]))
    with pytest.raises(GeneError, match=r"ids 0-3"):
        Vocabulary(names, names, names, np.array([9, 10]), np.array([4, 3]))


def test_ids_are_canonical_and_keep_the_order_of_overexpression() -> None:
    knockout = make_perturbation([2, 0, 2], "delete", ["tgt"], [2, 1], VOCABULARY)
    assert knockout.id(VOCABULARY) == "tgt@1,2:delete:ENSG00000125538+ENSG00000136244"
    boost = make_perturbation([1, 0], "overexpress", ["tgt", "src"], [1], VOCABULARY)
    assert boost.id(VOCABULARY) == "src+tgt@1:overexpress:ENSG00000232810+ENSG00000125538"
    assert boost.symbols(VOCABULARY) == "TNF+IL1B"
    assert boost.tokens(VOCABULARY, "src") == [30, 40]


def test_a_gene_inserted_twice_and_a_gene_without_source_token_are_refused() -> None:
    with pytest.raises(GeneError, match=r"IL1B \(ENSG00000125538\) is listed twice"):
        make_perturbation([0, 0], "overexpress", ["src"], [], VOCABULARY)
    with pytest.raises(GeneError, match=r"IL6.*no token in the source"):
        make_perturbation([2], "mask", ["src"], [], VOCABULARY).tokens(VOCABULARY, "src")


def test_a_library_has_no_repeats_and_remembers_what_was_named() -> None:
    a, b = (make_perturbation([g], "mask", ["src"], [], VOCABULARY) for g in (0, 1))
    library = make_library([([a, b], False), ([b], True)])
    assert library.perturbations == (a, b)
    assert library.must_screen == (False, True)


def test_a_vocabulary_file_is_read_and_a_wrong_one_is_explained(tmp_path: Path) -> None:
    good = tmp_path / "genes.tsv"
    good.write_text(
        "ensembl_id\tsymbol\taliases\ttoken_id\trow_id\tmedian\nENSG1\tA\tX|Y\t10\t4\t1.5\nENSG2\t\t\t11\t5\t2\n"
    )
    vocabulary = read_tsv(good)
    assert vocabulary.column("Y") == 0
    assert vocabulary.symbol == ("A", "ENSG2")
    assert vocabulary.median_G is not None
    assert vocabulary.median_G.tolist() == [1.5, 2.0]
    bad = tmp_path / "bad.tsv"
    bad.write_text("ensembl_id\tsymbol\nENSG1\tA\n")
    with pytest.raises(GeneError, match=r"lacks the column"):
        read_tsv(bad)
    bad.write_text("ensembl_id\tsymbol\ttoken_id\trow_id\nENSG1\tA\tten\t4\n")
    with pytest.raises(GeneError, match=r"ten"):
        read_tsv(bad)


def test_the_fingerprint_sees_names_tokens_and_medians() -> None:
    names = ("A", "B")
    tokens = np.array([4, 5]), np.array([4, 5])
    base = Vocabulary(names, names, names, *tokens, np.array([1.0, 2.0]))
    others = [
        Vocabulary(("A", "C"), names, names, *tokens, base.median_G),
        Vocabulary(names, names, names, tokens[0][::-1].copy(), tokens[1], base.median_G),
        Vocabulary(names, names, names, *tokens, np.array([1.0, 2.5])),
    ]
    assert len({v.fingerprint for v in (base, *others)}) == 4
    assert base.fingerprint == Vocabulary(names, names, names, *tokens, np.array([1.0, 2.0])).fingerprint
