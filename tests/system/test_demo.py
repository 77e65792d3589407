"""The shipped demo data are what SOURCE.json says they are, and the checkpoint loads and predicts."""

import json
import re
import subprocess
from pathlib import Path

import anndata as ad
import numpy as np
import polars as pl
import pytest
import torch
import yaml

from demo.agreement import agreement
from demo.build_data import SHIPPED, SOURCES, sha256_of
from demo.cells import (
    CONTROL,
    FIRST_GENE_ID,
    MAX_LEN,
    STIMULATED,
    DemoCells,
    cp10k,
    nonzero_median,
    ranked_columns,
    read_cells,
    read_pairs,
)
from demo.named_genes import HOUSEKEEPING, REGULATORS
from screen.cli.main import main
from screen.demo import DATA
from screen.models.perturbgen.files.checkpoint import load_model
from screen.models.perturbgen.files.read_sizes import Declared
from tests.support.places import ROOT


@pytest.fixture(scope="module")
def cells() -> DemoCells:
    return read_cells()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_have_their_recorded_checksums(name: str) -> None:
    record = json.loads((DATA / "SOURCE.json").read_text())
    assert sha256_of(DATA / name) == record["shipped_sha256"][name]


def test_evaluation_is_of_the_shipped_checkpoint() -> None:
    record = json.loads((DATA / "EVALUATION.json").read_text())
    assert sha256_of(DATA / "demo.ckpt") == record["checkpoints"][0]["sha256"]


def test_every_source_names_citation_licence_and_checksum() -> None:
    record = json.loads((DATA / "SOURCE.json").read_text())
    assert set(record["sources"]) == set(SOURCES)
    for source in record["sources"].values():
        assert all(source[key] for key in ("distribution", "path", "sha256", "citation", "licence"))


def test_shipped_files_stay_small() -> None:
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 10_000_000


def test_counts_are_whole_and_one_column_per_gene(cells: DemoCells) -> None:
    n_cells, n_genes = cells.counts_CG.shape
    assert (n_cells, n_genes) == (len(cells.name), len(cells.genes.symbol))
    assert np.issubdtype(cells.counts_CG.dtype, np.integer)
    assert cells.counts_CG.data.min() > 0
    assert len(set(cells.name)) == n_cells


def test_gene_ids_are_unique_and_both_vocabularies_skip_the_special_tokens(cells: DemoCells) -> None:
    genes = cells.genes
    n_genes = len(genes.symbol)
    assert len(set(genes.ensembl_id)) == len(set(genes.symbol)) == n_genes
    assert list(genes.row_id) == list(range(FIRST_GENE_ID, FIRST_GENE_ID + n_genes))
    assert sorted(genes.token_id) == sorted(genes.row_id)
    assert list(genes.token_id) != list(genes.row_id)


def test_named_genes_are_known(cells: DemoCells) -> None:
    assert all(cells.genes.column_of(symbol) is not None for symbol in (*HOUSEKEEPING, *REGULATORS))


def test_every_type_has_100_cells_in_both_states_and_monocytes_100_held_out(cells: DemoCells) -> None:
    for kind in np.unique(cells.cell_type):
        for state in (CONTROL, STIMULATED):
            n_held_out = len(cells.stratum(str(kind), state, held_out=True))
            assert n_held_out + len(cells.stratum(str(kind), state, held_out=False)) >= 100
            if kind == "CD14+ Monocytes":
                assert n_held_out >= 100


def test_medians_are_those_of_the_training_cells_alone(cells: DemoCells) -> None:
    training = cells.counts_CG[~cells.is_held_out]
    np.testing.assert_array_equal(nonzero_median(cp10k(training)), cells.genes.median)


def test_pairs_are_held_out_type_matched_and_used_once(cells: DemoCells) -> None:
    source, target = read_pairs(cells).T
    assert cells.is_held_out[source].all()
    assert cells.is_held_out[target].all()
    assert set(cells.condition[source]) == {CONTROL}
    assert set(cells.condition[target]) == {STIMULATED}
    assert (cells.cell_type[source] == cells.cell_type[target]).all()
    assert len(set(source)) == len(set(target)) == len(source)
    assert (cells.cell_type[source] == "CD14+ Monocytes").sum() >= 100


def test_rows_rank_by_scaled_counts_and_break_ties_by_column(cells: DemoCells) -> None:
    for row in ranked_columns(cells.counts_CG[:50], cells.genes.median):
        assert 0 < len(row) <= MAX_LEN
        assert len(set(row.tolist())) == len(row)
    some = cells.counts_CG[:1].toarray()[0]
    value = some / some.sum() * 10_000 / cells.genes.median
    expected = sorted(np.flatnonzero(some), key=lambda column: (-value[column], column))[:MAX_LEN]
    assert ranked_columns(cells.counts_CG[:1], cells.genes.median)[0].tolist() == expected


