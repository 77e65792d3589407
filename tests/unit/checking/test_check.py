"""check: figures against a slow computation with the plain model, planted truths, and what other kinds of models are told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from scipy.stats import nbinom, spearmanr

import screen
from screen.checking.cells import checked_cells
from screen.checking.effects import effect_cells, sampled_edits
from screen.checking.exchange import partners
from screen.cli.main import main
from screen.demo import DATA
from screen.engine.effects import log_expression
from screen.engine.executor import Executor
from screen.engine.reference import ReferenceEngine
from screen.errors import ConfigError
from screen.models.adapter import Readout
from screen.results.checked import EMPTY, described_check, table_of_check
from tests.support.places import ROOT
from tests.support.tiny import E2E, tiny, write

NEVER_LESS = 1e-5
"""Readouts of two engines agree to this share of their scale."""
LIBRARY = {"genes": "all", "modes": ["mask", "overexpress"]}


def demo(**cells: Any) -> dict[str, Any]:
    """The shipped configuration, its cells changed."""
    raw: dict[str, Any] = yaml.safe_load(
        (ROOT / "configs" / "demo.yaml").read_text().replace("../screen/demo/data", str(DATA))
    )
    raw["cells"] |= cells
    raw["library"]["genes"] = ["LYZ", "CD14", "FTH1", "B2M", "TIMP1", "CTSS"]
    raw["null"] = {"n": 0}
    return raw


def plain(found: Any, cell: int, source_of: int) -> Readout:
    """The plain model on one cell's target rows and any cell's source row."""
    loaded, builder = found.loaded, found.screen().rows
    rows = builder.control(cell)
    readout: Readout = loaded.adapter.predict(type(rows)(builder.control(source_of).source, *parts_of(rows)))
    return readout


def parts_of(rows: Any) -> tuple[Any, ...]:
    return rows.target, rows.counted_BL, rows.size_factor_B


@pytest.fixture(scope="module")
def small() -> tuple[Any, screen.Results | Any]:
    """(the cells of a tiny screen in three strata, what a check finds of them)."""
    config = screen.load_config(tiny(output={"strata": ["cell_type"]}, library=LIBRARY))
    return checked_cells(config, 600), screen.check(config)


@pytest.mark.parametrize("time", [1, 2])
def test_correlations_and_likelihoods_are_those_of_the_plain_model_cell_by_cell(small: Any, time: int) -> None:
    found, check = small
    bank = found.loaded.bank
    kind_C = np.array(bank.obs_value("cell_type", 0))
    stratum_C = np.unique(kind_C, return_inverse=True)[1]
    other_C = partners(stratum_C, bank.states[0].cell_index_C, 1)
    count_CG = bank.states[time].counts.toarray().astype(float)
    log_CG = np.log1p(count_CG / count_CG.sum(1, keepdims=True) * 1e4)
    model = found.loaded.adapter.model
    theta_G = model.theta.detach().exp()[:, 0].double().numpy()
    table = check.cells.filter(time=time)
    for cell in range(bank.n_cells):
        own, other = plain(found, cell, cell), plain(found, cell, int(other_C[cell]))
        expected = {}
        for name, readout in (("r_model", own), ("r_other_source", other)):
            log_G = log_expression(readout.value_BG[time], readout.size_factor_B[time], "log1p_cp10k").log_BG[0].numpy()
            expected[name] = np.corrcoef(log_G, log_CG[cell])[0, 1]
        others = np.flatnonzero((kind_C == kind_C[cell]) & (np.arange(len(kind_C)) != cell))
        expected["r_type_mean_of_log"] = np.corrcoef(log_CG[others].mean(0), log_CG[cell])[0, 1]
        mean_G = (count_CG[others] / count_CG[others].sum(1, keepdims=True)).mean(0) * 1e4
        expected["r_type_mean"] = np.corrcoef(np.log1p(mean_G), log_CG[cell])[0, 1]
        expected["gain"] = expected["r_model"] - expected["r_other_source"]
        output = model.count_decoder(own.embedding_BD[time])
        mu_G = output.head_BG[0].double().numpy() * count_CG[cell].sum()
        pi_G = torch.sigmoid(output.dropout_logit_BG[0]).double().numpy()
        chance_G = (1 - pi_G) * nbinom.pmf(count_CG[cell], theta_G, theta_G / (theta_G + mu_G))
        expected["nll_model"] = -np.log(chance_G + pi_G * (count_CG[cell] == 0)).mean()
        row = table.row(cell, named=True)
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=NEVER_LESS, rel=NEVER_LESS), (cell, name)


def test_stability_is_that_of_edits_computed_one_by_one(small: Any) -> None:
    found, check = small
    whole = found.screen()
    chosen, half_C = effect_cells(whole.plan.stratum_C)
    assert chosen.tolist() == list(range(11)) and sorted(np.bincount(half_C)) == [5, 6]
    edited = found.screen(sampled_edits(whole, half_C))
    engine = ReferenceEngine(edited, Executor(torch.device("cpu"), n_lanes=1))
    (unit,) = engine.units(range(edited.plan.n_units), lambda n, tokens, padded: None)
    p_I, half_I = edited.plan.perturbation_I, half_C[edited.plan.cell_I]
    numbers = [i for i, p in enumerate(edited.library.perturbations) if p.mode == "overexpress"]
    for time in (1, 2):
        mean = {
            h: np.stack([unit.columns[f"delta/t{time}"][(p_I == i) & (half_I == h)].mean(0) for i in numbers])
            for h in (0, 1)
        }
        strength = {h: np.sqrt((x**2).mean(1)) for h, x in mean.items()}
        cosine = [a @ b / np.sqrt(a @ a * (b @ b)) for a, b in zip(mean[0], mean[1], strict=True)]
        (said,) = (s for s in check.figures["effects"]["stability"] if s["mode"] == "overexpress" and s["time"] == time)
        assert said["n_edits"] == len(numbers) > 20
        assert said["cosine"] == pytest.approx(np.median(cosine), abs=1e-4)
        assert said["rho"] == pytest.approx(spearmanr(strength[0], strength[1]).statistic, abs=1e-2)


def test_it_says_the_same_every_time_and_fits_80_columns(small: Any) -> None:
    _, check = small
    again = screen.check(tiny(output={"strata": ["cell_type"]}, library=LIBRARY))
    assert again.figures == check.figures and again.cells.equals(check.cells)
    assert max(map(len, str(check).splitlines())) <= 80
    text = described_check(check.figures)
    assert " ".join(str(check).split()).startswith(text)
    assert text.startswith("On 11 cells of 3 types (cell_type), paired row by row: at time point 1 predictions")
    assert json.loads(json.dumps(check.figures, allow_nan=False)) == check.figures


@pytest.fixture(scope="module")
def deaf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model, its cross-attention silenced: nothing of a source reaches a prediction."""
    content = torch.load(DATA / "demo.ckpt", weights_only=True)
    for name, weight in content["state_dict"].items():
        if "decoder_block" in name and "cross_attn.to_out" in name:
            weight.zero_()
    path = tmp_path_factory.mktemp("deaf") / "deaf.ckpt"
    torch.save(content, path)
    return path


