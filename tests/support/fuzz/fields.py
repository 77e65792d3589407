"""Damage to the fields of a format: other numbers, lengths, types and attributes in files that are whole as files."""

import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import torch
import zarr

from screen.files import checksum
from screen.store.marker import chunk_of, sealed, unsealed
from tests.support.fuzz.bytes_and_json import NUMBERS, VALUES, other_value

ENCODINGS = (
    "csr_matrix",
    "csc_matrix",
    "array",
    "dataframe",
    "categorical",
    "null",
    "dict",
    "string-array",
    "raw",
    "no such",
)


def other_array(values: np.ndarray[Any, Any], rng: random.Random) -> tuple[np.ndarray[Any, Any], str]:
    """An array with another number somewhere, another length, dtype or number of dimensions."""
    found, kind = values.copy(), rng.choice(["number", "number", "number", "shorter", "longer", "dtype", "dims", "all"])
    if kind in ("number", "all") and found.size and found.dtype.kind in "biuf":
        at = rng.randrange(found.size) if kind == "number" else slice(None)
        number = rng.choice([*NUMBERS[:-2], 0.5, float("nan"), float("inf"), *values.shape, values.size])
        with np.errstate(all="ignore"):
            found.reshape(-1)[at] = np.array([number]).astype(found.dtype)[0] if found.dtype.kind != "b" else True
        return found, f"[{at}] is {number}"
    if kind == "shorter":
        return found[: rng.randrange(len(found) + 1)], "shorter"
    if kind == "longer":
        return np.concatenate([found, found[-3:]]), "longer"
    if kind == "dims":
        return found.reshape(1, *found.shape), "one more dimension"
    dtype = rng.choice(["int8", "uint64", "float16", "float64", "S3", "bool", "int64"])
    try:
        return found.astype(dtype), f"as {dtype}"
    except (ValueError, TypeError):
        return found[:0], "emptied"


def other_h5ad(path: Path, rng: random.Random) -> str:
    """Another value, length, type or size of a data set, or another attribute."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        arrays = [n for n in names if isinstance(file[n], h5py.Dataset)]
        if rng.random() < 0.3:
            return f"{path.name}: {_other_attribute(file, rng.choice(['/', *names]), rng)}"
        likely = [n for n in arrays if n.split("/")[-1] in ("indptr", "indices", "data", "codes") or n == "X"]
        name = rng.choice(likely if likely and rng.random() < 0.6 else arrays)
        before, attributes = file[name][()], dict(file[name].attrs)
        if rng.random() < 0.1:
            del file[name]
            return f"{path.name}: {name} removed"
        dtype = file[name].dtype
        del file[name]
        if rng.random() < 0.15:
            shape = rng.choice([(10**12,), (10**9,), (10**6, 10**6), (2**40, 1)])
            made = file.create_dataset(name, shape, dtype, chunks=tuple(min(n, 1000) for n in shape))
            done = f"says it is {shape}"
        elif np.ndim(before) == 0 or before.dtype.kind == "O":
            made, done = file.create_dataset(name, data=rng.choice([3, 0.5, b"x"])), "one number or text"
        else:
            after, done = other_array(before, rng)
            made = file.create_dataset(name, data=after)
        for key, value in attributes.items():
            made.attrs[key] = value
    return f"{path.name}: {name} {done}"


def _other_attribute(file: Any, name: str, rng: random.Random) -> str:
    attributes = file[name].attrs
    key = rng.choice([*attributes, "encoding-type", "shape"])
    value: Any = rng.choice([*ENCODINGS, 3, [10**12, 10**12], [-1, 5], [3], "", [0, 0], b"x"])
    if rng.random() < 0.2 and key in attributes:
        del attributes[key]
        return f"attribute {key} of {name} removed"
    attributes[key] = value
    return f"attribute {key} of {name} is {value!r}"


def other_arrow(folder: Path, rng: random.Random) -> str:
    """A dataset's table with other ids, or whose offsets lie."""
    path = rng.choice(sorted(folder.glob("*.arrow")))
    with pa.memory_map(str(path)) as handle:
        table = pa.ipc.open_stream(handle).read_all().combine_chunks()
    name = rng.choice(["input_ids", "input_ids", "input_ids", "cell_pairing_index", *table.column_names])
    column = table[name].combine_chunks()
    if name == "input_ids":
        offset, flat = column.offsets.to_numpy().copy(), column.values.to_numpy().astype(np.int64).copy()
        target, what = (offset, "offset") if rng.random() < 0.5 else (flat, "id")
        at, number = rng.randrange(len(target)), rng.choice([n for n in NUMBERS if -(2**63) <= n < 2**63])
        target[at] = np.array([number]).astype(target.dtype)[0]
        buffers = [None, pa.py_buffer(offset.astype(np.int32)), None, pa.py_buffer(flat)]
        made = pa.Array.from_buffers(pa.list_(pa.int64()), len(column), buffers[:2], children=[pa.array(flat)])
        done = f"{what} {at} is {number}"
    else:
        made = pa.array(rng.choice([[None], [2.5], ["x"], [-1], [2**63 - 1], [[1]]]) * len(column))
        done = f"as {made.type}"
    table = table.set_column(table.column_names.index(name), name, made)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return f"{folder.name}: {name} {done}"


