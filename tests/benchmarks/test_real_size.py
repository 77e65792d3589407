"""A checkpoint of the published size (12 x 768 encoder, 6 x 768 decoder, 2,000 genes) loads and screens within 4 GB."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = '''
import resource, sys
from pathlib import Path
import anndata as ad, numpy as np, pandas as pd, scipy.sparse as sp, torch, yaml
from screen.cli.main import main
from screen.models.perturbgen.network.model import PerturbGen
from screen.models.perturbgen.network.sizes import EncoderSizes, Sizes

folder, n_genes, rng = Path(sys.argv[1]), 2000, np.random.default_rng(0)


def save_checkpoint():
    """Random weights under upstream's names, the eleven unused blocks and the token logits included."""
    encoder = EncoderSizes("scmaskgit", 19003, 768, 8, 96, 12, 4096, 3, 768, chained=True)
    sizes = Sizes(encoder, n_genes + 54, 768, 8, 32, 6, 897, 1, n_genes, "time_pos_sin", "zinb", 1)
    torch.manual_seed(0)
    weights = PerturbGen(sizes).state_dict()
    state = {f"decoder.{k}" if k.startswith("count_decoder") else f"decoder.pretrained_model.{k}": v for k, v in weights.items()}
    state["theta"] = state.pop("decoder.pretrained_model.theta")
    state["decoder.pretrained_model.encoder_layers.model.decoder_fc.weight"] = torch.zeros(19000, 768)
    state["decoder.pretrained_model.decoder_fc.weight"] = torch.zeros(n_genes + 54, 768)
    state |= {k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.pretrained_model.")}
    torch.save({"state_dict": state, "hyper_parameters": {"num_heads": 8}}, folder / "real.ckpt")


if sys.argv[2] == "make":
    save_checkpoint()
    names = [f"ENSG{i:011d}" for i in range(n_genes)]
    table = {"ensembl_id": names, "symbol": names, "token_id": np.arange(n_genes) * 9 + 4, "row_id": np.arange(n_genes) + 4, "median": 1.0}
    pd.DataFrame(table).to_csv(folder / "genes.tsv", sep="\\t", index=False)
    counts = sp.csr_matrix(rng.poisson(0.25, (6, n_genes)).astype(np.float32))
    obs = pd.DataFrame({"state": ["a"] * 3 + ["b"] * 3}, index=[f"cell{i}" for i in range(6)])
    ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=names)).write_h5ad(folder / "cells.h5ad")
    config = {
        "model": {"checkpoint": "real.ckpt", "vocabulary": "genes.tsv"},
        "cells": {"h5ad": "cells.h5ad", "state_column": "state", "source": "a", "targets": {1: "b"}},
        "library": {"genes": [names[int(g)] for g in counts[0].indices[:3]], "modes": ["mask", "overexpress"]},
        "predict": {"pred_tps": [1]},
        "null": {"n": 0},
    }
    (folder / "real.yaml").write_text(yaml.safe_dump(config))
else:
    code = main(["run", str(folder / "real.yaml"), "--out", str(folder / "out")])
    print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    sys.exit(code)
'''


@pytest.mark.long
@pytest.mark.filterwarnings("default")
def test_a_real_checkpoint_screens_a_few_cells_within_4_gb(tmp_path: Path) -> None:
    for step in ("make", "run"):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), step]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    peak_kb = int(done.stdout.split("PEAK")[1])
    assert peak_kb < 4 * 2**20
    assert "6 perturbations x 3 cells" in done.stdout
    assert (tmp_path / "out" / "hits.parquet").is_file()
    (tmp_path / "real.ckpt").unlink()
