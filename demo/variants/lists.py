"""Lists: files of genes to edit."""

from demo.variants.recipe import Changes, Place, recipe

KIND = "Files of genes to edit"


def listed(place: Place, text: str | bytes, name: str = "genes.txt") -> Changes:
    place.h5ad(place.cells)
    data = text if isinstance(text, bytes) else text.encode()
    (place.folder / name).write_bytes(data)
    return {"library": {"genes": name}}


TEXTS: dict[str, tuple[str | bytes, str, str]] = {
    "one name per line": ("STAT1\nIRF7\n", "genes.txt", ""),
    "with a header": ("gene\nSTAT1\nIRF7\n", "genes.txt", "header unknown"),
    "with a header of another word (Target gene symbol)": ("Target gene symbol\nSTAT1\nIRF7\n", "genes.txt", "header unknown"),
    "with Windows line ends and a byte order mark": (b"\xef\xbb\xbfSTAT1\r\nIRF7\r\n", "genes.txt", "first gene unknown"),
    "in quotes": ('"STAT1"\n"IRF7"\n', "genes.txt", "genes unknown"),
    "all in one line, commas between": ("STAT1, IRF7, CD14\n", "genes.txt", "one unknown gene"),
    "a comma at the end of lines": ("STAT1,\nIRF7,\n", "genes.txt", "genes unknown"),
    "CSV with a header, genes second": ("rank,symbol,score\n1,STAT1,0.3\n2,IRF7,0.2\n", "genes.csv", "genes unknown"),
    "CSV, semicolons between": ("symbol;score\nSTAT1;0,3\nIRF7;0,2\n", "genes.csv", "genes unknown"),
    "TSV, ID and symbol": ("ensembl_id\tsymbol\nENSG00000115415\tSTAT1\nENSG00000185507\tIRF7\n", "genes.tsv", "genes unknown"),
    "TSV without a header": ("STAT1\t0.3\nIRF7\t0.2\n", "genes.tsv", "genes unknown"),
    "as R writes it: row numbers, quotes": ('"","gene","logFC"\n"1","STAT1",2.1\n"2","IRF7",1.9\n', "genes.csv", "genes unknown"),
    "a typing error in the first line": ("STAT11\nIRF7\n", "genes.txt", ""),
    "a typing error in a CSV": ("symbol,score\nSTAT1,0.3\nIRF77,0.2\n", "genes.csv", "genes unknown"),
    "CSV of other things": ("cell,cluster\nAAAC,1\nAAAG,2\n", "cells.csv", "genes unknown"),
    "an Excel workbook": (b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00\xff\xfe", "genes.xlsx", "no advice"),
    "UTF-16, as Excel writes \"Unicode text\"": ("STAT1\r\nIRF7\r\n".encode("utf-16"), "genes.txt", "no advice"),
    "nothing but a header": ("gene\n", "genes.txt", "header unknown"),
}  # fmt: skip

for _words, (_text, _name, _before) in TEXTS.items():

    @recipe(KIND, _words, _before)
    def a_list(place: Place, text: str | bytes = _text, name: str = _name) -> Changes:
        return listed(place, text, name)
