"""write: a commented configuration for a file of cells, as YAML."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from screen.errors import some
from screen.starting.look import Looked

FIRST_CELLS = 300
"""Pairings of a first screen: minutes, not hours."""
SHOWN = 6


def configuration(looked: Looked, out: Path, checkpoint: Path | None, vocabulary: Path | None) -> str:
    """The YAML of a screen of these cells, to lie at `out`: what is found is filled in, what cannot be known says TODO."""
    return "\n".join(_lines(looked, out, checkpoint, vocabulary)) + "\n"


def _lines(looked: Looked, out: Path, checkpoint: Path | None, vocabulary: Path | None) -> Iterator[str]:
    yield f"# A screen of {looked.path.name}: columns and values are those of the file; TODO is what it does not say."
    yield "# `perturbscreen plan` says what it would do and cost, docs/configuration.md what every key means."
    yield "model:"
    todo = "TODO: weights trained on such cells (.ckpt or .bin)"
    yield f"  checkpoint: {_path(checkpoint, out, 'model.ckpt')}{'' if checkpoint else f' # {todo}'}"
    todo = "TODO: its genes (ensembl_id, symbol, token_id, row_id, median), or upstream's pickles"
    yield f"  vocabulary: {_path(vocabulary, out, 'genes.tsv')}{'' if vocabulary else f' # {todo}'}"
    yield ""
    yield "cells:"
    yield f"  h5ad: {_path(looked.path, out)} # {looked.n_cells:,} cells"
    yield from _counts(looked)
    yield from _states(looked)
    yield from _strata(looked)
    if looked.n_cells > FIRST_CELLS:
        yield f"  max_cells: {FIRST_CELLS} # drawn at random, for a first look; remove it to screen all"
    yield "  # special_tokens: false # if the model was trained without <cls> and <eos>"
    yield ""
    yield "library:"
    yield "  genes: all # or a list, or a file of names; a short list is judged beside random genes (`null`)"
    yield "  modes: [mask, overexpress]"
    if looked.state is not None:
        yield ""
        yield "predict:"
        yield f"  pred_tps: [{', '.join(str(t + 1) for t in range(len(looked.targets[:9])))}]"
    if looked.cell_type is not None:
        yield ""
        yield "output:"
        yield f"  strata: [{_word(looked.cell_type)}] # the tables rank and test within each"
    if looked.donor is not None:
        yield ""
        yield "deg:"
        yield f"  replicate: {_word(looked.donor)} # {_shown(looked.columns[looked.donor])}: tests are over their means"
    if others := [c for c in looked.columns if c not in (looked.state, looked.cell_type, looked.donor)]:
        yield ""
        yield f"# other columns: {some(map(_one_line, others), 20)}"


def _counts(looked: Looked) -> Iterator[str]:
    if not looked.counts:
        yield "  # layer: TODO: neither X nor raw nor a layer looks like raw counts; `counts: fractional` takes other values of 0 or more"
    elif looked.counts[0] != "X":
        yield f"  layer: {_word(looked.counts[0])} # raw counts; X holds none"
    else:
        yield f"  # layer: X # raw counts were found in {some(map(_one_line, looked.counts))}"


def _states(looked: Looked) -> Iterator[str]:
    if looked.state is None:
        yield "  # no column looks like before and after; if there is one:"
        yield "  # state_column: condition"
        yield "  # source: control # the state before, which is edited"
        yield "  # targets: {1: stimulated} # those after, by time point; then also predict: {pred_tps: [1]}"
        return
    yield f"  state_column: {_word(looked.state)} # {_shown(looked.columns[looked.state])}"
    yield f"  source: {_word(str(looked.source))} # the state before, which is edited"
    targets = ", ".join(f"{t}: {_word(v)}" for t, v in enumerate(looked.targets[:9], start=1))
    yield f"  targets: {{{targets}}} # those after, by time point"


def _strata(looked: Looked) -> Iterator[str]:
    if looked.cell_type is None:
        return
    levels = looked.columns[looked.cell_type]
    if looked.state is not None:
        yield f"  strata: [{_word(looked.cell_type)}] # cells are paired within each: {_shown(levels)}"
    first = _word(next(iter(levels)))
    yield f"  # filters: {{{_word(looked.cell_type)}: [{first}]}} # screens these cells alone"


def _path(path: Path | None, out: Path, otherwise: str = "") -> str:
    """As seen from the YAML."""
    return _word(otherwise if path is None else os.path.relpath(path.resolve(), out.resolve().parent))


def _word(text: str) -> str:
    """A scalar, in quotes where YAML would read something else."""
    return yaml.safe_dump([text], default_flow_style=True, allow_unicode=True, width=10**6).strip()[1:-1]


def _shown(levels: Mapping[str, int]) -> str:
    """'control 2,000, stimulated 1,900 (and 3 more)'."""
    return some((f"{_one_line(value)} {n:,}" for value, n in levels.items()), SHOWN)


def _one_line(text: str) -> str:
    """For a comment: what would end it does not."""
    return " ".join(text.split())