def test_a_model_that_ignores_its_source_is_called_so(deaf: Path) -> None:
    raw = demo()
    raw["model"]["checkpoint"] = str(deaf)
    check = screen.check(raw, cells=16)
    (source,) = check.figures["source"]
    assert source["verdict"] == "ignored" and abs(source["gain"]["mean"]) < 1e-5
    assert "T" + EMPTY[1:] in described_check(check.figures)
    for stable in check.figures["effects"]["stability"]:
        assert stable["rho"] is None and stable["cosine"] is None and stable["n_edits"] == 6
    assert "for mask - (all 6 edits change nothing, or alike)" in described_check(check.figures)


def test_the_demo_gains_from_its_own_source_and_nothing_from_random_pairs() -> None:
    check = screen.check(demo(), cells=120)
    (source,), (prediction,) = check.figures["source"], check.figures["prediction"]
    low, high = source["gain"]["ci95"]
    assert source["verdict"] == "gain" and 0.002 < low < 0.0082 < high < 0.02
    low, high = source["gain_of_random"]["ci95"]
    assert low < 0 < high < 0.006
    assert abs(prediction["minus_best_baseline"]["mean"]) < 0.02
    text = described_check(check.figures)
    assert text.startswith("On 120 cells of 1 type (cell_type: CD14+ Monocytes), paired by pairs.tsv: predictions")
    assert EMPTY[1:] not in text


@pytest.mark.long
def test_the_demo_says_what_its_evaluation_says() -> None:
    raw = demo()
    del raw["cells"]["filters"]
    check = screen.check(raw)
    evaluated = json.loads((DATA / "EVALUATION.json").read_text())["prediction"][0]
    (source,), (prediction,) = check.figures["source"], check.figures["prediction"]
    assert check.figures["cells"]["n"] == evaluated["n_pairs"] == 599
    assert source["gain"]["mean"] == pytest.approx(evaluated["gain_of_own_source"]["full target"]["mean"], abs=5e-4)
    for ours, theirs in (("model", "model, full target"), ("source", "source copied")):
        assert prediction["r"][ours]["mean"] == pytest.approx(evaluated["pearson_r"][theirs]["mean"], abs=1e-4)
    nll = evaluated["nb_nll_per_gene"]
    assert prediction["nll_per_gene"]["model"]["mean"] == pytest.approx(nll["model, full target"]["mean"], abs=1e-4)


