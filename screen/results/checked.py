"""What `perturbscreen check` found, in plain words and as a table of 80 columns."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]
WIDTH = 80
NAMES = {
    "model": "the model",
    "type_mean_of_log": "the mean of the type's other cells",
    "type_mean": "the same of counts, logarithm after",
    "source": "the source copied",
}
"""What correlates with the cells observed."""
FEWEST_RANKED = 3
STILL, WIDE = 0.01, 0.01
"""Log units by which a prediction moves that are no movement; a gain in r that ought not to be overlooked."""
EMPTY = "this model's predictions do not depend on which cell of a type they start from: source knock-outs are close to empty."


def described_check(check: Figures) -> str:
    """One paragraph: how good the model is on these cells, what a cell's own source adds, how stable its effects are."""
    first, *others = [*_accuracy(check), *_source(check), *_stability(check), *_agreement(check)]
    return " ".join([_cells(check), first, *map(_capital, others)])


def table_of_check(check: Figures) -> list[str]:
    """All figures, a line each, none longer than WIDTH."""
    return [line[:WIDTH] for line in (*_lines_of_cells(check), *_lines_of_edits(check))]


def _cells(check: Figures) -> str:
    cells, pairing = check["cells"], check["cells"]["pairing"]
    made = {
        "file": f", paired by {pairing['name']}",
        "drawn": f", paired at random (pairing: {pairing['name']})",
        "rows": ", paired row by row",
        "none": "",
    }
    return f"On {cells['n']:,} cell{_s(cells['n'])}{_of_types(cells)}{made[pairing['kind']]}:"


def _of_types(cells: Figures) -> str:
    if not cells["grouped_by"]:
        return " of no named type (output.strata)"
    n = len(cells["strata"])
    by = " and ".join(cells["grouped_by"])
    return f" of {n} types ({by})" if n > 1 else f" of 1 type ({by}: {next(iter(cells['strata']))})"


def _accuracy(check: Figures) -> Iterator[str]:
    if check["cells"]["pairing"]["kind"] == "none":
        yield (
            "this model reads out the source itself, so no later state is there to hold its predictions against, and no source to "
            "exchange; only how stable its effects are can be judged."
        )
        return
    if not check["prediction"]:
        yield (
            "nothing that was observed can be held against these predictions (embeddings alone, or cells without counts), so "
            "how accurate they are cannot be judged."
        )
    for one in check["prediction"]:
        yield _of_time(one, check)
        if one["nll_per_gene"]:
            model, mean = one["nll_per_gene"]["model"], one["nll_per_gene"]["type_mean"]
            yield (
                f"the observed counts cost {_plain(model)} nats a gene under the model, {_plain(mean)} around the type's mean "
                "(less is better)."
            )
        elif check["scale"] == "log1p_cp10k":
            yield "the model gives no likelihood of counts here (a dispersion for each group of cells, or no counts)."


def _of_time(one: Figures, check: Figures) -> str:
    r, best = one["r"], one["best_baseline"]
    when = f"at time point {one['time']} " if len(check["times"]) > 1 else ""
    text = f"{when}predictions correlate with the cells observed at r {_plain(r['model'])}"
    if best is None:
        return f"{text} over {check['n_genes']:,} genes; there is nothing to compare that with."
    distance = one["minus_best_baseline"]
    is_known = distance is not None and distance["ci95"] is not None
    verb = "beats" if is_known and distance["ci95"][0] > 0 else "does not beat"
    shown = (
        ", although it is shown the order of the target's own genes"
        if verb != "beats" and check["shows_target"]
        else ""
    )
    text += f" over {check['n_genes']:,} genes, the {NAMES[best].removeprefix('the ')} at {_plain(r[best])}"
    text += f": the model {verb} the best baseline ({_signed(distance)}){shown}"
    others = [n for n in r if n not in ("model", best) and r[n] is not None]
    rest = "; ".join(f"{NAMES[n]}: {r[n]['mean']:.3f}" for n in others)
    return f"{text} ({rest})." if rest else f"{text}."


def _source(check: Figures) -> Iterator[str]:
    for one in check["source"]:
        when = f"at time point {one['time']} a" if len(check["times"]) > 1 else "a"
        if one["verdict"] == "ignored":
            yield f"{when} prediction is the same whichever cell's source it starts from. {_capital(EMPTY)}"
        elif one["verdict"] == "unknown":
            yield _unknown(one, when)
        else:
            yield _gain(one, check, when)


def _unknown(one: Figures, when: str) -> str:
    if one["embedding_shift"] is None:
        return f"{when} cell's own source cannot be held against another's: no type has two cells."
    return (
        f"{when} prediction moves by {_moved(one)} when the source is another cell's of its type; whether that brings it nearer to "
        "the cell observed cannot be judged."
    )


def _gain(one: Figures, check: Figures, when: str) -> str:
    pairing, gain, random = check["cells"]["pairing"], _signed(one["gain"]), one["gain_of_random"]
    beside = f"; on random pairs of the same cells {_nothing(random)}" if random is not None else ""
    if one["verdict"] == "gain":
        return (
            f"{when} cell's own source adds {gain} to r over another cell's of its type{beside}; exchanging it moves a "
            f"prediction by {_moved(one)}."
        )
    adds = f"{when} cell's own source adds nothing ({gain}) to r over another cell's of its type"
    moves = f"exchanging it moves a prediction by {_moved(one)}"
    if pairing["kind"] == "drawn":
        return (
            f"{adds}, as is to be expected of pairs drawn at random (pairing: {pairing['name']}), whatever the model; {moves}. "
            "Whether it learned anything true of a cell's own source, pairs in a file would show."
        )
    high = one["gain"]["ci95"][1]
    unsure = f" (a gain of up to {high:.3f} is not excluded)" if high > WIDE else ""
    is_still = one["change"] is not None and one["change"]["mean"] < STILL
    verdict = EMPTY if is_still else f"judged by the cells observed, {EMPTY}"
    return f"{adds}{beside}; {moves}. {_capital(verdict).removesuffix('.')}{unsure}."


