"""python -m demo.planted --out DIR: a synthetic screen with known truth, finished, as `screen.open_results` reads one."""

import argparse
import sys
from pathlib import Path

from demo.planted.sizes import Sizes
from demo.planted.written import build
from screen.running.listener import Lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    plain = Sizes()
    parser.add_argument("--out", type=Path, required=True, help="directory that is made; an empty one")
    for name, text in (
        ("perturbations", "that are asked for; null ones are beside them"),
        ("strata", "groups of cells"), ("cells", "of all strata together"), ("nulls", "null perturbations per kind of edit"),
        ("donors", "that the cells are of"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=getattr(plain, f"n_{name}"), help=text)
    parser.add_argument("--genes", type=int, help="of the model; by default 400, or what the perturbations need")
    parser.add_argument("--times", type=int, nargs="+", default=list(plain.times), help="time points, two or more")
    parser.add_argument("--seed", type=int, default=plain.seed)
    parser.add_argument("--keep", choices=("predictions", "summaries"), default=plain.keep)
    parser.add_argument("--top", type=int, help="genes written per group; by default all")
    parser.add_argument("--min-cells", type=int, default=plain.min_cells)
    parser.add_argument("--no-replicates", action="store_true", help="tests take cells as independent")
    parser.add_argument("--hostile", action="store_true", help="names that try to run as code in a page")
    given = vars(parser.parse_args())
    counts = {f"n_{n}": given[n] for n in ("perturbations", "strata", "cells", "nulls", "donors", "genes")}
    sizes = Sizes(
        **counts, times=tuple(given["times"]), seed=given["seed"], keep=given["keep"], top=given["top"],
        min_cells=given["min_cells"], has_replicates=not given["no_replicates"], is_hostile=given["hostile"],
    )  # fmt: skip
    lines = Lines(lambda text: sys.stdout.write(f"{text}\n"))
    lines.say(repr(build(given["out"], sizes, lines)))


if __name__ == "__main__":
    main()
