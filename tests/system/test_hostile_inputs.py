"""Damaged, foreign and malicious inputs: refused by name with exit code 2, nothing run, nothing written."""

import contextlib
import functools
import importlib
import io
import os
import pickle
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import polars as pl
import pytest
import torch
import yaml
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from screen.cli.main import main
from screen.models.unpickle import Placeholder, RestrictedUnpickler
from tests.support.upstream_files import DROP, LONELY, Recipe, Upstream, ensembl_ids, refusal, snapshot, write_upstream

GENE = ensembl_ids(19)
NAMES, ROW_IDS = "token_id_to_genename_19_hvg.pkl", "tokenid_to_rowid_19_hvg.pkl"
MODEL = "decoder.pretrained_model."
TENSOR = f"{MODEL}decoder_block.1.norm2.bias"
Damage = Callable[[Upstream], object]


@pytest.fixture
def u(tmp_path: Path) -> Upstream:
    """Files to damage."""
    return write_upstream(tmp_path / "files", Recipe())


def rewrote(pattern: str, change: Callable[[bytes], bytes]) -> Damage:
    """A file whose bytes are others."""

    def damage(u: Upstream) -> None:
        file = next(u.folder.glob(pattern))
        file.write_bytes(change(file.read_bytes()))

    return damage


def wrote(path: str, content: bytes) -> Damage:
    return rewrote(path, lambda _: content)


def cut(pattern: str, share: float) -> Damage:
    return rewrote(pattern, lambda content: content[: int(len(content) * share)])


def moved(path: str, to: str = "gone") -> Damage:
    return lambda u: (u.folder / path).rename(u.folder / to)


def weights(changes: Mapping[str, Any]) -> Damage:
    """A checkpoint in which tensors are replaced, added, or, with None, left out."""
    return lambda u: u.write_checkpoint({k: v for k, v in {**u.state_dict(), **changes}.items() if v is not None})


def first_id(state: int, token: object) -> Damage:
    """A dataset that starts with another id."""
    return lambda u: u.write_dataset(state, {"input_ids": [[2, token, 3], *u.rows[state][1:]]})


def count_matrix(state: int, change: Callable[[Any], Any]) -> Damage:
    return lambda u: u.write_h5ad(state, sparse.csr_matrix(change(u.counts[state])))


def conditions(table: object) -> Damage:
    """A checkpoint with other condition ids, and a YAML that asks for them."""
    asking = {"data.cond_list": ["tissue"]}
    return lambda u: (u.write_checkpoint(condition_dict=table), u.write_yaml(u.request(asking)))


def rows_left(n: int, *states: int) -> Damage:
    """Datasets of which the first rows are there."""

    def damage(u: Upstream) -> None:
        for s in states:
            own = {"input_ids": u.rows[s], "cell_pairing_index": u.cell_index[s], "length": [1] * 11, **u.obs[s]}
            u.write_dataset(s, {k: v[:n] for k, v in own.items()})

    return damage


