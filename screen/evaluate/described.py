"""What an evaluation says: a plain sentence first, then tables of at most 80 columns."""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from screen.errors import some
from screen.evaluate.profile_level import METRICS, PREDICTORS, WARNED
from screen.evaluate.screen_level import COVARIATES

WIDTH = 80
NAMES = {
    "specific_strength": "specific strength", "null_z": "null z", "rank_position": "rank position", "n_cells": "cells screened",
    "n_real_cells": "real cells",
}  # fmt: skip
ALONE = {
    "expression": "mean expression", "detection": "detection", "rank_position": "rank position",
    "n_cells": "the number of cells screened", "n_real_cells": "the number of real cells",
}  # fmt: skip
MAIN = "energy_distance"


def described_evaluation(
    screen: pl.DataFrame, profiles: pl.DataFrame, expected: pl.DataFrame, facts: Mapping[str, Any]
) -> list[str]:
    """Lines."""
    lines: list[str] = []
    for comparison in facts["comparisons"]:
        lines += _comparison(screen, profiles, comparison, facts)
    for note in facts["notes"]:
        lines += _wrapped(f"note: {note}")
    if not expected.is_empty():
        lines += [*([""] if lines else []), *_expected(expected)]
    return lines


def _comparison(
    screen: pl.DataFrame, profiles: pl.DataFrame, comparison: Mapping[str, Any], facts: Mapping[str, Any]
) -> Iterator[str]:
    stratum = comparison["stratum"]
    table, profile = screen.filter(stratum=stratum), profiles.filter(stratum=stratum)
    for paragraph in _paragraphs(screen, comparison, facts):
        yield from _wrapped(paragraph)
    yield ""
    yield "Real effect: energy distance to the controls"
    yield from _screen_lines(table.filter(effect=MAIN))
    yield ""
    yield f"Real effect: genes that change, fdr < {facts['max_fdr']}; more real cells, more of them"
    yield from _screen_lines(table.filter(effect="n_deg"))
    if not profile.is_empty():
        yield ""
        yield "Profiles: means over perturbations, their own genes left out"
        yield from _profile_lines(profile)
    yield ""


def paragraphs(screen: pl.DataFrame, facts: Mapping[str, Any]) -> list[list[str]]:
    """Of every comparison: a sentence on whether strength says more than the obvious, and what matched."""
    return [_paragraphs(screen, comparison, facts) for comparison in facts["comparisons"]]


