"""read_h5ad_cells: raw counts become rank-ordered tokens, and cells become pairs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from screen.cells.files import on_disk
from screen.cells.gene_columns import match_genes
from screen.cells.h5ad import read_h5ad_cells, tokenise
from screen.cells.vocabulary import CLS, EOS, NO_TOKEN
from screen.errors import CellError, GeneError
from tests.support.h5ad_files import (
    N_CELLS,
    STATES,
    SYMBOLS,
    VOCABULARY,
    naive_tokens,
    read,
    same,
    some_counts,
    some_obs,
    write,
)
from tests.support.h5ad_files import file as file


@given(st.data())
def test_the_vectorised_tokeniser_equals_the_definition(data: st.DataObject) -> None:
    n_genes = data.draw(st.integers(1, 6))
    row = st.lists(st.sampled_from([0, 0, 1, 2, 4, 7]), min_size=n_genes, max_size=n_genes)
    count_CG = np.array(data.draw(st.lists(row, min_size=1, max_size=5)))
    medians = st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.5]), min_size=n_genes, max_size=n_genes)
    median_G = np.array(data.draw(medians))
    token_G = np.array(data.draw(st.permutations(range(4, 4 + n_genes))))
    token_G[data.draw(st.lists(st.integers(0, n_genes - 1), max_size=2))] = NO_TOKEN
    tokens = tokenise(sparse.csr_matrix(count_CG.astype(np.float64)), median_G, token_G)
    assert len(tokens) == len(count_CG)
    assert [list(tokens[c]) for c in range(len(tokens))] == [naive_tokens(r, median_G, token_G) for r in count_CG]


def test_tokens_counts_and_metadata_follow_the_definition(file: Path) -> None:
    bank, counts_CG, obs = read(file, strata=["cell_type"]), some_counts(), some_obs()
    source, target = bank.states[0], bank.states[1]
    assert list(source.cell_index_C) == [0, 2, 4, 6, 8, 10]
    assert bank.cell_id_C == tuple(f"cell{i}" for i in (0, 2, 4, 6, 8, 10))
    for c, (row, partner) in enumerate(zip(source.cell_index_C, target.cell_index_C, strict=True)):
        assert obs["cell_type"].iloc[row] == obs["cell_type"].iloc[partner]
        assert obs["condition"].iloc[partner] == "stimulated"
        assert list(source.tokens[c]) == naive_tokens(counts_CG[row], VOCABULARY.median_G, VOCABULARY.source_token_G)
        assert list(target.tokens[c]) == naive_tokens(
            counts_CG[partner], VOCABULARY.median_G, VOCABULARY.target_token_G
        )
    assert source.counts is None and source.size_factor_C is None
    assert target.counts.dtype == np.float32 and target.size_factor_C.dtype == np.float32
    assert np.array_equal(target.counts.toarray(), counts_CG[target.cell_index_C])
    assert np.array_equal(target.size_factor_C, counts_CG[target.cell_index_C].sum(axis=1))
    assert list(target.obs["donor"]) == [str(i % 3) for i in target.cell_index_C]
    assert list(source.obs) == ["condition", "cell_type", "donor"]
    for state in (source, target):
        assert state.barcode_C is not None
        assert list(state.barcode_C) == [f"cell{i}" for i in state.cell_index_C]


@pytest.mark.parametrize(
    "layout", [sparse.csr_matrix, sparse.csc_matrix, np.asarray, "float32", "stored zeros", "layer", "raw", "blocks"]
)
def test_the_layout_of_the_counts_does_not_matter(
    file: Path, tmp_path: Path, layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts_CG, other, options = some_counts(), tmp_path / "other.h5ad", {"strata": ["cell_type"]}
    expected = read(file, **options)
    normalised = np.log1p(counts_CG)
    if layout == "float32":
        write(other, sparse.csr_matrix(counts_CG.astype(np.float32)))
    elif layout == "stored zeros":
        rows, genes = np.indices(counts_CG.shape).reshape(2, -1)
        write(other, sparse.csr_matrix((counts_CG.ravel(), (rows, genes))))
    elif layout == "layer":
        write(other, normalised, layers={"counts": sparse.csr_matrix(counts_CG)})
        options["layer"] = "counts"
    elif layout == "raw":
        write(other, normalised[:, :2], genes=VOCABULARY.ensembl_id[:2], raw=(counts_CG, VOCABULARY.ensembl_id))
    elif layout == "blocks":
        monkeypatch.setattr(on_disk.CsrOnDisk, "rows_at_once", 2)
        monkeypatch.setattr(on_disk, "BLOCK_BYTES", 1)
        assert same(read(file, **options), expected)
        write(other, counts_CG)
    else:
        write(other, layout(counts_CG))
    found = read(other, **options)
    assert same(found, expected)
    assert any("raw were used" in n for n in found.notes) == (layout == "raw")


def test_genes_are_found_whatever_their_order_version_and_neighbours(file: Path, tmp_path: Path) -> None:
    order = [3, 0, 4, 1, 2]
    counts_CG = np.hstack([np.full((N_CELLS, 1), 9), some_counts()[:, order]])
    genes = ["ENSG00000099999.3", *(f"{VOCABULARY.ensembl_id[g]}.{g + 1}" for g in order)]
    found = read(write(tmp_path / "other.h5ad", counts_CG, genes=genes))
    assert same(found, read(file))
    assert "1 of the 6 genes of other.h5ad are not the model's: dropped." in found.notes


@pytest.mark.parametrize("column", ["ensembl_id", "gene_name", "Gene_Symbol", "feature_name"])
def test_genes_are_found_by_a_column_of_var(file: Path, tmp_path: Path, column: str) -> None:
    data = anndata.AnnData(some_counts(), obs=some_obs(), var=pd.DataFrame(index=[f"g{i}" for i in range(5)]))
    data.var[column] = VOCABULARY.ensembl_id if column == "ensembl_id" else SYMBOLS
    data.write_h5ad(tmp_path / "other.h5ad")
    assert same(read(tmp_path / "other.h5ad"), read(file))


def test_a_gene_goes_to_its_strongest_name() -> None:
    def found(*names: str) -> list[int]:
        columns_of, _ = match_genes(VOCABULARY, {"names": np.array(names)}, "f")
        return [columns_of.get(g, [-1])[0] for g in range(5)]

    assert found("OLD_A", "BBB") == [0, 1, -1, -1, -1]
    assert found("OLD_A", "AAA") == [1, -1, -1, -1, -1]
    assert found("aaa", "AAA", "ENSG00000000000.7") == [2, -1, -1, -1, -1]
    assert found("aaa", "CCC") == [0, -1, 1, -1, -1]


def test_a_name_that_two_genes_share_matches_neither() -> None:
    shared = replace(VOCABULARY, aliases=(("OLD",), ("OLD",), (), (), ()))
    assert match_genes(shared, {"names": np.array(["OLD", "CCC"])}, "f")[0] == {2: [1]}


def test_two_columns_for_one_gene_are_an_error_that_names_them(tmp_path: Path) -> None:
    genes = ["AAA", "BBB", "OLD_E", "EEE1", "DDD"]
    with pytest.raises(
        GeneError, match=r'1 genes .* EEE .* in columns 2 \("OLD_E"\) and 3 \("EEE1"\).*`duplicates: sum`'
    ):
        read(write(tmp_path / "f.h5ad", some_counts(), genes=genes))


def test_missing_genes_count_as_zero_and_are_told(tmp_path: Path) -> None:
    bank = read(write(tmp_path / "f.h5ad", some_counts()[:, [2, 0]], genes=["CCC", "aaa"]))
    counts_CG = bank.states[1].counts.toarray()
    assert not counts_CG[:, [1, 3, 4]].any() and counts_CG[:, 2].all()
    notes = " ".join(bank.notes)
    assert "lacks 3 of the model's 5 genes, which count as 0: BBB (ENSG00000000001), DDD" in notes
    assert "Warning: f.h5ad holds only 2 of the model's 5 genes" in notes
    assert "1 genes match only if letter case is ignored" in notes


def test_no_gene_in_common_shows_both_ways_of_naming(tmp_path: Path) -> None:
    path = write(tmp_path / "f.h5ad", some_counts(), genes=[f"GRCh38_{s}" for s in SYMBOLS])
    with pytest.raises(
        GeneError, match=r'var names \("GRCh38_AAA", .*the model.s are "AAA \(ENSG00000000000\)".*it is "AAA"'
    ):
        read(path)


def test_a_vocabulary_needs_usable_medians(file: Path) -> None:
    with pytest.raises(GeneError, match=r'no medians.*add a column "median"'):
        read(file, replace(VOCABULARY, median_G=None))
    with pytest.raises(GeneError, match=r"1 are not: BBB \(ENSG00000000001\) 0\.0"):
        read(file, replace(VOCABULARY, median_G=np.array([1, 0.0, 1, 1, 1])))


@pytest.mark.parametrize(("value", "seen"), [(0.5, r"0\.5"), (-3.0, "-3"), (np.nan, "nan"), (np.inf, "inf")])
@pytest.mark.parametrize("as_layout", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_what_is_not_a_count_is_named_with_its_place(tmp_path: Path, value: float, seen: str, as_layout: Any) -> None:
    counts_CG = some_counts().astype(np.float64)
    counts_CG[4, 3] = value
    with pytest.raises(CellError, match=f'X holds {seen} for cell "cell4" and gene "ENSG00000000003"'):
        read(write(tmp_path / "f.h5ad", as_layout(counts_CG)))


def test_normalised_counts_are_refused_with_the_layer_that_would_do(tmp_path: Path) -> None:
    normalised, counts_CG = np.log1p(some_counts()), some_counts()
    path = write(
        tmp_path / "f.h5ad", normalised, layers={"scaled": normalised, "umi": counts_CG}, raw=(normalised, SYMBOLS)
    )
    with pytest.raises(CellError, match=r"X holds 0\.69.*raw holds.*layers: scaled, umi; of these.*counts: \"umi\""):
        read(path)
    with pytest.raises(CellError, match='layer "scaled" holds'):
        read(path, layer="scaled")
    with pytest.raises(CellError, match='no layer "umis"; layers: scaled, umi; did you mean "umi"'):
        read(path, layer="umis")
    with pytest.raises(CellError, match="no layers either; write the raw counts to X"):
        read(write(tmp_path / "g.h5ad", normalised))


def test_only_cells_that_may_be_used_must_hold_counts(tmp_path: Path) -> None:
    counts_CG = some_counts().astype(np.float64)
    counts_CG[0] += 0.5
    path = write(tmp_path / "f.h5ad", counts_CG)
    assert read(path, filters={"donor": ["1", "2"]}).n_cells == 4


def test_a_file_without_x_needs_a_layer(tmp_path: Path) -> None:
    path = write(tmp_path / "f.h5ad", None, layers={"umi": some_counts()})
    with pytest.raises(CellError, match=r"neither X nor raw; set `layer:`.*layers: umi"):
        read(path)
    assert read(path, layer="umi").n_cells == 6


def test_unknown_columns_and_values_name_what_there_is(file: Path) -> None:
    with pytest.raises(
        CellError, match=r'no obs column "conditon" \(state_column\); columns: condition, .*did you mean "condition"'
    ):
        read(file, state_column="conditon")
    with pytest.raises(CellError, match=r'no value "ctrl" \(source\); values: control, stimulated'):
        read(file, source="ctrl")
    with pytest.raises(CellError, match=r'no value "stimulate" \(targets, time point 2\).*did you mean "stimulated"'):
        read(file, targets={2: "stimulate"})
    with pytest.raises(CellError, match=r'no obs column "celltype" \(strata\).*did you mean "cell_type"'):
        read(file, strata=["celltype"])
    with pytest.raises(CellError, match=r'no value "7" \(filters\); values: 0, 1, 2'):
        read(file, filters={"donor": ["0", "7"]})


def test_cells_without_targets_or_states_are_all_the_source(file: Path) -> None:
    only = read(file, targets={})
    assert set(only.states) == {0}
    everything = read(file, state_column=None, source=None, targets={})
    assert everything.n_cells > only.n_cells
    assert not [n for n in everything.notes if "Pairs were drawn" in n]
    # a cell's tokens do not depend on who else is a source cell
    tokens = dict(
        zip(
            everything.cell_id_C,
            (r.tolist() for r in map(everything.states[0].tokens.__getitem__, range(everything.n_cells))),
            strict=True,
        )
    )
    assert all(tokens[name] == only.states[0].tokens[i].tolist() for i, name in enumerate(only.cell_id_C))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": {0: "stimulated"}}, "1 to 9; seen: 0"),
        ({"targets": {10: "stimulated"}}, "seen: 10"),
        ({"targets": {1: "control"}}, "must differ"),
        ({"max_cells": 0}, "max_cells is 0"),
        ({"counts_for": [1, 3]}, r"counts_for names \[3\]; time points: \[1\]"),
        ({"strata": ["condition"]}, '"condition" is the state column'),
        ({"filters": {"condition": ["control"]}}, '"condition" is the state column'),
        ({"filters": {"cell_type": ["B"], "donor": []}}, "leave no cell of the source"),
        ({"pairing": "stratfied"}, 'cannot read the mapping stratfied.*did you mean "stratified"'),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(file: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CellError, match=message):
        read(file, **options)


def test_cells_without_expressed_genes_are_left_out_and_counted(tmp_path: Path) -> None:
    counts_CG = some_counts()
    counts_CG[[2, 3, 4]] = 0
    bank = read(write(tmp_path / "f.h5ad", counts_CG))
    assert list(bank.states[0].cell_index_C) == [0, 6, 8, 10]
    assert 3 not in bank.states[1].cell_index_C
    assert 'expressed in 2 of 6 cells of the source (condition "control")' in bank.notes[0]
    assert "expressed in 1 of 6 cells of time point 1" in bank.notes[1]
    counts_CG[::2] = 0
    with pytest.raises(CellError, match=r"no cell of the source .* expresses a gene that has a token"):
        read(write(tmp_path / "f.h5ad", counts_CG))


def test_a_gene_without_a_source_token_still_counts_in_targets(tmp_path: Path) -> None:
    no_c = replace(VOCABULARY, source_token_G=np.array([14, 11, NO_TOKEN, 10, 12]))
    counts_CG = np.zeros((N_CELLS, 5), dtype=int)
    counts_CG[:, 2], counts_CG[[0, 2], 0] = 1, 1
    bank = read(write(tmp_path / "f.h5ad", counts_CG), no_c)
    assert list(bank.states[0].cell_index_C) == [0, 2]
    assert [list(bank.states[s].tokens[0]) for s in (0, 1)] == [[14], [6]]


def test_special_tokens_frame_source_rows_only(file: Path) -> None:
    plain, framed = read(file), read(file, special_tokens=True)
    for c in range(plain.n_cells):
        assert list(framed.states[0].tokens[c]) == [CLS, *plain.states[0].tokens[c], EOS]
        assert list(framed.states[1].tokens[c]) == list(plain.states[1].tokens[c])


def test_counts_are_kept_where_asked_for_and_size_factors_everywhere(tmp_path: Path) -> None:
    obs = some_obs()
    obs["condition"] = ["control", "early", "late"] * 4
    bank = read(write(tmp_path / "f.h5ad", some_counts(), obs=obs), targets={2: "late", 1: "early"}, counts_for=[2])
    assert bank.target_tps == (1, 2) and list(bank.states) == [0, 1, 2]
    assert bank.states[1].counts is None and bank.states[1].size_factor_C is not None
    assert np.array_equal(bank.states[2].counts.toarray(), some_counts()[bank.states[2].cell_index_C])


def test_old_layouts_of_categories_are_read(file: Path) -> None:
    expected = read(file, strata=["cell_type"])
    obs = some_obs()
    with h5py.File(file, "r+") as handle:
        del handle["obs"]
        group = handle.create_group("obs")
        group.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0", "_index": "index"})
        group.attrs["column-order"] = list(obs)
        group["index"], group["donor"] = list(obs.index), obs["donor"].to_numpy()
        for column in ("condition", "cell_type"):
            group[f"__categories/{column}"] = list(obs[column].cat.categories)
            group[f"__categories/{column}"].attrs["ordered"] = False
            group[column] = obs[column].cat.codes.to_numpy()
            group[column].attrs["categories"] = group[f"__categories/{column}"].ref
    assert same(read(file, strata=["cell_type"]), expected)


def test_tables_from_before_anndata_0_7_are_read(file: Path) -> None:
    expected = read(file, strata=["cell_type"])
    obs = some_obs()
    fields = [("index", "S8"), ("condition", "i1"), ("cell_type", "i1"), ("donor", "i8")]
    codes = [obs["condition"].cat.codes, obs["cell_type"].cat.codes]
    rows = list(zip([name.encode() for name in obs.index], *codes, obs["donor"], strict=True))
    with h5py.File(file, "r+") as handle:
        for key in list(handle.attrs):
            del handle.attrs[key]
        del handle["obs"], handle["var"], handle["uns"]
        handle["obs"] = np.array(rows, dtype=fields)
        handle["var"] = np.array([(g.encode(),) for g in VOCABULARY.ensembl_id], dtype=[("index", "S15")])
        for column in ("condition", "cell_type"):
            handle[f"uns/{column}_categories"] = np.array(obs[column].cat.categories, dtype="S16")
    assert same(read(file, strata=["cell_type"]), expected)


def test_a_file_that_is_no_h5ad_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(CellError, match="there is no such file"):
        read(tmp_path / "missing.h5ad")
    with pytest.raises(CellError, match=r"a folder, but no AnnData Zarr directory.* holds cells.h5ad"):
        read(tmp_path)
    (tmp_path / "text.h5ad").write_text("gene,cell\n")
    with pytest.raises(CellError, match=r"cannot read .*text.h5ad: .*is it a complete h5ad file"):
        read(tmp_path / "text.h5ad")
    (tmp_path / "cut.h5ad").write_bytes(file.read_bytes()[:4_000])
    with pytest.raises(CellError, match=r"cannot read .*cut.h5ad"):
        read(tmp_path / "cut.h5ad")
    with h5py.File(tmp_path / "other.h5ad", "w") as handle:
        handle["matrix"] = 1
    with pytest.raises(CellError, match="a matrix as 10x writes it; read it with"):
        read(tmp_path / "other.h5ad")


@pytest.mark.parametrize("damaged", ["X/indices", "obs/_index", "var/_index"])
def test_a_damaged_file_is_a_cell_error(file: Path, damaged: str) -> None:
    with h5py.File(file, "r+") as handle:
        del handle[damaged]
    with pytest.raises(CellError, match="the file may be damaged"):
        read(file)


def test_a_matrix_of_another_size_than_its_tables_is_refused(file: Path) -> None:
    with h5py.File(file, "r+") as handle:
        handle["X"].attrs["shape"] = [N_CELLS, 4]
    with pytest.raises(CellError, match=r"X of cells.h5ad is \(12, 4\), but there are 12 cells and 5 genes"):
        read(file)


def test_the_demo_is_tokenised_as_in_its_training() -> None:
    from demo.cells import ranked_columns, read_cells, read_pairs
    from screen.cells.vocabulary import read_tsv
    from screen.demo import DATA

    demo, n = read_cells(), 40
    bank = read_h5ad_cells(DATA / "cells.h5ad", read_tsv(DATA / "genes.tsv"), pairing=DATA / "pairs.tsv", **STATES)
    row_P2 = read_pairs(demo)[:n]
    for state, token_G in ((0, demo.genes.token_id), (1, demo.genes.row_id)):
        ranked = ranked_columns(demo.counts_CG[row_P2[:, state]], demo.genes.median, max_len=len(token_G))
        assert [list(bank.states[state].tokens[c]) for c in range(n)] == [list(token_G[columns]) for columns in ranked]