SWAPPED = [0, 1, 3, 2, *range(4, 19)]
POSITIONS = {f"{MODEL}pos_embedding.{k}": torch.ones(1, 90, 16) for k in ("pos_pe", "pe")}
# what is done to the files -> what the refusal must name
DAMAGES: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "no checkpoint": (moved("count.ckpt"), ("model.ckpt_masking_path", "there is neither", "count.ckpt")),
    "empty checkpoint": (wrote("count.ckpt", b""), ("count.ckpt", "truncated")),
    "text as checkpoint": (wrote("count.ckpt", b"epoch: 3\n" * 99), ("count.ckpt", "not a torch checkpoint")),
    "plain pickle as checkpoint": (wrote("count.ckpt", pickle.dumps({"state_dict": {}})), ("count.ckpt",)),
    **{f"{x} of checkpoint": (cut("count.ckpt", x), ("count.ckpt", "truncated")) for x in (0.001, 0.3, 0.9, 0.9999)},
    "NaN weight": (weights({TENSOR: torch.full((16,), np.nan)}), ("NaN", "decoder_block.1.norm2.bias")),
    "infinite weight": (weights({"theta": torch.full((19, 2), -np.inf)}), ("infinity", "theta")),
    "missing tensor": (weights({TENSOR: None}), ("missing", "decoder_block.1.norm2.bias")),
    "extra tensor": (weights({f"{MODEL}more": torch.ones(2)}), ("unexpected", "more")),
    "wrong shape": (weights({TENSOR: torch.ones(17)}), ("decoder_block.1.norm2.bias is (17,), expected (16,)",)),
    "weights that are text": (weights({TENSOR: "16 numbers"}), (TENSOR, "not named tensors")),
    "fewer positions than upstream adds": (weights(POSITIONS), ("count.ckpt", "90")),
    "a flipped bit": (rewrote("count.ckpt", lambda b: b[:60000] + bytes([b[60000] ^ 1]) + b[60001:]), ("count.ckpt",)),
    "another gene count": (
        lambda u: u.write_checkpoint(write_upstream(u.folder / "more", Recipe(n_genes=20)).state_dict()),
        ("19 genes", "predicts 20"),
    ),
    "no encoder anywhere": (
        lambda u: (weights({k: None for k in u.state_dict() if "encoder_layers" in k})(u), moved("encoder.ckpt")(u)),
        ("encoder.ckpt",),
    ),
    "condition id without row": (conditions({"tissue": {"bm": 60, "sp": 9999}}), ("9999", "73")),
    "conditions that are no table": (conditions({"tissue": ["bm", "sp"]}), ("condition_dict", "tissue")),
    "condition the model never saw": (conditions({"tissue": {"bm": 60}}), ("tissue", "is sp", "never saw")),
    "head count that is text": (lambda u: u.write_checkpoint(num_heads="two"), ("num_heads", "two")),
    "time points that are text": (lambda u: u.write_checkpoint(n_total_tps="three"), ("n_total_tps", "three")),
    "no h5ad": (moved("h5ad/2_ten.h5ad"), ("no *.h5ad for time point 2",)),
    "genes in another order": (lambda u: u.write_maps(SWAPPED), ("gene 2", GENE[2], GENE[3])),
    "genes in another order at time 2": (lambda u: u.write_h5ad(2, genes=SWAPPED), ("2_ten.h5ad", GENE[2], GENE[3])),
    "fewer genes in the h5ad": (lambda u: u.write_h5ad(2, genes=range(18)), ("2_ten.h5ad", "18 genes", "predicts 19")),
    "map of names to ids": (wrote(NAMES, pickle.dumps({"A": 4})), (NAMES, "integer ids")),
    "map that is a list": (wrote(ROW_IDS, pickle.dumps([4, 5])), (ROW_IDS, "list")),
    "map to rows without a gene": (wrote(ROW_IDS, pickle.dumps({9: 99})), (ROW_IDS, ": 99")),
    "text as map": (wrote(NAMES, b"4\tA\n"), (NAMES, "not a readable pickle")),
    "no map": (moved(NAMES), (NAMES,)),
    "gene without source token": (lambda u: u.write_maps(without_token=[5]), (GENE[5], "no token")),
    "target id without row": (first_id(1, 73), ("time point 1", "reach 73")),
    "source id without row": (first_id(0, 79), ("source", "reach 79")),
    "target id beyond 32 bits": (first_id(2, 2**32 + 7), ("2_ten", str(2**32 + 7))),
    "negative id": (first_id(1, -5), ("1_six", " -5")),
    "ids that are missing": (first_id(1, None), ("1_six", "input_ids")),
    "pairing index that is text": (
        lambda u: u.write_dataset(1, {"cell_pairing_index": ["a"] * 11}), ("1_six", "cell_pairing_index")
    ),
    "fewer rows than the source": (rows_left(9, 2), ("2_ten.dataset has 9 rows", "11")),
    "no rows": (rows_left(0, 0, 1, 2, 3), (".dataset",)),
    "no source dataset": (moved("source/t0.dataset"), ("data.src_dataset_file", "there is neither", "t0.dataset")),
    "no folder": (moved("targets"), ("data.tgt_dataset_folder", "there is neither", "targets")),
    "duplicate digit": (moved("targets/2_ten.dataset", "targets/1_ten.dataset"), ("1_ten", "1_six", "time point 1")),
    "name without digit": (moved("targets/2_ten.dataset", "targets/ten.dataset"), ("ten.dataset", "digit")),
    "cut dataset": (cut("targets/1_six.dataset/*.arrow", 0.5), ("1_six.dataset",)),
    "cut h5ad": (cut("h5ad/1_six.h5ad", 0.5), ("1_six.h5ad",)),
    "text as h5ad": (wrote("h5ad/2_ten.h5ad", b"genes\n"), ("2_ten.h5ad",)),
    "log-normalised": (count_matrix(1, np.log1p), ("1_six.h5ad", "raw counts")),
    "negative counts": (count_matrix(1, lambda x: x - 1), ("1_six.h5ad", "raw counts", "holds -1")),
    "infinite counts": (count_matrix(2, lambda x: np.where(x > 0, np.inf, 0)), ("2_ten.h5ad", "raw counts", "inf")),
    "h5ad without X": (lambda u: h5py.File(u.folder / "h5ad/1_six.h5ad", "a").pop("X"), ("1_six.h5ad", "X")),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_input_is_named_and_nothing_is_written(name: str, u: Upstream, capsys: Any) -> None:
    damage, words = DAMAGES[name]
    damage(u)
    message = refusal(capsys, u.folder / "perturbation.yaml")
    assert [word for word in words if word not in message] == [], message


