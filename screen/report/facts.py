"""Facts: what was run, of what and with what, as the page's table says it."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import yaml

from screen.store.audit import status

if TYPE_CHECKING:
    from screen.results.results import Results

Facts = list[tuple[str, str]]


def facts(results: "Results") -> Facts:
    """(what, text) in the order in which one asks."""
    provenance = results.provenance
    found = [*_inputs(provenance), *_asked(results), *_coverage(results), *_computed(results)]
    found += [("settings of the tables", results.settings), ("files", results.files)]
    found.append(("directory", str(results.tables.absolute())))
    found.append(("made", f"{provenance['created']} by perturbscreen {provenance['perturbscreen']}"))
    return found


def _inputs(provenance: dict[str, Any]) -> Facts:
    """Model and cells as the first configuration names them, and their fingerprints."""
    try:
        config = yaml.safe_load(provenance["library"][0]["config"])
    except (yaml.YAMLError, KeyError, IndexError, TypeError):
        config = None
    sections = config if isinstance(config, dict) else {}
    identity, found = provenance["identity"], []
    for what, key, file in (("model", "model", "checkpoint"), ("cells", "cells", "h5ad")):
        section = sections.get(key)
        name = f"{section[file]}, " if isinstance(section, dict) and file in section else ""
        found.append((what, f"{name}fingerprint {str(identity.get(key, 'unknown'))[:16]}"))
    return found


def _asked(results: "Results") -> Facts:
    store = results.store
    names = store.perturbations("mode"), store.perturbations("site")
    edits = Counter(f"{site}:{mode}" for mode, site in zip(*names, strict=True))
    library = ", ".join(f"{n:,} {edit}" for edit, n in edits.items())
    n_null = results.hits.filter("is_null")["perturbation"].n_unique()
    null = f"; {n_null:,} of them null ones to judge the others by" if n_null else ""
    times = "the source" if results.times == [0] else f"time point {', '.join(map(str, results.times))}"
    return [
        ("library", f"{library}{null}"),
        ("edits", f"{sum(b.n_items for b in store.blocks):,} (perturbation, cell) pairs of {store.n_cells:,} cells"),
        ("strata", f"{len(results.strata):,}: {', '.join(results.strata[:20])}"),
        ("read out at", times),
    ]


def _coverage(results: "Results") -> Facts:
    table = results.coverage
    total = {name: int(table[f"n_{name}"].sum()) for name in ("stratum", "screened", "absent", "truncated", "emptied")}
    words = {
        "absent": "gene not expressed",
        "truncated": "beyond the longest row",
        "emptied": "nothing left to predict from",
    }
    lost = "".join(f", {total[name]:,} {text}" for name, text in words.items() if total[name])
    if n := total["stratum"] - total["screened"] - sum(total[name] for name in words):
        lost += f", {n:,} for one of these reasons"
    found = [("coverage", f"{total['screened']:,} of {total['stratum']:,} pairs screened{lost}")]
    if n := results.unscreened.height:
        found.append(("in no cell", f"{n:,} perturbations that were asked for"))
    return found


def _computed(results: "Results") -> Facts:
    provenance = results.provenance
    executors, recomputed = Counter[str](), Counter[str]()
    for block in status(results.store):
        executors.update(block.executors)
        recomputed.update(block.recomputed)
    found = [("computed by", f"{text} ({n:,} unit{'s' * (n > 1)})") for text, n in executors.items()]
    pilot = provenance.get("pilot")
    agreed = "; ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in (pilot or {}).items())
    found.append(
        (
            "precision",
            f"{provenance.get('decided', {}).get('precision', 'unknown')}{f', pilot: {agreed}' if agreed else ''}",
        )
    )
    n_again = sum(recomputed.values())
    reasons = "".join(f"; {n:,}: {why}" for why, n in recomputed.items())
    found.append(("fallbacks", f"{n_again:,} edits computed again in float32{reasons}"))
    return found + [("throughput", text) for text in map(_session, results.sessions)]


def _session(session: dict[str, Any]) -> str:
    """One `run`."""
    seconds = max(float(session["elapsed_s"]), 1e-9)
    padding = session["padding"] / max(session["tokens"], 1)
    return (
        f"{session['edits']:,} edits in {seconds:,.1f} s: {session['edits'] / seconds:,.1f} edits/s, "
        f"{session['tokens'] / seconds:,.0f} tokens/s, {padding:.1%} padding ({session.get('started', 'at an unknown time')})"
    )
