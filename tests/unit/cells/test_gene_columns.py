"""Genes are found in whichever column of var names them; what is not is said, with what to do."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from screen.cells.gene_columns import are_genes, select_genes
from screen.cells.vocabulary import strip_version
from screen.errors import CellError, GeneError
from tests.support.h5ad_files import SYMBOLS, VOCABULARY, file, read, same, some_counts, some_obs, write

__all__ = ["file"]

IDS = VOCABULARY.ensembl_id


def with_var(path: Path, index: Any, counts: Any = None, **columns: Any) -> Path:
    var = pd.DataFrame(columns, index=pd.Index(list(index)))
    anndata.AnnData(some_counts() if counts is None else counts, obs=some_obs(), var=var).write_h5ad(path)
    return path


@pytest.mark.parametrize("column", ["hgnc", "Accession", "my genes"])
@pytest.mark.parametrize("as_column", [list, pd.Categorical])
@pytest.mark.parametrize("names", [IDS, SYMBOLS])
def test_any_column_that_names_genes_is_taken_and_said(
    column: str, as_column: Any, names: Any, file: Path, tmp_path: Path
) -> None:
    others = {"chip": ["A"] * 5, "part": [SYMBOLS[1], *"vwxy"], column: as_column(names)}
    bank = read(with_var(tmp_path / "f.h5ad", "01234", **others))
    assert same(bank, read(file))
    assert f'Genes were found in var column "{column}": 5 of the model\'s 5.' in bank.notes


def test_a_column_of_other_genes_does_not_replace_the_names(file: Path, tmp_path: Path) -> None:
    bank = read(with_var(tmp_path / "f.h5ad", IDS, neighbour=list(SYMBOLS[::-1])))
    assert same(bank, read(file))
    assert not [n for n in bank.notes if "found in var column" in n]


def test_a_usual_column_is_said_only_where_var_names_are_no_genes(tmp_path: Path) -> None:
    said = 'Genes were found in var column "gene_ids".'
    assert said in read(with_var(tmp_path / "f.h5ad", "01234", gene_ids=list(IDS))).notes
    assert said not in read(with_var(tmp_path / "f.h5ad", SYMBOLS, gene_ids=list(IDS))).notes


def test_where_no_column_names_genes_each_is_listed_with_how_many(tmp_path: Path) -> None:
    path = with_var(tmp_path / "f.h5ad", [f"probe{i}" for i in range(5)], chip=list("AABBC"), number=range(5))
    with pytest.raises(
        GeneError, match=r'var names \("probe0", "probe1", ...\): 0, column "chip" \("A", "A", ...\): 0'
    ) as told:
        read(path)
    assert "number" not in str(told.value)


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        ([f"ENSMUSG0000000000{i}" for i in range(5)], "IDs of mouse, and the model's genes are of human"),
        ([f"ensrnog0000000000{i}.2" for i in range(5)], "IDs of rat"),
        ([f"hg19_{s}" for s in SYMBOLS], 'in "hg19_AAA" it is "AAA"'),
        ([f"{i}|{s}" for i, s in zip(IDS, SYMBOLS, strict=True)], r'in "ENSG00000000000|AAA" it is "ENSG00000000000"'),
        ([f"chr1:{i}000-{i}500" for i in range(5)], "peaks"),
        (["7157", "1956", "672", "675", "4609"], "Entrez"),
        (list("01234"), "add Ensembl IDs or symbols as a column of var"),
    ],
)
def test_names_of_another_kind_get_advice(names: list[str], advice: str, tmp_path: Path) -> None:
    with pytest.raises(GeneError) as told:
        read(with_var(tmp_path / "f.h5ad", names))
    assert advice in str(told.value)


def test_names_written_as_of_mouse_are_taken_with_a_warning(file: Path, tmp_path: Path) -> None:
    bank = read(with_var(tmp_path / "f.h5ad", [s.capitalize() for s in SYMBOLS]))
    assert same(bank, read(file))
    assert any(
        n.startswith('Warning: 5 genes of f.h5ad are written as those of mouse and rat are ("Aaa")') for n in bank.notes
    )
    lower = read(with_var(tmp_path / "g.h5ad", [s.lower() for s in SYMBOLS]))
    assert any('5 genes match only if letter case is ignored ("aaa")' in n for n in lower.notes)


def test_versions_are_left_out_in_any_case() -> None:
    assert [strip_version(n) for n in ("ENSG01.12", "ensg01.3", "ENSG01", "HLA.A", "ENSG01.x")] == [
        "ENSG01", "ensg01", "ENSG01", "HLA.A", "ENSG01.x",
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
def test_columns_of_one_gene_are_summed_on_request(seed: int, file: Path, tmp_path: Path) -> None:
    counts_CG = some_counts()
    part_CG = np.random.Generator(np.random.Philox(seed)).binomial(counts_CG[:, :3], 0.4)
    halves_CG = np.hstack([part_CG[:, ::-1], counts_CG - np.pad(part_CG, ((0, 0), (0, 2)))])
    path = with_var(tmp_path / "f.h5ad", [*IDS[:3][::-1], *(f"{i}.7" for i in IDS)], halves_CG)
    bank = read(path, duplicates="sum")
    assert same(bank, read(file))
    assert any("3 genes stand in several columns of f.h5ad, which are summed" in n for n in bank.notes)
    with pytest.raises(
        GeneError, match=r"3 genes of the model stand in more than one column: AAA .* 2 .* and 3 .*`duplicates: sum`"
    ):
        read(path)


def test_a_former_name_is_not_added_to_the_present_one(file: Path, tmp_path: Path) -> None:
    path = with_var(tmp_path / "f.h5ad", [*SYMBOLS, "OLD_A"], np.hstack([some_counts(), np.full((12, 1), 90)]))
    assert same(read(path, duplicates="sum"), read(file))


def test_columns_that_are_no_gene_expression_are_left_out(file: Path, tmp_path: Path) -> None:
    counts_CG = np.hstack([np.full((12, 2), 900), some_counts()])
    kinds = ["Antibody Capture"] * 2 + ["Gene Expression"] * 5
    path = with_var(tmp_path / "f.h5ad", [IDS[2], IDS[0], *SYMBOLS], counts_CG, feature_types=kinds)
    bank = read(path)
    assert same(bank, read(file))
    assert any("2 Antibody Capture beside genes" in n for n in bank.notes)
    path = with_var(tmp_path / "g.h5ad", SYMBOLS, feature_types=["Antibody Capture"] * 5)
    with pytest.raises(GeneError, match='holds no "Gene Expression", but 5 Antibody Capture'):
        read(path)
    path = with_var(tmp_path / "h.h5ad", SYMBOLS, feature_types=["protein_coding"] * 5)
    assert same(read(path), read(file))


def test_genes_in_rows_are_recognised_whatever_fails_first(tmp_path: Path) -> None:
    turned = anndata.AnnData(some_counts(), obs=some_obs(), var=pd.DataFrame(index=list(SYMBOLS))).T
    turned.write_h5ad(tmp_path / "f.h5ad")
    for options in ({}, {"state_column": None, "source": None, "targets": {}}):
        with pytest.raises(
            CellError, match=r"f.h5ad lies the wrong way round: its 5 rows \(obs\) are genes.*\.T\.write_h5ad"
        ):
            read(tmp_path / "f.h5ad", **options)
    # an error of a file that lies right stays what it is
    with pytest.raises(CellError, match="no obs column"):
        read(write(tmp_path / "g.h5ad", some_counts()), state_column="nothing")


def test_a_few_chance_names_are_not_names_of_genes() -> None:
    assert are_genes(VOCABULARY, ["AAA", "x", "y"])
    assert not are_genes(VOCABULARY, [f"x{i}" for i in range(5)])


def test_the_matrix_has_a_one_for_each_column_of_a_gene() -> None:
    var = pd.DataFrame(index=["x", "BBB", "AAA", "BBB"])
    select_FG, _ = select_genes(VOCABULARY, var, "f", "sum")
    assert select_FG.toarray().tolist() == [[0] * 5, [0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