# what a YAML says instead (nothing after "=": the key is left out) -> what the refusal must name
REQUESTS = {
    "trianer.d_model=16": 'trianer|"trainer"', "data.cond_lst=[]": 'data.cond_lst|"cond_list"',
    "trainer.perturbation_mod=pad": 'trainer.perturbation_mod|"perturbation_mode"',
    "datamodule.batchsize=3": 'datamodule.batchsize|"batch_size"', "model.ckpt_masking=x": 'model.ckpt_masking|"ckpt_masking_path"',
    "trainer.validation_mode=generate": "trainer.validation_mode|generate|inference",
    "trainer.generate=true": "trainer.generate|True", "datamodule.split=true": "datamodule.split|True",
    "datamodule.use_weighted_sampler=true": "datamodule.use_weighted_sampler|True",
    "trainer.d_model=24": "d_model is 24|but 16", "trainer.num_layers=5": "num_layers is 5|but 2", "trainer.d_ff=12": "d_ff is 12|but 6",
    "trainer.num_heads=3 & trainer.d_ff=4": "num_heads is 3|but 2", "trainer.loss_mode=nb": "loss_mode is nb|but zinb",
    "trainer.tgt_vocab_size=24 & trainer.max_seq_length=14": "tgt_vocab_size is 24|has 73 rows",
    "trainer.tgt_vocab_size=23 & trainer.max_seq_length=15": "max_seq_length is 15|but 14",
    "trainer.tgt_vocab_size=23": "tgt_vocab_size|max_seq_length", "data.cond_list=[tissue]": "tissue|start at 21",
    "trainer.pos_encoding_mode=sin_learnt": "pos_encoding_mode is sin_learnt|but time_pos_sin",
    "trainer.encoder=Transformer_encoder": "encoder|Transformer_encoder|scmaskgit",
    "trainer.pert_tps=[3] & trainer.perturbation_sequence=[tgt]": "pert_tps|[3]|[1, 2]",
    # context_mode: upstream requires it, and its value decides the numbers
    "trainer.pred_tps=": "trainer.pred_tps", "trainer.context_mode=": "trainer.context_mode",
    "trainer.perturbation_mode=knockout": "trainer.perturbation_mode|knockout",
    "trainer.n_samples=three": "trainer.n_samples|three", "datamodule.batch_size=many": "datamodule.batch_size|many",
    "trainer.pred_tps=[1, two]": "pred_tps|two", "trainer.pred_tps=[1, 7]": "time point 7|1, 2, 3",
    "trainer.context_tps=[8] & trainer.context_mode=true": "time point 8|1, 2, 3",
    "trainer.var_list=[celltype] & datamodule.var_list=null": "celltype|cell_type",
    "data.filter_var=celltype & data.filter_cond=[A]": "celltype|cell_type",
    "data.cond_list=[celltype]": "celltype|cell_type", "trainer.genes_to_perturb=[]": "genes_to_perturb",
    "data.tgt_dataset_folder=source/t0.dataset": "holds no *.dataset", "trainer.exclude_src=true": "exclude_src",
    f"trainer.genes_to_perturb={GENE[LONELY]}": f"{GENE[LONELY]}|not expressed in 11 of 11",
}  # fmt: skip
OWN_REQUESTS = {
    "modle.checkpoint=x": '"modle"|"model"', "model.checkpiont=x": 'model.checkpiont|"checkpoint"',
    "cells.tgt_adata_foldr=x": 'cells.tgt_adata_foldr|"tgt_adata_folder"', "library.mode=[pad]": 'library.0.mode|"modes"',
    "predict.pred_tp=[1]": 'predict.pred_tp|"pred_tps"', "output.store_type=float32": 'output.store_type|"store_dtype"',
    "library.pert_tps=[3] & library.perturbation_sequence=[tgt]": "pert_tps|[3]|[1, 2]",
    "library.genes=[]": "library.0.genes|empty", f"predict.pred_tps={[[0] * 3000] * 2}": "pred_tps",
    **{f"model.vocabulary={name} & model.mapping_dict_path= & model.tokenid_to_rowid_path=": words for name, words in {
        NAMES: NAMES, "short.tsv": "short.tsv|row_id", "text.tsv": "text.tsv|seven", "few.tsv": "18 genes|predicts 19|count.ckpt",
        "shuffled.tsv": "shuffled.tsv", "doubled.tsv": "tokens 9|more than one gene",
    }.items()},
}  # fmt: skip


