"""The shipped configurations are valid, and run on artefacts of the right kind; the screen's words are checked."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from screen.cli.main import main
from screen.config.screen_config import ScreenConfig, parse_config, read_yaml
from screen.errors import ConfigError
from screen.running.configuration import load_config
from screen.running.prepare import prepare
from tests.support.places import ROOT
from tests.support.tiny import E2E, tiny, write

CONFIGS = ROOT / "configs"


def with_golden_files(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A shipped configuration whose paths point to the golden artefacts, one gene renamed IL1B."""
    (folder / "genes.tsv").write_text("ensembl_id\tsymbol\nENSG00000100021\tIL1B\n")
    files = tiny()
    raw["model"] |= {**files["model"], "gene_table": str(folder / "genes.tsv")}
    raw["cells"] |= files["cells"]
    if "enrich" in raw:
        # the golden vocabulary has made-up names
        sets = {f"SET_{i}": [f"ENSG{100_000 + 7 * (i + k):011d}" for k in range(6)] for i in (0, 20)}
        (folder / "sets.gmt").write_text("".join("\t".join([name, "", *genes]) + "\n" for name, genes in sets.items()))
        raw["enrich"]["gene_sets"] = [str(folder / "sets.gmt")]
    return raw


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    config, text = load_config(path), path.read_text()
    assert isinstance(config, ScreenConfig)
    assert text.startswith("# ")


def test_the_tutorial_masks_il1b_in_the_source_and_predicts_two_time_points(tmp_path: Path) -> None:
    raw = with_golden_files(read_yaml(CONFIGS / "il1b_lps.yaml"), tmp_path)
    assert main(["run", str(write(raw, tmp_path / "il1b.yaml")), "--out", str(tmp_path / "out")]) == 0
    hits = pl.read_parquet(tmp_path / "out" / "hits.parquet")
    own, nulls = hits.filter(~pl.col("is_null")), hits.filter("is_null")
    assert set(own["perturbation"]) == {"src:mask:ENSG00000100021"} and not nulls.is_empty()
    assert set(own["target_symbol"]) == {"IL1B"}
    assert set(own["time"]) == {1, 2} and own["stratum"].n_unique() > 1
    compared = pl.read_parquet(tmp_path / "out" / "compare" / "*.parquet")
    assert set(compared.select("time_before", "time").unique().rows()) == {(1, 2)}
    assert (tmp_path / "out" / "enrichment" / "scores.parquet").is_file()


def test_genome_wide_means_every_gene_masked_where_expressed_and_overexpressed_everywhere(tmp_path: Path) -> None:
    raw = with_golden_files(read_yaml(CONFIGS / "genome_wide.yaml"), tmp_path)
    screen = prepare(load_config(write(raw, tmp_path / "all.yaml")))
    modes = [p.mode for p in screen.library.perturbations]
    expressed = {t for row in range(11) for t in screen.bank.states[0].tokens[row].tolist() if t > 3}
    known = set(screen.vocabulary.source_token_G.tolist())
    assert modes.count("mask") == len(expressed & known)
    assert modes.count("overexpress") == len(screen.vocabulary) == 61
    assert not screen.unscreened()


def test_the_demo_screens_every_expressed_gene_of_real_monocytes() -> None:
    screen = prepare(load_config(CONFIGS / "demo.yaml"))
    modes = [p.mode for p in screen.library.perturbations]
    assert modes.count("mask") > 1000
    assert modes.count("overexpress") == len(screen.vocabulary)
    assert set(screen.bank.states[0].obs["cell_type"]) == {"CD14+ Monocytes"}
    assert set(screen.bank.states[0].obs["condition"]) == {"control"}
    assert set(screen.bank.states[1].obs["condition"]) == {"stimulated"}
    assert screen.plan.coverage.emptied_PS.sum() == 0


def parse(raw: dict[str, Any], folder: Path) -> ScreenConfig:
    return parse_config(raw, folder / "screen.yaml")


@pytest.mark.parametrize(
    ("section", "keys", "message"),
    [
        ("library", {"modse": ["mask"]}, r'unknown key "library.0.modse".*did you mean "modes"'),
        ("library", {"modes": ["knockout"]}, "library.*modes.*knockout"),
        ("library", {"modes": ["shift"]}, r'library.0.modes.0 .*mode is "shift"; allowed: mask, .*shift\+K, shift-K'),
        ("library", {"modes": ["mask", "shift+0"]}, r'library.0.modes.1 .*mode is "shift\+0"'),
        ("library", {"genes": []}, "the list of genes is empty"),
        ("library", {"pert_tps": [1]}, "pert_tps is for edits of the target"),
        ("library", {"perturbation_sequence": ["tgt"], "pert_tps": [3]}, r"pert_tps \[3\] are not among pred_tps"),
        ("predict", {"pred_tps": []}, "predict.pred_tps"),
        ("predict", {"pred_tps": [1, 1]}, "time points repeat"),
        ("predict", {"exclude_src": True}, "exclude_src removes the source"),
        ("predict", {"readout": "sample"}, "'expected' or 'mu'"),
        ("cells", {"h5ad": "x.h5ad", "state_column": "state"}, "`state_column` and `source`.*belong together"),
        ("cells", {"h5ad": "x.h5ad", "targets": {1: "x"}}, "`targets`.*need `state_column`"),
        ("cells", {"max_cells": 5}, "`max_cells` does not go with upstream's tokenised folders"),
        ("cells", {"filter_var": "tissue"}, "filter_var and filter_cond belong together"),
        ("model", {"vocabulary": "genes.tsv"}, "either `vocabulary`"),
        ("output", {"store_dtype": "float64"}, "store_dtype.*float64"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    section: str, keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        parse(tiny(**{section: keys}), tmp_path)


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    raw = tiny(library={"modes": ["knockout"]}, output={"stora": 1})
    with pytest.raises(ConfigError) as caught:
        parse(raw, tmp_path)
    assert "knockout" in str(caught.value)
    assert 'unknown key "output.stora"' in str(caught.value)


def test_relative_paths_are_relative_to_the_yaml_file(tmp_path: Path) -> None:
    raw = tiny(model={"checkpoint": "weights/model.ckpt"})
    assert parse(raw, tmp_path).model.checkpoint == (tmp_path / "weights" / "model.ckpt").resolve()
    assert parse(raw, tmp_path).cells.tgt_adata_folder == (E2E / "h5ad_tgt").resolve()


def test_a_key_written_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(yaml.safe_dump(tiny()) + "output: {}\n")
    with pytest.raises(ConfigError, match='"output" is written twice'):
        read_yaml(path)


def test_genes_all_cannot_be_one_joint_edit(tmp_path: Path, capsys: Any) -> None:
    config = write(tiny(library={"combos": "joint"}), tmp_path / "s.yaml")
    assert main(["plan", str(config)]) == 2
    assert "use `singles`" in capsys.readouterr().err