def _paragraphs(screen: pl.DataFrame, comparison: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    stratum = comparison["stratum"]
    where = f"In {stratum}: " if facts["celltype"] is not None else ""
    return [where + verdict(screen.filter(stratum=stratum, effect=MAIN)), _matched(comparison, facts)]


def verdict(table: pl.DataFrame) -> str:
    """One sentence about one real effect: strength, the number of cells, the best of what needs no model."""
    by = {row["score"]: row for row in table.iter_rows(named=True)}
    ours = by.get("strength")
    if ours is None or ours["spearman"] is None:
        n = 0 if ours is None else ours["n"]
        return f"{n} perturbations can be compared: too few to say anything of the ranking."
    said = (
        f"Strength ranks the real effects of {ours['n']:,} perturbations with Spearman {ours['spearman']:.2f} "
        f"[{ours['low']:.2f}, {ours['high']:.2f}]; {ALONE['n_cells']} alone does {_number(by['n_cells']['spearman'])}"
    )
    known = [by[n] for n in COVARIATES if by[n]["spearman"] is not None]
    if not known:
        return f"{said}."
    best = max(known, key=lambda row: row["spearman"])
    is_same = best["score"] == "n_cells"
    said += ", the best of what needs no model" if is_same else ""
    said += "" if is_same else f", {ALONE[best['score']]} (the best of what needs no model) {best['spearman']:.2f}"
    if ours["gain"] is None:
        return f"{said}."
    gain = f"{ours['gain']:+.2f} [{ours['gain_low']:+.2f}, {ours['gain_high']:+.2f}]"
    if ours["gain_low"] > 0:
        return f"{said}: strength beats the obvious, by {gain}."
    if ours["gain_high"] < 0:
        return f"{said}: the obvious beats strength ({gain})."
    return f"{said}: no difference can be told ({gain})."


def _matched(comparison: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    c, genes = comparison, facts["genes"]
    lost = [
        (c["n_not_in_the_file"], "screened ones are not in the file"),
        (c["n_with_too_few_real_cells"], "have too few real cells"),
        (c["n_in_fewer_screened_cells"], "were screened in too few cells"),
        (c["n_not_screened"], f"of the file were not screened ({some(c['not_screened'], 3)})"),
        (c["n_labels_without_a_gene"], f"labels name no gene of the model ({some(c['labels_without_a_gene'], 3)})"),
    ]
    left = "; ".join(f"{n:,} {what}" for n, what in lost if n)
    return (
        f"{c['n_compared']:,} of {c['n_screened']:,} perturbations by {facts['edit']} against {facts['real']}: "
        f"{c['n_real_cells']:,} perturbed and {c['n_control_cells']:,} control cells, {genes['shared']:,} of "
        f"{genes['model']:,} genes{f'. Left out: {left}' if left else ''}."
    )


def _screen_lines(table: pl.DataFrame) -> Iterator[str]:
    yield f"{'score':<18}{'Spearman':>9}  {'95 %':<15}{'partial':>8}{'AUPRC':>7}{'top 10':>7}{'top 50':>7}{'100':>6}"
    for row in table.iter_rows(named=True):
        interval = "" if row["low"] is None else f"[{row['low']:.2f}, {row['high']:.2f}]"
        tops = [_number(row[f"precision_{k}"]) for k in (10, 50, 100)]
        yield (
            f"{NAMES.get(row['score'], row['score']):<18}{_number(row['spearman']):>9}  {interval:<15}"
            f"{_number(row['partial_spearman']):>8}{_number(row['auprc']):>7}{tops[0]:>7}{tops[1]:>7}{tops[2]:>6}"
        ).rstrip()


def _profile_lines(profile: pl.DataFrame) -> Iterator[str]:
    heads = ["prediction", "no change", "mean", "additive", "halves"]
    yield f"{'':<22}" + "".join(f"{h:>11}" for h in heads)
    by = {(row["metric"], row["predictor"]): row["mean"] for row in profile.iter_rows(named=True)}
    for metric in METRICS:
        values = "".join(f"{_number(by.get((metric, p)), 3):>11}" for p in PREDICTORS)
        yield f"{metric + ('*' if metric in WARNED else ''):<22}{values}"
    for metric, why in WARNED.items():
        yield from _wrapped(f"* {metric}: {why}.")


def _expected(expected: pl.DataFrame) -> Iterator[str]:
    n_found, n = int(expected["is_found"].sum()), expected.height
    yield f"Positive controls: {n_found} of {n} expected responses found"
    yield f"{'edit':<16}{'gene':<11}{'where':<25}{'change':>9}{'fdr':>9}{'rank':>10}"
    for row in expected.iter_rows(named=True):
        if row["perturbation"] is None:
            yield from _wrapped(f"{row['edit']} -> {row['gene']}: {row['note']}")
            continue
        where = f"{row['mode']}, {row['stratum']}, t{row['time']}"[:24]
        if row["rank"] is None:
            yield f"{row['edit'][:15]:<16}{row['gene'][:10]:<11}{where:<25}{row['note']}"
            continue
        fdr = "-" if row["fdr"] is None else f"{row['fdr']:.1g}"
        rank = f"{row['rank']:,}{'' if row['is_found'] else ' no'}"
        yield f"{row['edit'][:15]:<16}{row['gene'][:10]:<11}{where:<25}{row['change']:>+9.4f}{fdr:>9}{rank:>10}"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _wrapped(text: str) -> Iterator[str]:
    import textwrap

    yield from textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