def write_tables(u: Upstream) -> None:
    """Vocabulary files that do not fit."""
    lines = [f"{GENE[g]}\t{GENE[g]}\t{u.token[g]}\t{g + 4}" for g in range(19)]
    tables = {"short": lines, "few": lines[:18], "shuffled": [*lines[:5], lines[6], lines[5], *lines[7:]]}
    tables["text"] = [lines[0].replace("\t4", "\tseven"), *lines[1:]]
    tables["doubled"] = [*lines[:6], lines[6].replace("\t10", "\t9"), *lines[7:]]
    for name, rows in tables.items():
        header = "ensembl_id\tsymbol\ttoken_id\t" + ("row" if name == "short" else "row_id")
        (u.folder / f"{name}.tsv").write_text("\n".join([header, *rows]))


@pytest.mark.parametrize("request_", [*REQUESTS, *OWN_REQUESTS], ids=lambda text: text[:70])
def test_a_request_that_cannot_be_met_is_refused_by_its_own_words(request_: str, u: Upstream, capsys: Any) -> None:
    write_tables(u)
    pairs = (part.split("=", 1) for part in request_.split(" & "))
    changes = {key: yaml.safe_load(value) if value else DROP for key, value in pairs}
    raw = u.request(changes) if request_ in REQUESTS else u.own_request(changes)
    message = refusal(capsys, u.write_yaml(raw))
    words = (REQUESTS | OWN_REQUESTS)[request_].split("|")
    assert [word for word in words if word not in message] == [] and len(message) < 2000, message[:9000]