def other_pickle(path: Path, rng: random.Random) -> str:
    """A map with another key or value."""
    content = pickle.loads(path.read_bytes())  # noqa: S301 (our own)
    key, value = rng.choice(list(content)), rng.choice([v for v in VALUES if not isinstance(v, dict)])
    if rng.random() < 0.5:
        content[key] = value
    elif not isinstance(value, list):
        content[value] = content.pop(key)
    path.write_bytes(pickle.dumps(content, protocol=rng.choice([2, 4, 5])))
    return f"{path.name}: {key!r} and {value!r}"


TENSORS: tuple[Callable[[torch.Tensor], Any], ...] = (
    lambda t: t[:0], lambda t: t[None], lambda t: t.reshape(-1), lambda t: t.double(), lambda t: t.to(torch.int64),
    lambda t: t.to(torch.complex64), lambda t: t.flatten()[:1].expand(10**6, 10**6), lambda t: t * float("nan"), lambda t: 3,
    lambda t: t.flatten()[:1].expand(t.shape), lambda t: torch.zeros(()), lambda t: t.bool(), lambda t: t.to(torch.bfloat16),
)  # fmt: skip


def other_checkpoint(path: Path, rng: random.Random) -> str:
    """Other tensors or hyper-parameters; or another number in the pickle of a file whose checksums are right."""
    if rng.random() < 0.4:
        return _other_torch_pickle(path, rng)
    content = torch.load(path, weights_only=False)
    state = content["state_dict"]
    if "hyper_parameters" in content and rng.random() < 0.3:
        return f"{path.name}: {other_value(content['hyper_parameters'], rng)}" + _saved(content, path)
    name, number = rng.choice(list(state)), rng.randrange(len(TENSORS))
    if rng.random() < 0.2:
        state[rng.choice(["decoder_block.x.y", name + ".9", name.replace("0", "7"), ""])] = state.pop(name)
        return f"{path.name}: {name} renamed" + _saved(content, path)
    state[name] = TENSORS[number](state[name])
    return f"{path.name}: {name} by change {number}" + _saved(content, path)


def _saved(content: Any, path: Path) -> str:
    torch.save(content, path)
    return ""


def _other_torch_pickle(path: Path, rng: random.Random) -> str:
    with zipfile.ZipFile(path) as archive:
        parts = {i.filename: archive.read(i) for i in archive.infolist()}
    name = next(n for n in parts if n.endswith("data.pkl"))
    content = bytearray(parts[name])
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(content))
        content[at] = rng.choice([0, 1, 255, 127, content[at] ^ 1, content[at] + 1 & 255])
    parts[name] = bytes(content)
    if rng.random() < 0.3:
        short = rng.choice([n for n in parts if "/data/" in n])
        parts[short] = parts[short][: rng.randrange(len(parts[short]) + 1)]
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for part, values in parts.items():
            archive.writestr(part, values)
    path.write_bytes(made.getvalue())
    return f"{path.name}: other bytes in {name}"


def other_zarr(store: Path, rng: random.Random) -> str:
    """Another number in an array of a store, with a checksum that is right all the same; or a marker, sealed again."""
    root = zarr.open_group(store, mode="r+", use_consolidated=False)
    arrays = {n: a for n, a in root.members(max_depth=None) if isinstance(a, zarr.Array) and a.size}
    if rng.random() < 0.25:
        marker = rng.choice(sorted(store.rglob("commits/c.*")))
        content = unsealed(marker.read_bytes()[8:].decode())
        done = other_value(content, rng)
        marker.write_bytes(chunk_of(sealed(content)))
        return f"{marker.relative_to(store)}: {done}"
    likely = [n for n in arrays if "items/" in n or "summaries" in n or "true_counts" in n or "cell_index" in n]
    name = rng.choice(likely if rng.random() < 0.6 else sorted(arrays))
    values = arrays[name][...]
    if values.dtype.kind in "biuf":
        values, done = values.copy(), "number"
        with np.errstate(all="ignore"):
            number = rng.choice([*NUMBERS[:-2], values.size, float("nan")])
            values.reshape(-1)[rng.randrange(values.size)] = np.array([number]).astype(values.dtype)[0]
        done = f"holds {number}"
    else:
        values, done = values.copy(), "holds another text"
        values[rng.randrange(len(values))] = rng.choice(["", "x", "src:mask:nobody", "é\u0001"])
    arrays[name][...] = values
    _seal(store)
    return f"{name} {done}"


def _seal(store: Path) -> None:
    """Fixed files get the checksums they have now."""
    for metadata in [store / "zarr.json", *store.glob("library/*/zarr.json")]:
        content = json.loads(metadata.read_text())
        files = content["attributes"].get("files", {})
        content["attributes"]["files"] = {
            n: checksum(metadata.parent / n) for n in files if (metadata.parent / n).is_file()
        }
        content.pop("consolidated_metadata", None)
        metadata.write_text(json.dumps(content))
