"""Upstream: where the relative paths of its YAML lead."""

from pathlib import Path

import yaml

from demo.variants.recipe import Changes, Place, recipe

KIND = "Upstream's YAML"
FILES = ("count.ckpt", "genes.pkl", "tokens.pkl")
FOLDERS = ("source.dataset", "targets", "h5ad")


def project(place: Place, name: str, beside: bool, here: bool, written: str = "") -> Changes:
    """A YAML file in the folder `conf` of a project, the current directory, and what it names in either."""
    root = place.folder / name
    for folder in [root / "conf"] * beside + [root] * here:
        for path in FOLDERS:
            (folder / path).mkdir(parents=True)
        for path in FILES:
            (folder / path).write_bytes(b"")
    (root / "conf").mkdir(parents=True, exist_ok=True)
    prefix = f"{root}/" if written == "absolute" else ""
    raw = {
        "data": {
            "src_dataset_file": f"{prefix}source.dataset", "tgt_dataset_folder": f"{prefix}targets",
            "tgt_adata_folder": f"{prefix}h5ad",
        },
        "trainer": {
            "mapping_dict_path": f"{prefix}genes.pkl", "tokenid_to_rowid_path": f"{prefix}tokens.pkl",
            "perturbation_sequence": ["src"], "perturbation_mode": "delete", "pred_tps": [1], "context_mode": False,
            "genes_to_perturb": ["ENSG00000115415"], "output_dir": "out",
        },
        "model": {"ckpt_masking_path": f"{prefix}count.ckpt"},
    }  # fmt: skip
    (root / "conf" / "perturbation.yaml").write_text(yaml.safe_dump(raw))
    return {"upstream": {"yaml": Path("conf/perturbation.yaml"), "from": root}}


@recipe(KIND, "what it names lies beside it")
def beside(place: Place) -> Changes:
    return project(place, "beside", True, False)


@recipe(
    KIND, "what it names lies in the current directory, from which upstream is called", "looked beside the YAML only"
)
def here(place: Place) -> Changes:
    return project(place, "here", False, True)


@recipe(KIND, "both are there and differ", "took one in silence")
def both(place: Place) -> Changes:
    return project(place, "both", True, True)


@recipe(KIND, "absolute paths")
def absolute(place: Place) -> Changes:
    return project(place, "absolute", False, True, "absolute")


@recipe(KIND, "neither is there", "one place named")
def neither(place: Place) -> Changes:
    return project(place, "neither", False, False)
