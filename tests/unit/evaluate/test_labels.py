"""Labels: what real screens call perturbations."""

import numpy as np
import pytest

from screen.cells.vocabulary import Vocabulary
from screen.evaluate.labels import genes_of, read_labels

VOCABULARY = Vocabulary(
    ensembl_id=tuple(f"ENSG0000000000{i}" for i in range(5)),
    symbol=("AAA", "BBB", "HLA-A", "MT_X", "EEE"),
    name=("AAA", "BBB", "HLA-A", "MT_X", "EEE"),
    source_token_G=np.arange(5) + 10,
    target_token_G=np.arange(5) + 10,
    aliases=(("OLD",), (), (), (), ()),
)


@pytest.mark.parametrize(
    ("label", "genes"),
    [
        ("AAA", (0,)), ("ENSG00000000001", (1,)), ("ENSG00000000001.3", (1,)), ("OLD", (0,)), ("aaa", (0,)),
        ("BBB+AAA", (0, 1)), ("AAA_BBB", (0, 1)), ("AAA|HLA-A", (0, 2)), ("MT_X", (3,)), ("MT_X+AAA", (0, 3)),
        ("AAA+ctrl", (0,)), ("NT_EEE", (4,)), ("AAA_ENSG00000000004", (0, 4)), ("AAA+ZZZ", None), ("ZZZ", None),
        ("AAA+AAA", None), ("+", None), ("", None),
    ],
)  # fmt: skip
def test_a_label_means_genes(label: str, genes: tuple[int, ...] | None) -> None:
    assert genes_of(label, "NT", VOCABULARY) == genes


def test_labels_of_the_same_genes_are_one_perturbation() -> None:
    found = read_labels(["NT", "AAA+BBB", "BBB_AAA", "AAA", "ZZZ"], "NT", VOCABULARY)
    assert found.of_genes == {(0, 1): ("AAA+BBB", "BBB_AAA"), (0,): ("AAA",)} and found.unknown == ("ZZZ",)
