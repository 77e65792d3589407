"""Evaluate: on simulated real screens a perfect, a covariates-only and a random prediction get what they deserve."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import polars as pl
import pytest
from scipy import sparse

from demo.planted.real_screen import COLUMN, CONTROL, control_expression, write_real
from demo.planted.sizes import Sizes
from demo.planted.written import build
from screen.cli.main import main
from screen.edits import MASK, OVEREXPRESS
from screen.errors import CellError, ConfigError
from screen.evaluate import evaluation as module
from screen.evaluate import profile_level, screen_level
from screen.evaluate.evaluation import Evaluation, evaluate
from screen.evaluate.labels import vocabulary_of
from screen.evaluate.predicted import Predicted, edit_of, predicted, predicted_changes
from screen.evaluate.rank_metrics import resampled
from screen.results.results import Results, open_results

ENLARGED = 25.0
"""Planted changes are about 1 % each: real ones are so many times as large, to be seen in 40 cells."""
TIME = 1


class Planted:
    """A finished planted screen, what it predicts, and real screens beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = build(
            folder / "screen", Sizes(n_perturbations=250, n_strata=2, n_cells=20, n_nulls=20, has_replicates=False)
        )
        voc = vocabulary_of(self.results.store)
        column_of = {e: g for g, e in enumerate(voc.ensembl_id)}
        edit = edit_of(self.results, MASK.name, TIME)
        self.predicted: Predicted = predicted(self.results, edit, self.results.strata, column_of)
        genes = np.arange(len(voc))
        changes = predicted_changes(self.results, edit, self.results.strata, self.predicted.id_P, genes)
        self.change_PG = changes.astype(np.float64)
        self.gene_id_G = self.results.store.strings("genes/ensembl_id")
        self.base_G = control_expression(self.results, TIME)

    def real(self, name: str, change_PG: np.ndarray, **options: Any) -> Path:
        """Joint labels are written A_B."""
        labels = [n.replace("+", "_") for n in self.predicted.name_P]
        path = self.folder / f"{name}.h5ad"
        of = dict(zip(labels, change_PG, strict=True))
        return write_real(path, self.gene_id_G, self.base_G, of, n_cells=40, **options)

    def unrelated(self, size_P: np.ndarray) -> np.ndarray:
        """Changes of these sizes in random directions."""
        x_PG = np.random.default_rng(5).standard_normal(self.change_PG.shape)
        return np.asarray(x_PG / np.sqrt(np.square(x_PG).mean(1, keepdims=True)) * size_P[:, None])


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> Iterator[None]:
    """A quarter of the resamples: an interval's ends are as good as these tests ask, and take a quarter of the time."""
    with pytest.MonkeyPatch.context() as patched:
        for level in (screen_level, profile_level):
            patched.setattr(level, "resampled", partial(resampled, n_resampled=250))
        yield


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return Planted(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(scope="module")
def perfect(planted: Planted) -> Path:
    return planted.real("perfect", ENLARGED * planted.change_PG)


@pytest.fixture(scope="module")
def as_it_is(planted: Planted, perfect: Path) -> Evaluation:
    """The prediction, 25 times too small, against the perfect real screen."""
    return asked(planted.results, perfect)


def of(found: Evaluation, score: str, effect: str = "energy_distance") -> dict[str, Any]:
    return found.screen.filter(score=score, effect=effect).row(0, named=True)


def mean(found: Evaluation, metric: str, predictor: str = "prediction") -> float:
    return float(found.profiles.filter(metric=metric, predictor=predictor)["mean"][0])


def asked(results: Results, real: Path, **options: Any) -> Evaluation:
    return evaluate(results, real, COLUMN, CONTROL, **{"mode": MASK.name, "time": TIME, **options})


def enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    plain: Callable[..., Any] = predicted_changes
    monkeypatch.setattr(module, "predicted_changes", lambda *a: (ENLARGED * plain(*a)).astype(np.float32))


def test_a_perfect_prediction_is_perfect(planted: Planted, perfect: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enlarged(monkeypatch)
    found = asked(planted.results, perfect)
    for effect in ("energy_distance", "n_deg"):
        strength = of(found, "strength", effect)
        assert strength["low"] > 0.75 and strength["gain_low"] > 0.4 and strength["partial_spearman"] > 0.75
        assert strength["precision_50"] > 2 * of(found, "chance", effect)["precision_50"]
    strength = of(found, "strength")
    assert strength["auprc_low"] > 0.5 > 3 * of(found, "chance")["auprc"]
    assert abs(of(found, "detection")["spearman"]) < 0.3
    assert "strength beats the obvious" in " ".join(found.lines[:6])
    for metric in (
        "pearson_from_mean",
        "pearson_centred",
        "discrimination_l1",
        "discrimination_cosine",
        "overlap_at_n",
    ):
        others = [mean(found, metric, p) for p in ("no_change", "perturbation_mean")]
        # halves carry noise on both sides, what was planted on one
        assert mean(found, metric) > max(*others, mean(found, metric, "ceiling") - 0.05)
    assert mean(found, "discrimination_l1") > 0.95 and mean(found, "direction_match") > 0.95
    assert mean(found, "weighted_r2") > 0.25 > 0 > mean(found, "weighted_r2", "no_change")
    assert mean(found, "mae") < mean(found, "mae", "no_change")


def test_the_size_of_changes_counts_where_it_is_said_to(as_it_is: Evaluation) -> None:
    found = as_it_is
    # 25 times too small: directions are right, sizes are not
    assert mean(found, "pearson_centred") > 0.5 and mean(found, "discrimination_cosine") > 0.9
    assert mean(found, "pearson_from_mean") < 0.2 and mean(found, "weighted_r2") < 0


def test_a_prediction_from_covariates_alone_does_not_beat_them(planted: Planted) -> None:
    rng = np.random.default_rng(8)
    base_P = np.array([planted.base_G[list(g)].mean() for g in planted.predicted.genes])
    place_P = np.argsort(np.argsort(base_P)) / len(base_P)
    real = planted.real("covariates", planted.unrelated(0.1 + 0.25 * place_P + 0.03 * rng.standard_normal(len(base_P))))
    ours = open_results(planted.results.directory)
    made = dict(zip(planted.predicted.id_P, place_P + 0.1 * rng.random(len(base_P)), strict=True))
    value = pl.col("perturbation").replace_strict(made, default=None, return_dtype=pl.Float64)
    ours.__dict__["hits"] = ours.hits.with_columns(strength=value, specific_strength=value, null_z=value)
    found = asked(ours, real)
    for score in ("strength", "specific_strength", "null_z"):
        row = of(found, score)
        # it ranks well, as its covariates do, and without them nothing is left
        assert row["low"] > 0.6 and abs(row["partial_spearman"]) < 0.2 and row["gain_low"] < 0.02
    assert of(found, "expression")["low"] > 0.6
    assert "beats the obvious" not in " ".join(found.lines[:6]) or "the obvious beats" in " ".join(found.lines[:6])
    nothing_is_right(found)


def test_a_random_prediction_is_no_better_than_chance(planted: Planted) -> None:
    size_P = np.random.default_rng(9).lognormal(-1.5, 0.5, len(planted.change_PG))
    found = asked(planted.results, planted.real("random", planted.unrelated(size_P)))
    row = of(found, "strength")
    assert row["low"] < 0.05 and row["high"] > -0.05 and abs(row["partial_spearman"]) < 0.2
    assert row["auprc"] < 2.5 * of(found, "chance")["auprc"] and of(found, "real halves")["spearman"] > 0.9
    assert "beats the obvious" not in " ".join(found.lines[:6])
    nothing_is_right(found)


def nothing_is_right(found: Evaluation) -> None:
    n = found.perturbations.height
    # of n perturbations the mean score of chance is off by sqrt(1 / 12 n): three of these
    near = 3 / np.sqrt(12 * n)
    assert abs(mean(found, "discrimination_cosine") - 0.5) < near and abs(mean(found, "pearson_centred")) < 0.03
    assert abs(mean(found, "direction_match") - 0.5) < 0.05 and mean(found, "weighted_r2") < 0
    assert mean(found, "discrimination_cosine", "ceiling") > 0.8


def test_it_says_what_matched_and_is_the_same_each_time(
    planted: Planted, perfect: Path, as_it_is: Evaluation, tmp_path: Path
) -> None:
    data = ad.read_h5ad(perfect)
    labels = data.obs[COLUMN].astype(str).to_numpy()
    changed = {
        "ALL1": "all1",
        "ALL2": planted.gene_id_G[planted.predicted.genes[planted.predicted.name_P.index("ALL2")][0]],
    }
    changed |= {"ALL3": "no gene", "ALL4": "EARLY1+ALL4+x"}
    labels = np.array([changed.get(x, "_".join(x.split("_")[::-1])) for x in labels], dtype=object)
    labels[np.flatnonzero(labels == "ALL5")[5:]] = np.nan
    data.obs[COLUMN] = labels
    data = data[:, 10:].copy()
    data.write_h5ad(tmp_path / "other.h5ad")
    found = asked(planted.results, tmp_path / "other.h5ad", max_cells=20)
    (said,) = found.facts["comparisons"]
    n = as_it_is.perturbations.height
    assert said["n_compared"] == n - 3 == said["n_screened"] - 3
    assert (said["n_not_in_the_file"], said["n_with_too_few_real_cells"]) == (2, 1)
    assert said["labels_without_a_gene"] == ["EARLY1+ALL4+x", "no gene"]
    assert found.facts["genes"] == {"model": 400, "shared": 390}
    assert said["n_real_cells"] == 20 * (n - 3)
    joint = [x for x in found.perturbations["target_symbol"] if "+" in x]
    assert len(joint) > 10
    assert found.profiles.filter(predictor="additive", metric="overlap_at_n")["n"][0] > 5
    again = asked(planted.results, tmp_path / "other.h5ad", max_cells=20)
    for name in ("screen", "profiles", "perturbations"):
        assert getattr(found, name).equals(getattr(again, name))
    assert found.lines == again.lines and max(map(len, found.lines)) <= 80


def test_cell_types_are_compared_with_their_strata(planted: Planted, perfect: Path, tmp_path: Path) -> None:
    data = ad.read_h5ad(perfect)
    rng = np.random.default_rng(0)
    data.obs["type"] = rng.choice(["B cells", "Mast cells"], len(data))
    data.write_h5ad(tmp_path / "types.h5ad")
    found = asked(planted.results, tmp_path / "types.h5ad", celltype="type")
    assert (
        [c["stratum"] for c in found.facts["comparisons"]] == ["B cells"] == found.screen["stratum"].unique().to_list()
    )
    assert found.lines[0].startswith("In B cells: Strength ranks")
    data.obs["type"] = "B cell"
    data.write_h5ad(tmp_path / "types.h5ad")
    with pytest.raises(CellError, match=r'with control cells it has B cell; strata: .*did you mean "B cells"'):
        asked(planted.results, tmp_path / "types.h5ad", celltype="type")


def test_the_command_writes_tables_and_says_one_sentence_first(
    planted: Planted, perfect: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, command = planted.results.directory, ["--real", str(perfect), "--control", CONTROL, "--time", str(TIME)]
    assert main(["evaluate", str(directory), *command]) == 2
    assert f"one mode is compared at a time, and this screen has delete, {MASK.name}, " in capsys.readouterr().err
    command += [
        "--mode",
        f"src:{MASK.name}",
        "--out",
        str(tmp_path / "out"),
        "--expect",
        "ALL1=MODA1,NOGENE",
        "ALL2=MODB1",
    ]
    assert main(["evaluate", str(directory), *command]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Strength ranks the real effects of ")
    assert "Positive controls: " in said and "NOGENE" in said
    tables = {p.stem: pl.read_parquet(p) for p in (tmp_path / "out" / "evaluation").glob("*.parquet")}
    assert set(tables) == {"screen", "profiles", "perturbations", "expected"}
    assert tables["perturbations"].height > 100 and tables["expected"]["gene"].n_unique() == 3
    summary = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert summary["edit"] == f"src:{MASK.name} at time point 1" and summary["summary"][0] in said
    assert main(["evaluate", str(directory), "--mode", "maks", *command[:6]]) == 2
    assert f'no mode "maks" in this screen; there is delete, {MASK.name}, {OVEREXPRESS.name}' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perturbation_column": "perturbatoin"}, r'no obs column "perturbatoin" .*did you mean "perturbation"'),
        ({"control": "non_targeting"}, r'never says "non_targeting" .*did you mean "non-targeting" \([\d,]+ cells\)'),
        ({"celltype": "kind"}, r'no obs column "kind" \(--celltype\); columns: perturbation'),
        ({"layer": "raw"}, r'no layer "raw"'),
    ],
)
def test_what_is_not_there_is_named(planted: Planted, perfect: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CellError, match=message):
        evaluate(planted.results, perfect, **{"control": CONTROL, "mode": MASK.name, "time": TIME, **options})


def test_nothing_in_common_no_counts_and_no_question_are_errors(planted: Planted, tmp_path: Path) -> None:
    zeros = np.zeros(400)
    path = write_real(tmp_path / "r.h5ad", planted.gene_id_G, planted.base_G, {"TP53": zeros, "MYC": zeros})
    with pytest.raises(CellError, match=r"no perturbation of r.h5ad was screened: .* says MYC, TP53 \(0 of these 2"):
        asked(planted.results, path)
    data = ad.read_h5ad(planted.real("logged", 0 * planted.change_PG))
    data.X = sparse.csr_matrix(np.log1p(data.X.toarray()))
    data.write_h5ad(tmp_path / "logged.h5ad")
    with pytest.raises(CellError, match=r"raw counts are needed, but X holds .*the file has no layers"):
        asked(planted.results, tmp_path / "logged.h5ad")
    with pytest.raises(ConfigError, match=r"nothing to evaluate against"):
        evaluate(planted.results)
    with pytest.raises(ConfigError, match=r"time point is compared at a time, and this screen has 1, 2"):
        evaluate(planted.results, path, mode=MASK.name)
    with pytest.raises(ConfigError, match=r"max_cells is 3"):
        asked(planted.results, path, max_cells=3)
