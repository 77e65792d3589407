"""variants.md, made by reading every variant of a file that `demo.variants` knows; a test compares it.

python docs/make_variants.py            # writes it
python docs/make_variants.py --check    # writes nothing; exit code 1 if it is not up to date
"""

import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from demo.variants import amounts, files, genes, lists, metadata, upstream
from demo.variants.recipe import RECIPES, Answer, Place, Recipe

PAGE = Path(__file__).parent / "variants.md"
KINDS = (files, amounts, genes, metadata, lists, upstream)
"""Modules whose recipes are on the page, in its order."""
HEAD = """# Files as people have them

Cells of one small file, written in every way that we know people write them, and what `plan` and `run` make of it: the
result, and what is said. *As the plain file* means the same cells, tokens and counts to the last digit. Nothing of a file is
believed: offsets, columns, shapes and sizes are checked before memory is asked for or native code runs.

{counts}

A matrix in compressed columns (CSC) of any size is turned in blocks of rows, for each of which all of it is gone through; a
block takes at most 1 GiB. An h5ad whose compression needs a plugin is read once `pip install hdf5plugin` is done.

<!-- made by docs/make_variants.py from demo/variants: change it there -->
"""


def answers() -> list[tuple[Recipe, Answer]]:
    """Every recipe with what becomes of it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder).resolve())
        modules = [module.__name__ for module in KINDS]
        ordered = sorted(RECIPES, key=lambda recipe: modules.index(recipe.make.__module__))
        return [(recipe, place.answer(recipe)) for recipe in ordered]


def page(found: list[tuple[Recipe, Answer]]) -> str:
    """The whole page."""
    parts, n_failed = [], sum(bool(r.failed_before) for r, _ in found)
    for kind in dict.fromkeys(r.kind for r, _ in found):
        parts.append(f"## {kind}\n\n| variant | result | what is said | before |\n| --- | --- | --- | --- |")
        parts += [_row(recipe, answer) for recipe, answer in found if recipe.kind == kind]
        parts.append("")
    n_refused = sum(a.result.startswith("exit code") for _, a in found)
    counts = (
        f"{len(found)} variants: {len(found) - n_refused} are read, {n_refused} are refused with what to do. Before this page was\n"
        f"made {n_failed} of them failed, as the last column says: read wrongly, refused, or refused with less advice than there is.\n"
        "Of ten variants (plain layouts, `layer: raw`, upstream's paths) that column was read off the code of then, not tried."
    )
    return "\n".join([HEAD.format(counts=counts), *parts])


def _row(recipe: Recipe, answer: Answer) -> str:
    cells = (recipe.words, answer.result, answer.message, recipe.failed_before or "the same")
    return "| " + " | ".join(map(_markdown, cells)) + " |"


def _markdown(text: str) -> str:
    """Plain text with code in backticks as a cell of a table."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    escaped = [p if p.startswith("`") else re.sub(r"([\\*_<>\[\]])", r"\\\1", p) for p in parts]
    return "".join(escaped).replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Exit code: 0 up to date or written, 1 out of date (--check)."""
    text = page(answers())
    is_stale = not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text
    if "--check" in arguments:
        return int(is_stale)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