def _nothing(random: Figures) -> str:
    interval = random["ci95"]
    is_nothing = interval is not None and interval[0] <= 0 <= interval[1]
    return f"nothing ({_signed(random)})" if is_nothing else _signed(random)


def _moved(one: Figures) -> str:
    change = one["change"]
    if change is not None:
        return f"{change['mean']:.2g} log units (root mean square)"
    return f"{one['embedding_shift']['mean']:.2g} (1 - cosine)"


def _stability(check: Figures) -> Iterator[str]:
    effects = check["effects"]
    if not effects["stability"]:
        yield f"no edit has {effects['fewest']} of the {effects['n_cells']} cells tried in each half: its effects were not judged."
        return
    said = "; ".join(f"for {_kind(s, check)} {_judged(s)}" for s in effects["stability"])
    yield f"between halves of {effects['n_cells']} cells the ranking of edits agrees at Spearman {said}."


def _agreement(check: Figures) -> Iterator[str]:
    for a in check["effects"]["agreement"]:
        yield f"of the ranking by {_kind(a, check)} the models {a['one']} and {a['other']} agree at Spearman {_judged(a)}."
    if check["cells"]["pairing"]["kind"] != "none":
        yield "whether the model was trained on these cells, a check cannot know."


def _judged(one: Figures) -> str:
    """'0.72, after rank and cells 0.69 (60 edits)'."""
    n = one["n_edits"]
    if one["rho"] is None:
        return f"- (too few: {n})" if n < FEWEST_RANKED else f"- (all {n} edits change nothing, or alike)"
    cells = f", {one['n_cells']:.0f} cells a half" if "n_cells" in one else ""
    return f"{_rho(one['rho'])}, after rank and cells {_rho(one['rho_after'])} ({n} edits{cells})"


def _kind(one: Figures, check: Figures) -> str:
    site = f"{one['site']}:" if one["site"] != "src" else ""
    when = f" t{one['time']}" if len(check["times"]) > 1 else ""
    return f"{site}{one['mode']}{when}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _s(n: int) -> str:
    return "" if n == 1 else "s"


def _rho(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _plain(value: Figures | None) -> str:
    if value is None:
        return "-"
    return f"{value['mean']:.3f}{_interval(value)}"


def _signed(value: Figures | None) -> str:
    """'+0.008 [0.007, 0.009]'."""
    return "-" if value is None else f"{value['mean']:+.3f}{_interval(value)}"


def _interval(value: Figures) -> str:
    return "" if value["ci95"] is None else f" [{value['ci95'][0]:.3f}, {value['ci95'][1]:.3f}]"


def _lines_of_cells(check: Figures) -> Iterator[str]:
    if check["prediction"] or check["source"]:
        yield _row("cells", "mean", "95 % interval", "n")
    for one in check["prediction"]:
        yield f"r with the cells observed, time point {one['time']}"
        for name, value in one["r"].items():
            yield _line(NAMES[name], value)
        yield _line("the model minus the best of the others", one["minus_best_baseline"])
        if one["nll_per_gene"]:
            yield "negative log-likelihood per gene"
            yield _line("the model", one["nll_per_gene"]["model"])
            yield _line("around the type's mean", one["nll_per_gene"]["type_mean"])
    for one in check["source"]:
        yield f"a cell's own source over another's of its type, time point {one['time']}"
        for name, key in (("gain in r", "gain"), ("the same between random pairs", "gain_of_random")):
            yield from [_line(name, one[key])] if one[key] is not None else []
        for name, key in (
            ("moves predictions, log units", "change"),
            ("moves embeddings, 1 - cosine", "embedding_shift"),
        ):
            yield from [_line(name, one[key])] if one[key] is not None else []


def _line(name: str, value: Figures | None) -> str:
    if value is None:
        return _row(f"  {name}", "-", "-", "0")
    low_high = "-" if value["ci95"] is None else f"{value['ci95'][0]:.4f} to {value['ci95'][1]:.4f}"
    return _row(f"  {name}", f"{value['mean']:.4f}", low_high, f"{value['n']:,}")


def _row(name: str, mean: str, interval: str, n: str) -> str:
    return f"{name:<45.45} {mean:>8} {interval:>18} {n:>6}"


def _lines_of_edits(check: Figures) -> Iterator[str]:
    effects = check["effects"]
    head = f"{'edits':>6} {'cosine':>7} {'of others':>9} {'Spearman':>8} {'after':>6}"
    yield from [f"{'effects':<39} {head}"] if effects["stability"] else []
    for s in effects["stability"]:
        yield _effect(f"  {_kind(s, check)}, halves of the cells", s)
    for a in effects["agreement"]:
        yield _effect(f"  {_kind(a, check)}, {a['one']}, {a['other']}", a)


def _effect(name: str, one: Figures) -> str:
    cosine, other, rho, after = (_rho(one[key]) for key in ("cosine", "other_cosine", "rho", "rho_after"))
    return f"{name:<39.39} {one['n_edits']:>6} {cosine:>7} {other:>9} {rho:>8} {after:>6}"


def wrapped(text: str) -> Sequence[str]:
    """A paragraph in lines of WIDTH."""
    import textwrap

    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