def test_pairs_drawn_at_random_are_named_where_the_source_adds_nothing() -> None:
    raw = demo(pairing="stratified", strata=["cell_type"], filters={"cell_type": ["CD14+ Monocytes"]})
    text = described_check(screen.check(raw, cells=60).figures)
    assert "paired at random (pairing: stratified)" in text
    assert "adds nothing (" in text and "as is to be expected of pairs drawn at random" in text
    assert EMPTY[1:] not in text


def test_embeddings_alone_are_moved_but_cannot_be_judged() -> None:
    check = screen.check(tiny(predict={"use_count_decoder": False}, library=LIBRARY))
    text = described_check(check.figures)
    assert "how accurate they are cannot be judged" in text and "(1 - cosine) when the source is another" in text
    assert check.figures["prediction"] == [] and check.figures["source"][0]["verdict"] == "unknown"
    assert check.figures["effects"]["stability"][-1]["rho"] is not None
    assert set(check.cells.columns) == {"cell", "cell_idx", "stratum", "time", "source_shift"}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with its count head's weights a little different."""
    content = torch.load(E2E / "ckpt" / "count_zinb.ckpt", weights_only=False)
    noise = torch.Generator().manual_seed(1)
    for name, weight in content["state_dict"].items():
        if "count_decoder.mlp" in name:
            weight += 0.3 * weight.std() * torch.randn(weight.shape, generator=noise)
    path = tmp_path_factory.mktemp("noisy") / "seed1.ckpt"
    torch.save(content, path)
    return path


def test_two_models_are_compared_by_option_and_by_configuration(noisy: Path, tmp_path: Path) -> None:
    raw = tiny(library=LIBRARY)
    own = raw["model"]["checkpoint"]
    asked = write({**raw, "check": {"models": [own, str(noisy)], "cells": 9}}, tmp_path / "s.yaml")
    check = screen.check(asked)
    assert check.figures["cells"]["n"] == 9
    agreement = check.figures["effects"]["agreement"]
    assert {(a["one"], a["other"]) for a in agreement} == {("count_zinb.ckpt", "seed1.ckpt")}
    assert 0.1 < next(a["rho"] for a in agreement if a["mode"] == "overexpress") < 1
    assert "the models count_zinb.ckpt and seed1.ckpt agree at Spearman" in described_check(check.figures)
    by_option = screen.check(raw, cells=9, models=[noisy])
    assert by_option.figures == check.figures
    same = tmp_path / "copy.ckpt"
    same.write_bytes(Path(own).read_bytes())
    with pytest.raises(ConfigError, match=r"copy.ckpt holds the same weights as count_zinb.ckpt"):
        screen.check(raw, models=[same])


def test_the_command_writes_beside_the_screen_and_results_read_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write({**tiny(library={"genes": "all"}), "check": {"cells": 9}}, tmp_path / "mine.yaml")
    assert main(["check", str(path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("On 9 cells of no named type") and "runs/mine/check: check.json, check.parquet" in said
    before = {p: p.read_bytes() for p in Path("runs/mine/check").iterdir()}
    assert main(["check", str(path)]) == 0
    assert {p: p.read_bytes() for p in before} == before
    assert pl.read_parquet("runs/mine/check/check.parquet").height == 18
    # a screen runs there all the same, and knows what was found of its model
    assert main(["run", str(path)]) == 0
    results = screen.open_results("runs/mine")
    assert results.check is not None and results.check["cells"]["n"] == 9
    assert described_check(results.check) in " ".join(said.split())
    assert "check/check.json" in results.files
    file = Path("runs/mine/check/check.json")
    file.write_text(json.dumps({**results.check, "model": "another"}))
    assert screen.open_results("runs/mine").check is None
    file.write_text("{")
    assert screen.open_results("runs/mine").check is None


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--model", "none.ckpt"], 2, "none.ckpt"),
        (["--out", "taken"], 1, "cannot write to taken"),
        (["--device", "cudda"], 2, 'device is "cudda"'),
    ],
)
def test_what_cannot_be_is_refused_with_its_exit_code(
    options: list[str], code: int, message: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("")
    assert main(["check", str(write(tiny(), tmp_path / "s.yaml")), *options]) == code
    assert message in capsys.readouterr().err


def test_a_table_of_a_check_without_anything_is_empty() -> None:
    assert table_of_check({"prediction": [], "source": [], "effects": {"stability": [], "agreement": []}}) == []
