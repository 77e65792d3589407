"""Formats: small valid files of each, what can be done to them, and the reading that must refuse them or be right."""

import io
import random
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from screen.cells.h5ad import read_h5ad_cells
from screen.cells.vocabulary import read_tsv
from screen.cli.main import main
from screen.errors import ScreenError
from screen.running.configuration import load_config
from screen.running.prepare import prepare
from screen.stats.sets.gene_sets import GeneSets
from tests.support import h5ad_files
from tests.support.fuzz.bytes_and_json import other_bytes, other_json, other_text
from tests.support.fuzz.fields import (
    other_array,
    other_arrow,
    other_checkpoint,
    other_h5ad,
    other_pickle,
    other_zarr,
)
from tests.support.fuzz.format import Damage, Format
from tests.support.store_fixture import FIRST, OUTPUT, run, screen_of
from tests.support.upstream_files import Recipe, write_upstream


class WrongError(AssertionError):
    """An answer that no file may give."""


def anything(pattern: str, *fields: Damage) -> Damage:
    """Bytes of one of the files, or one of the changes to fields."""

    def damage(folder: Path, rng: random.Random) -> str:
        files = sorted(p for p in folder.glob(pattern) if p.is_file())
        return rng.choice([other_bytes, *fields, *fields])(rng.choice(files), rng)

    return damage


def _valid(states: Any, n_genes: int) -> None:
    """What whatever file was read must be true of cells."""
    for state in states.values():
        offset_C1 = state.tokens.offset_C1
        if (np.diff(offset_C1) < 0).any() or offset_C1[-1] != len(state.tokens.token_T):
            raise WrongError("offsets of tokens")
        if len(state.tokens.token_T) and state.tokens.token_T.min() < 0:
            raise WrongError("a negative token")
        if state.counts is None:
            continue
        if state.counts.shape != (len(state.tokens), n_genes) or (
            len(state.counts.data) and state.counts.data.min() < 0
        ):
            raise WrongError("counts")
        if not np.isfinite(state.counts.data).all():
            raise WrongError("counts that are no numbers")


def _make_h5ad(folder: Path) -> None:
    counts = h5ad_files.some_counts()
    layouts = {"csr": sparse.csr_matrix(counts), "csc": sparse.csc_matrix(counts), "dense": counts}
    for name, values in layouts.items():
        h5ad_files.write(folder / f"{name}.h5ad", values)
    h5ad_files.write(folder / "raw.h5ad", np.log1p(counts), raw=(layouts["csr"], h5ad_files.VOCABULARY.ensembl_id))
    compressed = h5ad_files.write(folder / "packed.h5ad", layouts["csr"])
    h5ad_files.anndata.read_h5ad(compressed).write_h5ad(compressed, compression="gzip")


def _read_h5ad(folder: Path) -> None:
    problems = []
    for path in sorted([*folder.glob("*.h5ad"), *folder.glob("*.zarr")]):
        try:
            bank = read_h5ad_cells(path, h5ad_files.VOCABULARY, **h5ad_files.STATES, strata=["cell_type"])
            _valid(bank.states, 5)
        except ScreenError as error:
            problems.append(error)
    if problems:
        raise problems[0]


def _one_h5ad(folder: Path, rng: random.Random) -> str:
    """Damage to one of the files; the others are taken away."""
    chosen = rng.choice(sorted(folder.glob("*.h5ad")))
    for path in folder.glob("*.h5ad"):
        if path != chosen:
            path.unlink()
    return rng.choice([other_bytes, other_h5ad, other_h5ad])(chosen, rng)


def _make_zarr(folder: Path) -> None:
    counts = h5ad_files.some_counts()
    for name, values in {"csr": sparse.csr_matrix(counts), "csc": sparse.csc_matrix(counts), "dense": counts}.items():
        for zarr_format in (2, 3):
            h5ad_files.write_zarr(folder / f"{name}{zarr_format}.zarr", values, zarr_format)


def _one_zarr(folder: Path, rng: random.Random) -> str:
    """Damage to one of the directories; the others are taken away."""
    chosen = rng.choice(sorted(folder.glob("*.zarr")))
    for path in folder.glob("*.zarr"):
        if path != chosen:
            shutil.rmtree(path)
    files = sorted(p for p in chosen.rglob("*") if p.is_file() and p.name != ".zmetadata")
    metadata = [p for p in files if p.name in ("zarr.json", ".zarray", ".zattrs", ".zgroup")]
    if rng.random() < 0.6:
        return other_json(rng.choice(metadata), rng)
    return other_bytes(rng.choice(files), rng)


def _make_upstream(folder: Path) -> None:
    made = write_upstream(folder / "u", Recipe())
    made.write_yaml(made.own_request())


def _read_upstream(folder: Path) -> None:
    config = load_config(folder / "u/perturbation.yaml")
    screen = prepare(config)
    _valid(screen.bank.states, len(screen.vocabulary))
    items = screen.plan.cell_I
    if len(items) and not 0 <= items.min() <= items.max() < screen.bank.n_cells:
        raise WrongError("items of cells that are not there")


def _arrow(folder: Path, rng: random.Random) -> str:
    datasets = sorted((folder / "u").glob("*/*.dataset"))
    chosen = rng.choice(datasets)
    if rng.random() < 0.5:
        return other_arrow(chosen, rng)
    if rng.random() < 0.3:
        return other_json(chosen / "state.json", rng)
    return other_bytes(rng.choice(sorted(chosen.glob("*.arrow"))), rng)


