"""transcript.md: a wheel in a new environment, from the demo to scanpy, with what every command prints.

python docs/make_transcript.py            # writes it: ten minutes, and the network
python docs/make_transcript.py --check    # writes nothing; exit code 1 if a command prints other words (numbers may differ)
"""

import os
import re
import subprocess
import sys
import tempfile
from difflib import unified_diff
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).parent / "transcript.md"
TORCH = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
FIND_DATA = "$(python -c 'import screen.demo; print(screen.demo.DATA)')"
NARROWED = (
    "s/genes: all/genes: [STAT1, IRF7, ISG15, GBP1]/",
    "s/# filters/filters/",
    "s/max_cells: 300/max_cells: 60/",
    "s/# special_tokens/special_tokens/",
)
SCANPY = """python -W ignore - <<'END'
import scanpy as sc
cells = sc.read_h5ad("gbp1.h5ad")
print(cells.obs[["perturbation", "mode", "source_cell", "target_cell"]].iloc[[0, -1]].to_string(index=False))
sc.tl.rank_genes_groups(cells, "perturbation", reference="control", method="t-test")
found = sc.get.rank_genes_groups_df(cells, group="GBP1").sort_values("logfoldchanges", key=abs, ascending=False)
print(found.merge(cells.var, left_on="names", right_index=True)[["symbol", "logfoldchanges"]].head().to_string(index=False))
END"""
STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "A new environment, and the wheel. torch is pinned to what development uses; without it pip takes the newest.",
        ("python3 -m venv screening", f"pip install --quiet {TORCH} ./perturbscreen-*.whl"),
    ),
    ("The shipped cells and model, to see what comes of a screen:", ("perturbscreen demo",)),
    (
        "Cells, a model and its genes of one's own; here those of the demo stand for them. `init` reads the cells and writes a "
        "configuration:",
        (
            f"cp {FIND_DATA}/{{cells.h5ad,demo.ckpt,genes.tsv}} .",
            "perturbscreen init cells.h5ad --model demo.ckpt --vocabulary genes.tsv",
            "cat screen.yaml",
        ),
    ),
    (
        "Four genes, one cell type, 60 cells (this model was trained without `<cls>`). `plan` says what it would do and cost, "
        "before anything runs:",
        (
            f"sed -i '{'; '.join(NARROWED)}' screen.yaml",
            "perturbscreen plan screen.yaml",
        ),
    ),
    (
        "The screen, and whether its files are what was written:",
        ("perturbscreen run screen.yaml --out runs/mine", "perturbscreen verify runs/mine"),
    ),
    (
        "One perturbation with its controls, for another tool:",
        (
            "perturbscreen export runs/mine --h5ad gbp1.h5ad --with-control --scale log1p_cp10k --gene GBP1 --mode overexpress",
            "pip install --quiet scanpy",
            SCANPY,
        ),
    ),
)
HEAD = """# From a wheel to scanpy

What somebody types who has a wheel and an h5ad, and all that is printed, on two cores without a GPU; lines of progress are left out
but the last. Every command ended with exit code 0.

<!-- made by docs/make_transcript.py: change it there -->
"""
PROGRESS = re.compile(
    r"^(controls, )?[\d,]+ of [\d,]+ (edits|cells).*\n(?=(controls, )?[\d,]+ of [\d,]+ (edits|cells))", re.MULTILINE
)
WARNING = re.compile(r"^WARNING: .*\n", re.MULTILINE)
"""pip's, of the machine's own settings."""


def printed(command: str, folder: Path) -> str:
    """Everything a command prints. Raises RuntimeError where it fails."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS")}
    path = os.pathsep.join([str(folder / "screening" / "bin"), kept["PATH"]])
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env={**kept, "PATH": path, "COLUMNS": "110", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return WARNING.sub("", PROGRESS.sub("", done.stdout)).replace(str(folder), "~")


def page() -> str:
    """The page, every command run now."""
    parts = [HEAD]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check", str(ROOT)]
        subprocess.run([*build, "--wheel-dir", str(folder)], check=True)
        for text, commands in STEPS:
            shown = "".join(f"$ {command}\n{printed(command, folder)}" for command in commands)
            parts.append(f"{text}\n\n```text\n{shown.rstrip()}\n```\n")
    return "\n".join(parts)


def words(text: str) -> list[str]:
    """The lines without their numbers and the blanks between columns."""
    return [" ".join(re.sub(r"[\d.,]+", "#", line).split()) for line in text.splitlines()]


def main() -> int:
    """Exit code: 1 if --check finds other words."""
    found = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(found)
        return 0
    differs = list(unified_diff(words(PAGE.read_text()), words(found), "the page", "now", lineterm=""))
    sys.stdout.writelines(f"{line}\n" for line in differs)
    return int(bool(differs))


if __name__ == "__main__":
    sys.exit(main())