def test_gene_sets_hold_only_known_genes_in_stated_sizes(cells: DemoCells) -> None:
    known = set(cells.genes.symbol)
    for line in (DATA / "reactome_small.gmt").read_text().splitlines():
        _, identifier, *members = line.split("\t")
        assert identifier.startswith("R-HSA-")
        assert 10 <= len(members) <= 300
        assert known.issuperset(members)


def test_checkpoint_has_upstreams_keys_and_repeats_no_storage() -> None:
    content = torch.load(DATA / "demo.ckpt", weights_only=True)
    state = content["state_dict"]
    assert content["hyper_parameters"]["context_mode"] is False
    for key in [key for key in state if key.startswith("pretrained_model.")]:
        assert state[key].data_ptr() == state[f"decoder.{key}"].data_ptr()
    assert (DATA / "demo.ckpt").stat().st_size < 4_000_000


@torch.inference_mode()
def test_checkpoint_predicts_interferon_response_from_a_control_monocyte(cells: DemoCells) -> None:
    model, _ = load_model(DATA / "demo.ckpt", Declared())
    source, target = read_pairs(cells)[cells.cell_type[read_pairs(cells)[:, 0]] == "CD14+ Monocytes"][0]
    columns = ranked_columns(cells.counts_CG[[source, target]], cells.genes.median)
    src_1L = torch.from_numpy(cells.genes.token_id[columns[0]])[None]
    tgt_1L = torch.from_numpy(cells.genes.row_id[columns[1]])[None]
    hidden_1LD = model.decode(tgt_1L, 1, model.encode(src_1L), None)
    share_G = model.count_decoder(model.pool(hidden_1LD, tgt_1L, torch.arange(4))).head_BG[0].numpy()
    training_control = cells.counts_CG[cells.stratum("CD14+ Monocytes", CONTROL, held_out=False)]
    control_G = np.asarray(training_control.sum(axis=0)).ravel() / training_control.sum()
    for symbol in ("ISG15", "IFIT1", "IFIT3", "MX1", "CXCL10"):
        assert share_G[cells.genes.column_of(symbol)] > 2 * control_G[cells.genes.column_of(symbol)]


def test_a_slice_of_the_demo_runs_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text().replace("../screen", str(ROOT / "screen")))
    raw["cells"]["max_cells"] = 4
    raw["library"] = [{"genes": ["ISG15", "CCL2", "B2M", "FTH1"], "modes": ["mask", "overexpress"]}]
    raw["null"] = {"n": 0}
    raw["output"]["allow_missing"] = True
    (tmp_path / "slice.yaml").write_text(yaml.safe_dump(raw))
    assert main(["run", str(tmp_path / "slice.yaml"), "--out", str(tmp_path / "out")]) == 0
    hits = pl.read_parquet(tmp_path / "out" / "hits.parquet")
    assert hits.height == 8
    assert set(hits["stratum"]) == {"CD14+ Monocytes"}
    assert set(hits["target_symbol"]) == {"ISG15", "CCL2", "B2M", "FTH1"}
    assert hits["target"].str.contains(r"^ENSG\d{11}$").all()
    assert pl.read_parquet(tmp_path / "out/deg/*.parquet").height == 1500 * hits.filter(pl.col("n_cells") > 0).height
    said = capsys.readouterr().out
    assert "The strongest of mode" in said and "  computing on cpu in float32\n" in said
    name_N = ad.read_h5ad(DATA / "cells.h5ad", backed="r").obs_names.to_numpy()
    for options in ([], ["--with-control"]):
        assert main(["export", str(tmp_path / "out"), "--h5ad", str(tmp_path / "all.h5ad"), *options]) == 0
        obs = ad.read_h5ad(tmp_path / "all.h5ad").obs
        assert list(obs["target_cell"]) == list(name_N[obs["cell_idx"]])
        assert set(obs["source_cell"]) <= set(name_N) - set(obs["target_cell"])


def test_make_demo_runs_the_shipped_configuration() -> None:
    recipe = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(r"perturbscreen run configs/demo.yaml --out runs/demo$", recipe, re.MULTILINE)


def test_agreement_of_a_ranking_with_itself_is_whole_and_with_noise_is_none() -> None:
    rng = np.random.default_rng(0)
    columns = {c: rng.uniform(1, 2, 300) for c in ("strength", "rank_position", "n_cells", "length")}
    table = pl.DataFrame({**columns, "perturbation": [f"p{i}" for i in range(300)], "mode": "mask"})
    table = table.sort("strength", descending=True).with_columns(strength_rank=pl.int_range(1, 301))
    noise = table.with_columns(strength=pl.Series(rng.uniform(1, 2, 300)))
    assert agreement(table, table) == pytest.approx({"genes": 300, "raw": 1, "residual": 1, "top": 20})
    assert abs(agreement(table, noise)["raw"]) < 0.2
