"""Chains: which decoder passes a prediction needs, and which of them an edit can change.

A chain is a tuple of time points. Its last one is decoded; the encoded source and every proper prefix of the chain are
its context. The empty chain stands for the encoded source. Without context mode chains have one time point.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

SOURCE = 0
Chain = tuple[int, ...]
ENCODED: Chain = ()
REUSE = frozenset({"first", "context", "unchanged", "few"})
"""What can be taken over from a control: first self-attention, keys and values of context, whole predictions; of the first
self-attention of an edited row, what the rows get that the edit does not touch."""


def chain_of(time: int, context_tps: Sequence[int], context_mode: bool) -> Chain:
    """What is decoded, in order, to predict one time point: every other context time point ascending, then itself."""
    return (*(t for t in sorted(context_tps) if t != time), time) if context_mode else (time,)


def context_of(chain: Chain) -> list[Chain]:
    """The pieces of a chain's context, in order: the encoded source and every proper prefix."""
    return [chain[:n] for n in range(len(chain))]


def is_changed(chain: Chain, edited: Collection[int]) -> bool:
    """Whether edits of these states (SOURCE, or time points) can reach the output of a chain."""
    return SOURCE in edited or any(t in edited for t in chain)


@dataclass(frozen=True)
class Needs:
    """What an edit needs: chains to decode anew, and what it takes over from the control.

    decoded          chains in the order they are decoded
    context          pieces whose keys and values are the control's
    first            time points whose first self-attention is the control's
    unchanged        predicted chains that are the control's altogether
    """

    decoded: tuple[Chain, ...]
    context: frozenset[Chain]
    first: frozenset[int]
    unchanged: frozenset[Chain]


def needs(predicted: Iterable[Chain], edited: Collection[int], reuse: Collection[str] = REUSE) -> Needs:
    """What edits of these states need to predict these chains, if only what `reuse` names is taken over."""
    predicted = list(predicted)
    decoded: dict[Chain, None] = {}
    context: set[Chain] = set()

    def visit(chain: Chain) -> None:
        for piece in context_of(chain):
            if "context" in reuse and not is_changed(piece, edited):
                context.add(piece)
            elif piece != ENCODED and piece not in decoded:
                visit(piece)
        decoded[chain] = None

    unchanged = {c for c in predicted if "unchanged" in reuse and not is_changed(c, edited)}
    for chain in predicted:
        if chain not in unchanged and chain not in decoded:
            visit(chain)
    first = frozenset(c[-1] for c in decoded if "first" in reuse and c[-1] not in edited)
    return Needs(tuple(decoded), frozenset(context), first, frozenset(unchanged))
