"""A genome-wide screen at the paces of this run: arithmetic on what its other parts measured."""

from benchmarks.gpu.changes import ALL_GENES
from benchmarks.gpu.job import Job, say
from screen.bench.measure import DETECTION, SCREEN_CELLS, SCREEN_GENES

N_EDITS = round(SCREEN_GENES * SCREEN_CELLS * DETECTION)
CHANGE_BYTES = 2
"""Of one gene's change in the store, as float16."""


def projection(job: Job) -> None:
    """Hours of knock-outs of 6,000 genes in 20,000 cells in every precision that was timed; writing and tables where the demo ran.

    Controls are in the paces. Writing is added up, though it goes on beside the computation.
    """
    paces = job.figures.get("changes", {}).get("edits/s", {}).get(ALL_GENES, {})
    if not paces:
        job.skip("projection", "it needs the part `changes`, which timed nothing in this run")
        return
    n_genes, demo = job.sizes.n_genes, job.figures.get("demo", {}).get("warm")
    n_bytes, others = N_EDITS * n_genes * CHANGE_BYTES, {}
    if demo:
        others["writing"] = n_bytes / demo["written MB/s"] / 1e6 / 3600
        others["tables"] = SCREEN_GENES * n_genes / demo["rows of tables/s"] / 3600
    say(
        f"\nprojected, not run: {SCREEN_GENES:,} genes x {SCREEN_CELLS:,} cells, {DETECTION:.0%} of the pairs screened, "
        f"{N_EDITS:,} edits, {n_bytes / 1e9:,.0f} GB of changes; " + sources(job, n_genes)
    )
    found = job.figures.setdefault("projection", {"edits": N_EDITS, "bytes": n_bytes})
    for precision, pace in paces.items():
        hours = {"edits and controls": N_EDITS / pace["edits/s"] / 3600, **others}
        found[precision] = {"hours": sum(hours.values()), "of it": hours}
        said = ", ".join(f"{name} {h:,.2f}" for name, h in hours.items())
        without = "" if demo else "; without writing and tables: the demo did not run"
        say(f"projected, not run: {precision:<8} {sum(hours.values()):>8,.2f} hours ({said}){without}")


def sources(job: Job, n_genes: int) -> str:
    """Which paces are taken."""
    return (
        f"edits at the pace of `{ALL_GENES}`{' of the small model of --quick' if job.is_quick else ''}, writing at the demo's "
        f"bytes/s, tables by their rows (perturbations x {n_genes:,} genes), of which the demo's are of few cells"
    )
