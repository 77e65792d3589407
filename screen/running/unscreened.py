"""Why perturbations that were asked for have no item."""

from screen.engine.screen import Screen


def nothing_to_screen(screen: Screen) -> str:
    """Why no perturbation has any item."""
    return "nothing to screen: " + "; ".join(reasons(screen, list(range(len(screen.library))))[:5])


def reasons(screen: Screen, perturbations: list[int]) -> list[str]:
    """Why perturbations have no item, one sentence each, with numbers of cells."""
    coverage, sentences = screen.plan.coverage, []
    total = int(coverage.n_cells_S.sum())
    for i in perturbations:
        p = screen.library.perturbations[i]
        absent, truncated, emptied = (
            int(x[i].sum()) for x in (coverage.absent_PS, coverage.truncated_PS, coverage.emptied_PS)
        )
        genes = "+".join(screen.vocabulary.label(g) for g in p.genes)
        parts = [f"not expressed in {absent}"] if absent else []
        parts += [f"beyond the model's {screen.window.max_len} tokens in {truncated}"] if truncated else []
        parts += [f"nothing left to predict from in {emptied}"] if emptied else []
        sentences.append(f"{genes} ({p.mode}, {p.site_label}): {', '.join(parts)} of {total} cells")
    return sentences