TEXTS: dict[str, tuple[Any, str]] = {
    "missing": (None, "cannot read"), "folder": (DROP, "cannot read"), "list": ("- a\n- b\n", "a list"),
    "word": ("screen", "a str"), "nothing": ("", "NoneType"),
    "repeated key": ("model: {checkpoint: a, checkpoint: b}", '"checkpoint" is written twice'),
    "code": ("model: !!python/object/apply:os.system ['touch ran']", "not valid YAML"),
    "key that is a list": ("? [a, b]\n: c", "YAML"), "deep": ("[" * 9000, "YAML"),
    "open": ("model: {", "not valid YAML"), "binary": (bytes(range(256)), "cannot read"), "bell": (b"a: \x07", "not valid YAML"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_that_is_no_configuration_is_refused(name: str, tmp_path: Path, capsys: Any) -> None:
    content, word = TEXTS[name]
    config = tmp_path / "c.yaml"
    if content is DROP:
        config.mkdir()
    elif content is not None:
        config.write_bytes(content.encode() if isinstance(content, str) else content)
    message = refusal(capsys, config)
    assert "c.yaml" in message and word in message and len(message) < 2000


class Evil:
    """Pickles into a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


EVIL: dict[str, Callable[[Path], Evil]] = {
    "os.system": lambda path: Evil(os.system, (f"touch {path}",)),
    "eval": lambda path: Evil(eval, (f"open({str(path)!r}, 'w').close()",)),
    "partial": lambda path: Evil(functools.partial(os.system, f"touch {path}"), ()),
}
PLACES: dict[str, tuple[Callable[[Upstream, Evil], object], str | None]] = {
    "names": (lambda u, evil: wrote(NAMES, pickle.dumps({4: evil}))(u), NAMES),
    "row ids": (lambda u, evil: wrote(ROW_IDS, pickle.dumps({5: evil}))(u), ROW_IDS),
    "state": (lambda u, evil: weights({TENSOR: evil})(u), TENSOR),
    "whole": (lambda u, evil: torch.save(evil, u.folder / "count.ckpt"), "count.ckpt"),
    "hyper-parameters": (lambda u, evil: u.write_checkpoint(tgt_adata={1: evil}), None),
}


@pytest.mark.parametrize("kind", EVIL)
@pytest.mark.parametrize("place", PLACES)
def test_no_pickle_runs_anything(kind: str, place: str, u: Upstream, tmp_path: Path, capsys: Any) -> None:
    pickle.loads(pickle.dumps(EVIL[kind](tmp_path / "control")))  # noqa: S301 (shows that it would run)
    assert (tmp_path / "control").exists()
    damage, word = PLACES[place]
    damage(u, EVIL[kind](tmp_path / "ran"))
    config = u.write_yaml(u.request())
    if word is None:
        assert main(["run", str(config), "--out", str(tmp_path / "out")]) == 0
    else:
        assert word in refusal(capsys, config)
    assert not (tmp_path / "ran").exists()


def test_genes_in_no_cell_are_reported_and_the_rest_is_written(u: Upstream, tmp_path: Path, capsys: Any) -> None:
    config = u.write_yaml(u.own_request({"library.genes": [GENE[LONELY], GENE[6]]}))
    why = f"not screened: {GENE[LONELY]} (delete, src): not expressed in 11 of 11 cells"
    for out, flags, code, level in (("a", [], 2, "error"), ("b", ["--allow-missing"], 0, "note")):
        assert main(["run", str(config), "--out", str(tmp_path / out), *flags]) == code
        said = capsys.readouterr().err
        assert f"{level}: {why}" in said
        assert ("error:" in said) == (level == "error")
        hits = pl.read_parquet(tmp_path / out / "hits.parquet")
        assert hits.filter(pl.col("n_cells") > 0)["target"].unique().to_list() == [GENE[6]]


def test_cells_without_target_genes_are_counted_and_never_nan(u: Upstream, tmp_path: Path, capsys: Any) -> None:
    holding = [c for c, row in enumerate(u.rows[0]) if u.token[5] in row]
    for t, emptied in ((1, holding[:2]), (2, holding[:1])):
        u.write_dataset(t, {"input_ids": [[2, 3] if c in emptied else row for c, row in enumerate(u.rows[t])]})
        keep = np.array([c not in emptied for c in range(11)])[:, None]
        u.write_h5ad(t, counts=sparse.csr_matrix(u.counts[t] * keep))
    config = u.write_yaml(u.own_request({"library.genes": [GENE[5]]}))
    assert main(["run", str(config), "--out", str(tmp_path / "out")]) == 0
    assert "nothing left to predict from" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "out"), "--h5ad", str(tmp_path / "out.h5ad")]) == 0
    tables = [pl.read_parquet(tmp_path / "out/hits.parquet"), pl.read_parquet(tmp_path / "out/deg/*.parquet")]
    n_cells = dict(tables[0].select("time", "n_cells").iter_rows())
    assert n_cells == {1: len(holding) - 2, 2: len(holding) - 1} and tables[0]["n_emptied"].to_list() == [1, 1]
    assert not any(table.select(pl.selectors.float().is_nan().any()).row(0).count(True) for table in tables)
    store = zarr.open_group(tmp_path / "out/screen.zarr", mode="r")
    arrays = {n: a[...] for n, a in store.members(max_depth=None) if isinstance(a, zarr.Array) and a.dtype.kind == "f"}
    exported = ad.read_h5ad(tmp_path / "out.h5ad")
    assert exported.n_obs == sum(n_cells.values()) and len(arrays) > 10
    arrays |= {"X": exported.X, **exported.layers, **exported.obsm, **exported.varm}
    assert [name for name, values in arrays.items() if not np.isfinite(values).all()] == []


@pytest.mark.parametrize("there", ["", "screen.zarr", "screen.zarr/notes.txt", "screen.zarr/zarr.json"])
def test_an_output_path_that_holds_something_else_is_left_alone(there: str, u: Upstream, capsys: Any) -> None:
    out = u.folder / "out"
    (out / there).parent.mkdir(parents=True, exist_ok=True)
    (out / there).write_text('{"zarr_format": 3, "node_type": "group", "attributes": {"format": "atlas"}}')
    before = snapshot(u.folder)
    assert main(["run", str(u.folder / "perturbation.yaml"), "--out", str(out)]) == 2
    assert str(out) in capsys.readouterr().err
    assert snapshot(u.folder) == before


def test_an_unknown_perturbation_is_refused_with_ids_spelled_as_they_are(
    u: Upstream, tmp_path: Path, capsys: Any
) -> None:
    assert main(["run", str(u.write_yaml(u.request())), "--out", str(tmp_path / "out")]) == 0
    arguments = ["export", str(tmp_path / "out"), "--h5ad", str(tmp_path / "x.h5ad"), "--perturbation"]
    assert main([*arguments, f"src:mask:{GENE[5]}0"]) == 2
    assert f'did you mean "src:mask:{GENE[5]}"?' in capsys.readouterr().err
    assert not (tmp_path / "x.h5ad").exists()


LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(), st.binary()),
    *(
        st.binary().map(bytearray),
        st.integers().map(lambda i: {i}),
        st.integers().map(range),
        st.floats().map(np.float64),
    ),
    hnp.arrays(st.sampled_from([np.int64, np.uint8, np.bool_, "U3", "S2"]), hnp.array_shapes(max_dims=2, max_side=3)),
)
TABLES = (dict, OrderedDict, lambda d: defaultdict(list, d), lambda d: deque(d.items(), maxlen=9))
DATA = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        *(st.lists(inner, max_size=4), st.tuples(inner, inner)),
        *(st.dictionaries(st.text() | st.integers(), inner, max_size=3).map(kind) for kind in TABLES),
    ),
)


@given(DATA, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_comes_back_from_the_restricted_unpickler(data: Any, protocol: int) -> None:
    assert repr(RestrictedUnpickler(io.BytesIO(pickle.dumps(data, protocol))).load()) == repr(data)


TYPES = (dict, list, set, frozenset, tuple, int, float, complex, bool, str, bytes, bytearray, slice, range)
PLAIN = {f"builtins.{t.__name__}" for t in TYPES} | {f"torch.{n}" for n in ("Size", "device")} | {"_codecs.encode"}
PLAIN |= {f"collections.{n}" for n in ("OrderedDict", "defaultdict", "Counter", "deque")}
PLAIN |= {f"torch._utils.{n}" for n in ("_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_parameter")}
PLAIN |= {"numpy.ndarray", "numpy.dtype"}
MODULES = (
    "builtins os posix sys subprocess functools operator importlib types copyreg pickle codecs _codecs collections"
)
KNOWN = [(m, n) for m in (*MODULES.split(), "numpy", "torch", "torch._utils") for n in dir(importlib.import_module(m))]


@given(st.sampled_from(KNOWN) | st.tuples(st.sampled_from(["this", "os.path", "no.such"]), st.text()))
def test_a_global_that_is_not_plain_data_becomes_a_placeholder(name: tuple[str, str]) -> None:
    found = RestrictedUnpickler(io.BytesIO()).find_class(*name)
    is_number = isinstance(found, type) and issubclass(found, np.generic | np.dtype)
    is_torch = isinstance(found, torch.dtype) or (name[0] == "torch" and name[1].endswith("Storage"))
    assert found is Placeholder or is_number or is_torch or ".".join(name) in PLAIN
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    "name", [("collections", "Counter"), ("torch._utils", "_rebuild_tensor_v2"), ("_codecs", "encode")]
)
def test_a_pickle_cannot_change_what_it_names(name: tuple[str, str]) -> None:
    found = RestrictedUnpickler(io.BytesIO()).find_class(*name)
    before = dir(found)
    with contextlib.suppress(Exception):
        RestrictedUnpickler(io.BytesIO(b"c%b\n%b\n(N(dS'mark'\nI1\nstb." % (name[0].encode(), name[1].encode()))).load()
    assert dir(found) == before