def _upstream(folder: Path, rng: random.Random) -> str:
    """Damage to a dataset, an h5ad, a pickled map or a checkpoint."""
    kinds = (
        _arrow,
        anything("u/h5ad/*.h5ad", other_h5ad),
        anything("u/*.pkl", other_pickle),
        anything("u/*.ckpt", other_checkpoint),
    )
    return rng.choice(kinds)(folder, rng)


def _make_tables(folder: Path) -> None:
    vocabulary = h5ad_files.VOCABULARY
    assert vocabulary.median_G is not None
    lines = ["ensembl_id\tsymbol\ttoken_id\trow_id\tmedian\taliases"]
    for g in range(5):
        names = f"{vocabulary.ensembl_id[g]}\t{vocabulary.symbol[g]}"
        lines.append(
            f"{names}\t{vocabulary.source_token_G[g]}\t{vocabulary.target_token_G[g]}\t{vocabulary.median_G[g]}\tA{g}|B{g}"
        )
    (folder / "genes.tsv").write_text("\n".join(lines) + "\n")
    pairs = [f"cell{2 * i}\tcell{2 * i + 1}" for i in range(6)]
    (folder / "pairs.tsv").write_text("\n".join(["source\ttarget", *pairs]) + "\n")
    h5ad_files.write(folder / "cells.h5ad", sparse.csr_matrix(h5ad_files.some_counts()))
    genes = "\t".join(vocabulary.symbol)
    (folder / "sets.gmt").write_text(f"ONE\tabout\t{genes}\nTWO\t\tAAA\tBBB\tENSG00000000002\n")


def _read_tables(folder: Path) -> None:
    vocabulary = read_tsv(folder / "genes.tsv")
    for site in ("src", "tgt"):
        if len(vocabulary.column_of_token(site)) > 2**25:
            raise WrongError("a table of tokens beyond all bounds")
    bank = read_h5ad_cells(folder / "cells.h5ad", vocabulary, **h5ad_files.STATES, pairing=folder / "pairs.tsv")
    _valid(bank.states, len(vocabulary))
    GeneSets.read([folder / "sets.gmt"], vocabulary.ensembl_id, vocabulary.symbol, 1, 10)


def _make_store(folder: Path) -> None:
    kept = {"keep_embeddings": True, "store_dtype": "float16"}
    assert run(screen_of(FIRST, **OUTPUT, **kept), folder / "out") == 0
    assert run(screen_of(FIRST, **OUTPUT, keep="summaries"), folder / "brief") == 0


def _store(folder: Path, rng: random.Random) -> str:
    chosen = rng.choice(["out", "out", "brief"])
    for other in {"out", "brief"} - {chosen}:
        shutil.rmtree(folder / other)
    store, kind = folder / chosen / "screen.zarr", rng.random()
    if kind < 0.35:
        return other_zarr(store, rng)
    if kind < 0.65:
        names = [*store.rglob("zarr.json")] + [store / "zarr.json", *store.glob("library/*/zarr.json")] * 8
        return other_json(rng.choice(sorted(names)), rng)
    if kind < 0.8:
        return other_bytes(rng.choice(sorted(p for p in store.rglob("*") if p.is_file())), rng)
    tables = [p for p in (folder / chosen).glob("*") if p.suffix in (".json", ".parquet")]
    path = rng.choice(sorted(tables))
    if path.suffix == ".json" and kind < 0.9:
        return other_json(path, rng)
    if path.name == "coverage.parquet" and kind < 0.95:
        return _other_parquet(path, rng)
    return other_bytes(path, rng)


def _other_parquet(path: Path, rng: random.Random) -> str:
    table = pl.read_parquet(path)
    name = rng.choice(table.columns)
    values = table[name].to_numpy()
    if values.dtype.kind == "O" or rng.random() < 0.2:
        table = table.drop(name) if rng.random() < 0.5 else table.with_columns(pl.lit(None).alias(name))
        done = "gone"
    else:
        after, done = other_array(values, rng)
        column = pl.Series(name, after.reshape(-1) if after.dtype.kind != "S" else after.astype(str).reshape(-1))
        table = table.head(len(column)).with_columns(column) if len(column) <= len(table) else table.vstack(table)
    table.write_parquet(path)
    return f"{path.name}: {name} {done}"


def _read_store(folder: Path) -> None:
    """status, verify, deg, export and report, each with exit code 0, 1 or 2 and in words of our own."""
    for out in sorted(p for p in folder.iterdir() if p.is_dir()):
        whole = [str(out), "--h5ad", str(folder / "x.h5ad")]
        first = said(["status", str(out)]), said(["verify", str(out)])
        rest = said(["deg", str(out), "--top", "3"]), said(["export", *whole])
        page = said(["report", str(out), "--out", str(folder / "page.html")])
        for code, text in (*first, *rest, page):
            if code not in (0, 1, 2):
                raise WrongError(f"exit code {code}: {text}")
            if "Traceback" in text or "Run again with --debug" in text:
                raise WrongError(f"an error that is not ours: {text[text.find('error:') :][:600]}")


def said(arguments: list[str]) -> tuple[int, str]:
    """Exit code of a command and all that it printed."""
    text = io.StringIO()
    with redirect_stdout(text), redirect_stderr(text):
        code = main(arguments)
    return code, text.getvalue()


FORMATS = {
    "h5ad": Format(_make_h5ad, _one_h5ad, _read_h5ad, 0.22),
    "zarr": Format(_make_zarr, _one_zarr, _read_h5ad, 0.1),
    "upstream": Format(_make_upstream, _upstream, _read_upstream, 0.28),
    "text": Format(_make_tables, anything("*.[tg][sm][vt]", other_text), _read_tables, 0.16),
    "store": Format(_make_store, _store, _read_store, 0.24),
}
