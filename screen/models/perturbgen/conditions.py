"""Condition tokens: which id stands for a metadata value in front of a target row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import MISSING, TokenBank
from screen.cells.vocabulary import SPECIAL_IDS
from screen.errors import CellError, CheckpointError, some
from screen.models.perturbgen.network.sizes import CONDITION_SLOTS


@dataclass(frozen=True)
class Conditions:
    """id_CN[t]: (C, N) condition ids of each cell at time point t, one column per entry of cond_list.

    `all_ids` are the ids of every value the model knows: pooling leaves them all out.
    """

    id_CN: Mapping[int, NDArray[np.int64]]
    all_ids: tuple[int, ...] = ()


def read_conditions(
    bank: TokenBank, cond_list: Sequence[str], condition_dict: Mapping[str, Any] | None, n_tokens: int, pad: bool
) -> Conditions:
    """Condition ids of every cell.

    `condition_dict` {column: {value: id}} comes from the checkpoint. Without it values are numbered as upstream does: per
    column, in order of first appearance in source, then targets; the first id is n_tokens - 50 - number of values.
    `pad`: every condition is id 0 (upstream's pad_condition). Raises CellError for a value the model never saw.
    """
    if not cond_list:
        return Conditions({t: np.zeros((bank.n_cells, 0), dtype=np.int64) for t in bank.target_tps})
    table = _from_checkpoint(cond_list, condition_dict) if condition_dict else _number(bank, cond_list, n_tokens)
    all_ids = tuple(sorted(i for values in table.values() for i in values.values()))
    if all_ids[0] < len(SPECIAL_IDS) or all_ids[-1] >= n_tokens:
        raise CheckpointError(
            f"condition ids {all_ids[0]} to {all_ids[-1]} do not fit a model of {n_tokens} token rows"
        )
    ids = {t: np.stack([_lookup(bank, c, t, table[c]) for c in cond_list], axis=1) for t in bank.target_tps}
    if pad:
        ids = {t: np.zeros_like(id_CN) for t, id_CN in ids.items()}
    return Conditions(ids, all_ids)


def _from_checkpoint(cond_list: Sequence[str], condition_dict: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    if not isinstance(condition_dict, dict) or not all(isinstance(v, dict) and v for v in condition_dict.values()):
        raise CheckpointError(
            f"the checkpoint's condition_dict must be {{column: {{value: id}}}}; it is {condition_dict!r:.100}"
        )
    unknown = [c for c in cond_list if c not in condition_dict]
    if unknown:
        raise CheckpointError(
            f"cond_list names {some(unknown)}, but the checkpoint was trained with {some(condition_dict)}"
        )
    odd = [i for values in condition_dict.values() for i in values.values() if not isinstance(i, Integral)]
    if odd:
        raise CheckpointError(
            f"the checkpoint's condition_dict must hold whole numbers as ids; it holds {odd[0]!r:.60}"
        )
    table = {str(c): {str(v): int(i) for v, i in values.items()} for c, values in condition_dict.items()}
    ids = [i for values in table.values() for i in values.values()]
    if len(set(ids)) < len(ids):
        raise CheckpointError(f"the checkpoint's condition_dict gives one id to two values: {condition_dict!r:.200}")
    return table


def _number(bank: TokenBank, cond_list: Sequence[str], n_tokens: int) -> dict[str, dict[str, int]]:
    values = {column: bank.values_in_order(column) for column in cond_list}
    first = n_tokens - CONDITION_SLOTS - sum(map(len, values.values()))
    highest = max(int(bank.states[t].tokens.token_T.max(initial=0)) for t in bank.target_tps)
    slip = None if bank.unfiltered is None else bank.unfiltered.vocab_size
    if first <= highest and first != slip:
        listed = "; ".join(f"{c}: {some(v)}" for c, v in values.items())
        raise CheckpointError(
            f"the checkpoint has no room for the condition values of these cells ({listed}): their ids would start at {first}, "
            f"but gene ids reach {highest}; it was trained with fewer values, or with none: remove cond_list then"
        )
    numbered: dict[str, dict[str, int]] = {}
    for column, names in values.items():
        numbered[column] = {v: first + i for i, v in enumerate(names)}
        first += len(names)
    return numbered


def _lookup(bank: TokenBank, column: str, time: int, table: Mapping[str, int]) -> NDArray[np.int64]:
    values = [str(v) for v in bank.obs_value(column, time)]
    if MISSING not in table:
        # as upstream names it
        values = ["nan" if v == MISSING else v for v in values]
    unknown = sorted({v for v in values if v not in table})
    if unknown:
        raise CellError(
            f'"{column}" is {some(unknown)} in some cells, which the model never saw; it knows {some(table, 20)}'
        )
    return np.array([table[v] for v in values], dtype=np.int64)


def check_levels(bank: TokenBank, keys: Sequence[str], levels: Any, n_levels: int, time: int) -> None:
    """Dispersion levels: the cells' values of `keys`, joined by '_', must be levels the checkpoint was trained with."""
    if not keys:
        return
    if isinstance(levels, np.ndarray):
        levels = levels.tolist()
    if levels is not None and not isinstance(levels, list | tuple):
        raise CheckpointError(f"conditions_combined must be a list of levels; it is {levels!r:.100}")
    columns = [["nan" if v == MISSING else str(v) for v in bank.obs_value(k, time)] for k in keys]
    joined = ["_".join(parts) for parts in zip(*columns, strict=True)]
    known = {str(v) for v in levels} if levels else set()
    unknown = sorted(set(joined) - known) if known else []
    if unknown or (n_levels and len(set(joined)) > n_levels):
        raise CellError(
            f"condition_keys {list(keys)} give the levels {some(unknown or sorted(set(joined)))}, but the checkpoint has "
            f"dispersions for {some(sorted(known), 20) if known else n_levels} level(s)"
        )
