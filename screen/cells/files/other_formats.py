"""Other formats: what a path holds that is neither h5ad nor AnnData Zarr, and how it becomes one."""

import re
from collections.abc import Collection
from pathlib import Path

from screen.errors import some

TEXT = (".csv", ".tsv", ".txt", ".mtx")
R_OBJECTS = (".rds", ".rdata", ".h5seurat", ".qs")


def what_file_is(path: Path, reason: str) -> str:
    """Of a file that HDF5 does not open, for `reason`: what it is, and what to do."""
    if any(part.endswith(":") for part in path.parts):
        return "it is an address; download the file first"
    if not path.exists():
        return "there is no such file"
    name = path.name.lower()
    with path.open("rb") as file:
        start = file.read(4)
    if name.endswith(R_OBJECTS):
        return "it is an object of R; write it as h5ad there, with its raw counts (zellkonverter or anndataR)"
    if start == b"PK\x03\x04":
        return "it is a zip archive; unpack it and name the folder or file that was in it"
    if start[:2] == b"\x1f\x8b":
        return "it is compressed as a whole; unpack it first (gunzip)"
    if name.endswith(TEXT):
        return "it is text; read it with anndata (`read_csv`, `read_mtx`) and `write_h5ad`"
    if cut := re.search(r"truncated file: eof = (\d+),.*stored_eof = (\d+)", reason):
        there, whole = map(int, cut.groups())
        return f"it is cut short, {there:,} of {whole:,} bytes are there; copy it again"
    return f"{reason}; is it a complete h5ad file?"


def what_folder_is(path: Path) -> str:
    """Of a folder that is no Zarr: what it is, and what to do."""
    held = sorted(p.name for p in path.iterdir())
    if any(name.startswith("matrix.mtx") for name in held):
        return "it is a folder of 10x matrices; read it with `scanpy.read_10x_mtx` and `write_h5ad`"
    return (
        "it is a folder, but no AnnData Zarr directory, which has a zarr.json or .zgroup at its top; it holds "
        f"{some(held) or 'nothing'}"
    )


def what_it_lacks(names: Collection[str], path: Path) -> str:
    """Of an HDF5 file or Zarr directory whose top is not that of cells: what it is, and what to do."""
    kind = "Zarr" if path.is_dir() else "HDF5"
    if "mod" in names:
        return f"{path.name} holds several modalities (MuData); name the one of gene expression: " + (
            "its folder within, such as mod/rna" if path.is_dir() else '`mudata.read(...)["rna"].write_h5ad(...)`'
        )
    if "tables" in names:
        return (
            f"{path.name} holds more than cells (SpatialData); name its table: the folder within, such as tables/table"
        )
    if {"row_attrs", "col_attrs"} <= set(names):
        return f"{path.name} is a loom file; read it with `scanpy.read_loom` and `write_h5ad`"
    if "matrix" in names:
        return f"{path.name} is a matrix as 10x writes it; read it with `scanpy.read_10x_h5` and `write_h5ad`"
    return f"{path} is {kind} but not AnnData: it lacks obs or var and holds {some(names) or 'nothing'}"
