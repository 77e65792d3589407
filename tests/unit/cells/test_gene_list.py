"""Files of genes: a name per line, or a column of a table; what is no list of genes is explained."""

from pathlib import Path

import pytest

from screen.cells.gene_list import read_gene_list
from screen.errors import ConfigError
from tests.support.h5ad_files import VOCABULARY

TEXTS: dict[str, tuple[str | bytes, list[str]]] = {
    "lines": ("AAA\n\n# comment\nBBB # why\n", ["AAA", "BBB"]),
    "header": ("gene_name\nAAA\nBBB\n", ["AAA", "BBB"]),
    "unknown first": ("AAAA\nBBB\n", ["AAAA", "BBB"]),
    "mark and Windows": (b"\xef\xbb\xbfAAA\r\nBBB\r\n", ["AAA", "BBB"]),
    "UTF-16": ("AAA\r\nBBB\r\n".encode("utf-16"), ["AAA", "BBB"]),
    "quotes": ('"AAA"\n"BBB"\n', ["AAA", "BBB"]),
    "one line": ("AAA, BBB,CCC\n", ["AAA", "BBB", "CCC"]),
    "several of each line": ("AAA\tBBB\nCCC\n", ["AAA", "BBB", "CCC"]),
    "commas at the end": ("AAA,\nBBB,\n", ["AAA", "BBB"]),
    "CSV": ("rank,symbol,score\n1,AAA,0.3\n2,XYZ,0.2\n3,BBB,\n", ["AAA", "XYZ", "BBB"]),
    "semicolons, decimal commas": ("symbol;score\nAAA;0,3\nBBB;0,2\n", ["AAA", "BBB"]),
    "ID and symbol": ("id\tname\nENSG00000000000\tAAA\nENSG00000000001\tBBB\n", ["ENSG00000000000", "ENSG00000000001"]),
    "no header": ("AAA\t1\nBBB\t2\n", ["AAA", "BBB"]),
    "as R writes it": ('"","x"\n"1","AAA"\n"2","BBB"\n', ["AAA", "BBB"]),
    "the column with more genes": ("a,b\nAAA,CCC\nx,BBB\n", ["b", "CCC", "BBB"]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_list_is_understood(name: str, tmp_path: Path) -> None:
    text, genes = TEXTS[name]
    path = tmp_path / "genes.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    assert read_gene_list(path, VOCABULARY) == genes


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no gene"),
        (b"gene\n", 'holds no gene, but "gene" alone'),
        (
            b"cell,cluster\nACGT,1\n",
            r'no column of .* names a gene of the model: "cell" \(ACGT, ...\), "cluster" \(1, ...\)',
        ),
        (b"PK\x03\x04...", "a workbook of Excel; save it as CSV"),
        (b"AAA\xff\n", "no text in UTF-8 .* at byte 3"),
    ],
)
def test_what_is_no_list_is_explained(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "genes.txt"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        read_gene_list(path, VOCABULARY)


def test_a_file_that_is_not_there_says_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*write `all`, a list, or a file with one gene per line"):
        read_gene_list(tmp_path / "none.txt", VOCABULARY)
