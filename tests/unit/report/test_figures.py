"""Figures as files: every plot that can be drawn, under names that stay in their folder, the same bytes each time."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from screen.cli.main import main
from screen.edits import MASK, OVEREXPRESS
from screen.errors import ConfigError, WriteError
from screen.report.figures import safe, write_png
from screen.results.results import Results, open_results
from tests.support.store_fixture import GENES
from tests.support.tiny import tiny, write

SYMBOLS = {
    GENES[2]: "../../$x_1$",
    GENES[3]: "<script>alert(1)</script>",
    GENES[4]: "/etc/passwd",
    GENES[5]: "..",
    GENES[6]: "con.png\\",
}
LIBRARY = [
    {"genes": list(GENES[2:7]), "modes": [MASK.name]},
    {"genes": [GENES[4], GENES[3]], "modes": [OVEREXPRESS.name]},
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("figures")
    (folder / "genes.tsv").write_text("ensembl_id\tsymbol\n" + "".join(f"{e}\t{s}\n" for e, s in SYMBOLS.items()))
    (folder / "sets.gmt").write_text("../first\t\t" + "\t".join(GENES[:15]) + "\n")
    config = tiny(
        model={"gene_table": str(folder / "genes.tsv")},
        output={"strata": ["cell_type"], "allow_missing": True, "min_cells": 2},
    )
    config |= {"library": LIBRARY, "enrich": {"gene_sets": [str(folder / "sets.gmt")], "max_fdr": 1}}
    assert main(["run", str(write(config, folder / "s.yaml")), "--out", str(folder / "out")]) == 0
    return open_results(folder / "out")


def test_every_plot_that_can_be_drawn_is_written_at_300_dots_per_inch(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("screen.report.figures.N_STRONGEST", 3)
    monkeypatch.setattr("screen.report.figures.N_GENES", 2)
    folder = tmp_path / "a" / "b"
    paths = write_png(results, folder)
    assert sorted(paths) == sorted(folder.iterdir()) and {p for p in tmp_path.rglob("*") if p.is_file()} == set(paths)
    kinds = {p.name.partition("_")[0] for p in paths}
    assert kinds == {"ranking", "heatmap", "times", "volcano", "cells", "gene"}
    assert {f"{k}_{m.name}.png" for k in ("ranking", "heatmap", "times") for m in (MASK, OVEREXPRESS)} <= {
        p.name for p in paths
    }
    assert any(p.name.startswith("gene_sets_01_") for p in paths) and any(p.name.startswith("gene_01_") for p in paths)
    for path in paths:
        with Image.open(path) as image:
            assert round(image.width / 300 * 25.4) in (89, 183)
            assert round(image.info["dpi"][0]) == 300


def test_the_same_screen_gives_the_same_bytes_in_every_format(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("screen.report.figures.N_STRONGEST", 1)
    monkeypatch.setattr("screen.report.figures.N_GENES", 1)
    formats = ("png", "pdf", "svg")
    one, two = (write_png(results, tmp_path / name, formats) for name in ("one", "two"))
    assert len(one) % 3 == 0 and [p.name for p in one] == [p.name for p in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


@given(st.text() | st.sampled_from(list(SYMBOLS.values())))
def test_a_name_is_one_part_of_a_path(text: str) -> None:
    name = safe(text)
    assert name == Path(name).name and 0 < len(name) <= 40
    assert not set(name) & set('/\\:*?"<>|\0\n ') and not name.startswith(".") and ".." not in name and name.isascii()


def test_names_of_genes_stay_readable() -> None:
    assert [safe(n) for n in ("HLA-DRB1", "$x_1$", "../../CCL2", "A+B", "..", "")] == [
        "HLA-DRB1",
        "x_1",
        "CCL2",
        "A+B",
        "_",
        "_",
    ]


def test_embeddings_only_have_rankings_times_and_cells(tmp_path: Path) -> None:
    config = tiny(predict={"use_count_decoder": False}, library={"genes": list(GENES[2:5])}, output={"min_cells": 1})
    assert main(["run", str(write(config, tmp_path / "s.yaml")), "--out", str(tmp_path / "out")]) == 0
    paths = write_png(open_results(tmp_path / "out"), tmp_path / "png")
    assert {p.name.partition("_")[0] for p in paths} == {"ranking", "times", "cells"}


def test_what_cannot_be_written_is_said(results: Results, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'format "pgn"; did you mean "png"\?; figures are written as png, pdf, svg'):
        write_png(results, tmp_path, ("png", "pgn"))
    with pytest.raises(ConfigError, match="no format is given"):
        write_png(results, tmp_path, ())
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="choose another folder"):
        write_png(results, tmp_path / "file")
