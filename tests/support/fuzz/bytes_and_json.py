"""Damage that any file can have: bytes that are others, text and JSON with other values. Each function says what it did."""

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

NUMBERS = (0, 1, -1, 2, 7, 2**31 - 1, 2**31, -(2**31), 2**32 + 3, 10**8, 10**9, 10**18, 2**63 - 1, 2**64 + 1, 10**40)
VALUES: tuple[Any, ...] = (
    *NUMBERS,
    0.5,
    -2.5,
    1e300,
    float("nan"),
    None,
    True,
    "",
    "x",
    "é\u0000",
    [],
    {},
    [[]],
    [-1, 10**12],
)
TEXTS = (
    "",
    "-1",
    "0",
    "99999999999999999999",
    "1000000000",
    "nan",
    "inf",
    "1e400",
    "x",
    "2.5",
    "\u0000",
    "é" * 40,
    "\t",
    '"',
    "a\nb",
)


def other_bytes(path: Path, rng: random.Random) -> str:
    """Flips bits, overwrites runs, cuts, repeats or splices numbers in."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "flip", "flips", "run", "cut", "number", "number", "double", "grow"])
    at = rng.randrange(len(content)) if content else 0
    if kind in ("flip", "flips") and content:
        for _ in range(1 if kind == "flip" else rng.randint(2, 20)):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "run":
        n = rng.randint(1, 64)
        content[at : at + n] = rng.choice([b"\0" * n, b"\xff" * n, rng.randbytes(n)])
    elif kind == "cut":
        del content[at:]
    elif kind == "number":
        width = rng.choice([2, 4, 8])
        at -= at % width
        value = rng.choice(NUMBERS) % (1 << 8 * width)
        content[at : at + width] = value.to_bytes(width, rng.choice(["little", "little", "big"]))
    elif kind == "double":
        content[at:at] = content[at : at + rng.randint(1, 200)]
    else:
        content += rng.randbytes(rng.randint(1, 50))
    path.write_bytes(content)
    return f"{path.name}: {kind} at {at}"


def other_json(path: Path, rng: random.Random) -> str:
    """Replaces or removes one value of a JSON file, wherever it stands."""
    root = json.loads(path.read_text())
    done = other_value(root, rng)
    path.write_text(json.dumps(root))
    return f"{path.name}: {done}"


def other_value(root: Any, rng: random.Random) -> str:
    """Replaces or removes one value in nested dicts and lists."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            places.append((node, key))
            if isinstance(value, dict | list):
                walk(value)

    walk(root)
    node, key = rng.choice(places)
    if rng.random() < 0.15:
        del node[key]
        return f"{key!r} removed"
    before, node[key] = node[key], rng.choice(VALUES)
    if isinstance(before, str) and rng.random() < 0.3:
        node[key] = rng.choice(
            ["float64", "int8", "string", "object", "../../x", "gzip", "regular", before[:-1], before + "0"]
        )
    return f"{key!r} is {node[key]!r:.60}, was {before!r:.60}"


def other_text(path: Path, rng: random.Random, delimiter: str = "\t") -> str:
    """Replaces a value of a table in text, or repeats, removes or shortens a line."""
    rows = list(csv.reader(io.StringIO(path.read_text()), delimiter=delimiter))
    row = rng.randrange(len(rows))
    kind = rng.choice(["value", "value", "value", "copied", "line twice", "no line", "short", "long"])
    column = rng.randrange(max(len(rows[row]), 1))
    if kind in ("value", "copied") and rows[row]:
        rows[row][column] = rng.choice(TEXTS) if kind == "value" else rng.choice(rng.choice(rows) or [""])
    elif kind == "line twice":
        rows.insert(row, rows[row])
    elif kind == "no line":
        del rows[row]
    elif kind == "short":
        del rows[row][column:]
    else:
        rows[row] = [*rows[row], "more"]
    path.write_text("\n".join(delimiter.join(r) for r in rows) + "\n")
    return f"{path.name}: {kind} at line {row}, column {column}"
