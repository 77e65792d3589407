"""The baseline of the speed figures: it gives upstream's numbers, and its FLOPs are those that torch counts."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.engine.upstream_shaped import (
    Edit,
    PaddedCells,
    Result,
    Settings,
    UpstreamShaped,
    count_flops,
    flops,
    real_sizes,
)
from screen.models.perturbgen.network.model import PerturbGen
from tests.support.golden import golden, golden_json, scale_error
from tests.support.long import combinations

CASES = [c for c in golden_json("cases")["cases"] if not c["variant"].startswith("enc_transformer")]
TIMES = (1, 2, 3)
TOLERANCE = 1e-5


def tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.int64))


def condition_table(case: dict[str, Any]) -> dict[int, torch.Tensor]:
    if not case["condition_tokens"]:
        return {}
    table, inputs = golden_json("config")["condition_dict"], golden("inputs")
    columns = {t: [[table[c][v] for v in inputs[f"{c}_t{t}"]] for c in ("cell_type", "tissue")] for t in TIMES}
    return {t: tensor(v).T * (not case["pad_condition"]) for t, v in columns.items()}


def padded_cells(case: dict[str, Any]) -> PaddedCells:
    inputs = golden("inputs")
    source = tensor(inputs[golden_json("config")["variants"][case["variant"]]["src_ids"]])
    size = {t: torch.from_numpy(inputs[f"tgt_size_factor_t{t}"]) for t in TIMES}
    return PaddedCells(source, {t: tensor(inputs[f"tgt_input_ids_t{t}"]) for t in TIMES}, condition_table(case), size)


def settings_of(case: dict[str, Any]) -> Settings:
    context = tuple(case["context_tps"] or ())
    conditions = (65, 66, 67, 68, 69) if case["condition_tokens"] else ()
    return Settings(
        tuple(case["pred_tps"]),
        context,
        case["context_mode"],
        exclude_src=case["exclude_src"],
        condition_ids=conditions,
    )


def edit_of(case: dict[str, Any]) -> Edit:
    everywhere = sorted({*case["pred_tps"], *(case["context_tps"] or ())})
    genes = tuple(case["gene_src_token_ids"]), tuple(case["gene_row_ids"])
    return Edit(*genes, case["mode"], tuple(case["site"]), tuple(case["pert_tps"] or everywhere))


def shaped(variant: str, model: PerturbGen) -> UpstreamShaped:
    state = {k: torch.from_numpy(v) for k, v in golden(f"weights_{variant}").items()}
    return UpstreamShaped.from_state(model, state)


def joined(results: list[Result], side: str, field: str, time: int) -> Any:
    return np.concatenate([getattr(getattr(r, side), field)[time].numpy() for r in results])


@pytest.mark.parametrize(("case", "batch_cells"), combinations(CASES, [64, 4], every=3))
def test_every_golden_case_is_reproduced_in_padded_batches(
    case: dict[str, Any], batch_cells: int, golden_model: Any
) -> None:
    loop = shaped(case["variant"], golden_model(case["variant"]))
    settings = replace(settings_of(case), batch_cells=batch_cells)
    results = list(loop.run(padded_cells(case), edit_of(case), settings))
    row_N = np.concatenate([r.row_B.numpy() for r in results])
    perturbed = {k: v for k, v in golden("perturbed").items() if k.startswith(case["perturbed_key"] + "/")}
    np.testing.assert_array_equal(row_N, perturbed[f"{case['perturbed_key']}/kept_rows"])
    for side, arrays, prefix in (
        ("perturbed", golden("perturbed"), case["perturbed_key"]),
        ("control", golden("control"), case["control_key"]),
    ):
        rows = slice(None) if side == "perturbed" else row_N
        source = np.concatenate([getattr(r, side).source_BL.numpy() for r in results])
        np.testing.assert_array_equal(source, arrays[f"{prefix}/src_ids"][rows])
        for t in case["pred_tps"]:
            ids = joined(results, side, "target_BL", t)
            np.testing.assert_array_equal(ids, arrays[f"{prefix}/tgt_ids_t{t}"][rows])
            for field, name in (("embedding_BD", "mean"), ("count_BG", "mu")):
                ours = joined(results, side, field, t)
                assert scale_error(ours, arrays[f"{prefix}/{name}_t{t}"][rows]) <= TOLERANCE, (side, name, t)


def test_a_batch_without_any_kept_cell_gives_nothing(golden_model: Any) -> None:
    case = CASES[0]
    loop = shaped(case["variant"], golden_model(case["variant"]))
    edit = replace(edit_of(case), source_genes=(9999,))
    assert list(loop.run(padded_cells(case), edit, settings_of(case))) == []


def test_the_expected_readout_is_mu_without_its_dropouts(golden_model: Any) -> None:
    case = next(c for c in CASES if c["name"] == "src_mask_1g")
    loop = shaped("zinb", golden_model("zinb"))
    results = list(loop.run(padded_cells(case), edit_of(case), replace(settings_of(case), readout="expected")))
    arrays = {n: golden("perturbed")[f"src_mask_1g/{n}_t1"] for n in ("mu", "zi_logits")}
    wanted = arrays["mu"] / (1 + np.exp(arrays["zi_logits"].astype(np.float64)))
    assert scale_error(joined(results, "perturbed", "count_BG", 1), wanted) <= TOLERANCE


def test_random_unused_layers_change_no_result_and_draw_from_no_global_generator(golden_model: Any) -> None:
    case, model = CASES[0], golden_model("zinb")
    before = torch.random.get_rng_state()
    random = UpstreamShaped.random(model, n_encoder_blocks=3, n_source_tokens=98)
    assert torch.equal(before, torch.random.get_rng_state())
    assert len(random.dead_blocks) == 2
    assert all(
        bool(torch.isfinite(v).all()) for layer, _ in random._unused("", "") for v in layer.state_dict().values()
    )
    runs = [list(x.run(padded_cells(case), edit_of(case), settings_of(case))) for x in (random, shaped("zinb", model))]
    for t in case["pred_tps"]:
        np.testing.assert_array_equal(*(joined(r, "perturbed", "count_BG", t) for r in runs))


@pytest.mark.parametrize("name", ["src_overexpress_1g", "ctx13_pred2_src_overexpress_1g", "cond_tgt_overexpress_2g"])
@pytest.mark.parametrize("attention", ["as run", "math"])
def test_the_formula_and_torch_count_the_same_flops(name: str, attention: str, golden_model: Any) -> None:
    case = next(c for c in CASES if c["name"] == name)
    loop, cells, settings = shaped("zinb", golden_model("zinb")), padded_cells(case), settings_of(case)
    n_cells, max_len = cells.source_CL.shape
    n_conditions = cells.condition_CN[1].shape[1] if cells.condition_CN else 0
    n_source_tokens = loop.encoder_logits.out_features
    formula = sum(flops(loop.model.sizes, max_len, settings, n_conditions, n_source_tokens).values())
    backends = [SDPBackend.MATH] if attention == "math" else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(backends):
        counted = count_flops(lambda: list(loop.run(cells, edit_of(case), settings)))
    assert counted == formula * n_cells


def test_at_real_size_the_flops_are_those_on_record() -> None:
    def total(max_len: int) -> float:
        return sum(flops(real_sizes(max_len, 1), max_len, Settings((1,))).values()) / 1e9

    assert round(total(1233)) == 520
    assert round(total(797)) == 302
