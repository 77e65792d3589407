"""Real effects: Welch's test and streamed sums equal plain definitions, halves are disjoint, a broken file is refused."""

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
from scipy import sparse
from scipy.stats import ttest_ind

from demo.planted.real_screen import COLUMN, CONTROL, write_real
from screen.cells.vocabulary import Vocabulary
from screen.errors import CellError
from screen.evaluate import real_effects as module
from screen.evaluate.energy import log1p_cp10k
from screen.evaluate.real_cells import EVERY_TYPE, open_real
from screen.evaluate.real_effects import RealEffects, real_effects, welch_p
from screen.stats.false_discovery import benjamini_hochberg

N_GENES = 20
IDS = tuple(f"ENSG000000000{g:02d}" for g in range(N_GENES))
VOCABULARY = Vocabulary(IDS, IDS, IDS, np.arange(N_GENES) + 10, np.arange(N_GENES) + 10)
WANTED = {(0,): "a", (1,): "b", (0, 1): "ab"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    change = {name: rng.normal(0, 0.3, N_GENES) for name in (IDS[0], IDS[1], f"{IDS[0]}_{IDS[1]}")}
    path = tmp_path_factory.mktemp("real") / "real.h5ad"
    sizes = dict(zip(change, (30, 25, 12), strict=True))
    return write_real(path, np.array(IDS, dtype=object), rng.uniform(1, 7, N_GENES), change, sizes, n_controls=50)


def of(path: Path) -> RealEffects:
    with open_real(path, COLUMN, CONTROL, VOCABULARY, WANTED) as cells:
        return real_effects(cells, list(WANTED), EVERY_TYPE, 1000)


def test_sums_over_blocks_are_means_and_tests_of_all_cells(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("screen.cells.files.on_disk.SPARSE_ROWS_AT_ONCE", 7)
    monkeypatch.setattr("screen.cells.files.on_disk.CsrOnDisk.rows_at_once", 7)
    found, data = of(file), ad.read_h5ad(file)
    x = log1p_cp10k(sparse.csr_matrix(data.X.astype(np.float64))).toarray()
    control = x[data.obs[COLUMN] == CONTROL]
    for p, (genes, label) in enumerate(zip(WANTED, (IDS[0], IDS[1], f"{IDS[0]}_{IDS[1]}"), strict=True)):
        own = x[data.obs[COLUMN] == label]
        assert found.genes[p] == genes and found.n_cells_P[p] == len(own)
        assert np.max(np.abs(found.change_PG[p] - (own.mean(0) - control.mean(0)))) < 1e-6
        assert np.max(np.abs(found.variance_PG[p] - own.var(0, ddof=1))) < 1e-6
        p_G = ttest_ind(own, control, equal_var=False).pvalue
        fdr_G = benjamini_hochberg(p_G)
        fdr_G[list(genes)] = np.nan
        assert found.n_deg_P[p] == (fdr_G < 0.05).sum() and (found.is_changed_PG[p] == (fdr_G < 0.05)).all()
    assert np.max(np.abs(found.expression_G - control.mean(0))) < 1e-12
    assert (found.detection_G == (control > 0).mean(0)).all() and found.n_controls == 50


def test_reading_some_perturbations_at_a_time_changes_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = of(file)
    monkeypatch.setattr(module, "SUMS_BYTES", 1)
    parts = of(file)
    for name in ("energy_P", "energy_2P", "n_deg_P", "n_deg_2P", "change_PG", "change_2PG", "is_changed_second_PG"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name)), name


def test_halves_add_up_to_all_cells(file: Path) -> None:
    found = of(file)
    # 50, 30 and 12 cells are cut into equal halves, 25 are not
    for p in (0, 2):
        assert np.max(np.abs(found.change_2PG[:, p].mean(0) - found.change_PG[p])) < 1e-6
    assert np.max(np.abs(found.change_2PG[0, 0] - found.change_2PG[1, 0])) > 0.01


def test_a_gene_that_nobody_varies_in_has_no_p() -> None:
    n, zero, one = np.array([[5.0]]), np.zeros((1, 3)), np.ones((1, 3))
    assert np.isnan(welch_p(n, zero, zero, n, zero, zero)).all()
    assert (welch_p(n, one, one, n, zero, one) < 1).all()


def test_a_broken_index_is_refused_before_it_is_used(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.h5ad"
    path.write_bytes(file.read_bytes())
    with h5py.File(path, "r+") as raw:
        raw["X/indices"][3] = 10**6
    with pytest.raises(CellError, match=r"broken\.h5ad"):
        of(path)


def test_too_few_controls_are_said(tmp_path: Path) -> None:
    path = write_real(
        tmp_path / "few.h5ad",
        np.array(IDS, dtype=object),
        np.full(N_GENES, 3.0),
        {IDS[0]: np.zeros(N_GENES)},
        12,
        n_controls=4,
    )
    with pytest.raises(CellError, match=r'few.h5ad has 4 control cells \("non-targeting" in "perturbation"\); 10'):
        of(path)
