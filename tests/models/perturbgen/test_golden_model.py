"""Every golden case: the upstream model's own inputs and outputs, through our model and through the engine's parts."""

from typing import Any

import numpy as np
import pytest
import torch

from screen.cells.bank import SOURCE, Ragged, State, TokenBank
from screen.cells.vocabulary import SPECIAL_IDS, Vocabulary
from screen.engine.effects import cosine, gene_cosine
from screen.engine.rows import RowBuilder
from screen.models.perturbgen.adapter import PerturbGenAdapter
from screen.models.perturbgen.network.count_head import negative_log_likelihood
from screen.models.perturbgen.network.model import PerturbGen
from screen.planning.perturbations import Perturbation
from screen.planning.window import Window
from tests.support.golden import golden, golden_json, scale_error

CASES = golden_json("cases")["cases"]
TOLERANCE = 1e-5
CONDITION_IDS = (65, 66, 67, 68, 69)
MAX_LEN = 37


def vocabulary(case: dict[str, Any]) -> Vocabulary:
    inputs = golden("inputs")
    names = tuple(str(n) for n in inputs["gene_names"])
    row_id = inputs["gene_row_id"].astype(np.int64)
    is_torch = case["variant"].startswith("enc_transformer")
    source = row_id if is_torch else inputs["gene_src_token_id"].astype(np.int64)
    return Vocabulary(names, names, names, source, row_id)


def bank(case: dict[str, Any]) -> TokenBank:
    inputs = golden("inputs")
    source = inputs[golden_json("config")["variants"][case["variant"]]["src_ids"]]
    index = np.arange(len(source))
    states = {SOURCE: State(Ragged.from_rows([r[r != 0] for r in source]), index)}
    for t in (1, 2, 3):
        rows = Ragged.from_rows([r[r != 0] for r in inputs[f"tgt_input_ids_t{t}"]])
        obs = {c: inputs[f"{c}_t{t}"].astype(object) for c in ("cell_type", "tissue")}
        states[t] = State(rows, index, obs, None, inputs[f"tgt_size_factor_t{t}"])
    return TokenBank(states, tuple(map(str, index)))


def condition_ids(case: dict[str, Any], cells: TokenBank) -> dict[int, Any]:
    if not case["condition_tokens"]:
        return {t: np.zeros((cells.n_cells, 0), dtype=np.int64) for t in (1, 2, 3)}
    table = golden_json("config")["condition_dict"]
    ids = {
        t: np.stack([[table[c][v] for v in cells.states[t].obs[c]] for c in ("cell_type", "tissue")], axis=1)
        for t in (1, 2, 3)
    }
    return {t: np.zeros_like(v) for t, v in ids.items()} if case["pad_condition"] else ids


def perturbation(case: dict[str, Any]) -> Perturbation:
    columns = [list(golden("inputs")["gene_row_id"]).index(r) for r in case["gene_row_ids"]]
    edited = case["pert_tps"] or sorted({*case["pred_tps"], *(case["context_tps"] or ())})
    return Perturbation(
        tuple(columns), case["mode"], tuple(case["site"]), tuple(edited) if "tgt" in case["site"] else ()
    )


def engine(case: dict[str, Any], model: PerturbGen) -> tuple[RowBuilder, PerturbGenAdapter]:
    cells = bank(case)
    context = tuple(case["context_tps"] or case["pred_tps"])
    window = Window(tuple(case["pred_tps"]), context, MAX_LEN, pool_everywhere=True)
    conditions = CONDITION_IDS if case["condition_tokens"] else ()
    rows = RowBuilder(cells, vocabulary(case), window, condition_ids(case, cells), case["exclude_src"], conditions)
    adapter = PerturbGenAdapter(
        model, window.pred_tps, window.context_tps, case["context_mode"], readout="mu", conditions=conditions
    )
    return rows, adapter


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_single_cells_through_the_engine_equal_upstream(case: dict[str, Any], golden_model: Any) -> None:
    rows, adapter = engine(case, golden_model(case["variant"]))
    perturbed, control = golden("perturbed"), golden("control")
    prefix, control_prefix = case["perturbed_key"], case["control_key"]
    p, n_cond = perturbation(case), 2 if case["condition_tokens"] else 0
    table, n_genes = torch.from_numpy(vocabulary(case).column_of_token("tgt")), len(vocabulary(case))
    found: dict[str, list[Any]] = {}
    for k, cell in enumerate(perturbed[f"{prefix}/kept_rows"]):
        edited, plain = rows.edited(int(cell), p), rows.control(int(cell))
        check_ids(perturbed, prefix, k, edited, case["pred_tps"])
        check_ids(control, control_prefix, int(cell), plain, case["pred_tps"])
        after, before = adapter.predict(edited, keep_hidden=True), adapter.predict(plain, keep_hidden=True)
        for t in case["pred_tps"]:
            found.setdefault(f"mean_t{t}", []).append(after.embedding_BD[t][0].numpy())
            found.setdefault(f"mu_t{t}", []).append(after.counts(t)[0].numpy())
            found.setdefault(f"cos_mean_t{t}", []).append(cosine(before.embedding_BD[t], after.embedding_BD[t])[0])
            skipped = len(p.genes) if p.mode == "overexpress" and "tgt" in p.sites else 0
            ids = plain.row(t).ids_BL[:, n_cond:], edited.row(t).ids_BL[:, n_cond:]
            hidden = before.hidden_BLD[t][:, n_cond:], after.hidden_BLD[t][:, n_cond:]
            cosines = gene_cosine(ids[0], hidden[0], ids[1], hidden[1], table, n_genes, torch.tensor([skipped]))
            found.setdefault(f"cos_gene_t{t}", []).append(cosines[0])
    for name, values in found.items():
        assert scale_error(np.array(values), perturbed[f"{prefix}/{name}"]) <= TOLERANCE, name


def check_ids(arrays: Any, prefix: str, row: int, rows: Any, pred_tps: list[int]) -> None:
    """Trailing pads aside, the ids fed to the model are upstream's."""
    pairs = [("src_ids", rows.source.ids_BL)] + [(f"tgt_ids_t{t}", rows.row(t).ids_BL) for t in pred_tps]
    for name, ours in pairs:
        theirs = arrays[f"{prefix}/{name}"][row]
        padded = np.zeros_like(theirs)
        padded[: ours.shape[1]] = ours[0].numpy()
        np.testing.assert_array_equal(padded, theirs, err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
@pytest.mark.parametrize("side", ["control", "perturbed"])
@torch.inference_mode()
def test_padded_batches_through_the_model_equal_upstream(case: dict[str, Any], side: str, golden_model: Any) -> None:
    arrays, prefix = golden(side), case[f"{side}_key"]
    model: PerturbGen = golden_model(case["variant"])
    ids = {
        n: torch.from_numpy(v.astype(np.int64)) for n, v in arrays.items() if n.startswith(prefix + "/") and "_ids" in n
    }
    target = {int(n[-1]): v for n, v in ids.items() if "tgt_ids" in n}
    source = ids[f"{prefix}/src_ids"]
    hidden = model.predict(source, target, case["pred_tps"], case["context_tps"], case["context_mode"])
    excluded = [*SPECIAL_IDS, *(CONDITION_IDS if case["condition_tokens"] else ())]
    if side == "perturbed" and "tgt" in case["site"]:
        excluded += case["gene_row_ids"]
    ours = {"enc": model.encode(source)}
    for t in case["pred_tps"]:
        pooled = model.pool(hidden[t], target[t], torch.tensor(excluded))
        head = model.count_decoder(pooled)
        ours |= {f"dec_t{t}": hidden[t], f"mean_t{t}": pooled, f"head_t{t}": head.head_BG}
        if head.dropout_logit_BG is not None:
            ours[f"zi_logits_t{t}"] = head.dropout_logit_BG
        if head.size_factor_B1 is not None:
            ours |= {
                f"pred_size_factor_t{t}": head.size_factor_B1,
                f"mu_predsf_t{t}": head.head_BG * head.size_factor_B1,
            }
    n_compared = 0
    for name, value in ours.items():
        if f"{prefix}/{name}" in arrays:
            reference, array = arrays[f"{prefix}/{name}"], value.numpy()
            if name == "enc":  # pad positions are never read; with Transformer_encoder upstream fills them differently
                reference, array = reference[source.numpy() != 0], array[source.numpy() != 0]
            assert scale_error(array, reference) <= TOLERANCE, name
            n_compared += 1
    assert n_compared >= len(case["pred_tps"])


@torch.inference_mode()
def test_token_logits_follow_from_the_decoder_output(golden_model: Any) -> None:
    weights = golden("weights_zinb")
    head = {k: torch.from_numpy(weights[f"decoder.pretrained_model.decoder_fc.{k}"]) for k in ("weight", "bias")}
    model = golden_model("zinb")
    for arrays, prefix in ((golden("control"), "c00"), (golden("perturbed"), "src_delete_1g")):
        source, target = (torch.from_numpy(arrays[f"{prefix}/{n}"].astype(np.int64)) for n in ("src_ids", "tgt_ids_t1"))
        logits = model.predict(source, {1: target}, [1])[1] @ head["weight"].T + head["bias"]
        assert scale_error(logits[:3].numpy(), arrays[f"{prefix}/logits_t1"]) <= TOLERANCE


@pytest.mark.parametrize("variant", ["nb", "zinb", "zinb_cond"])
@torch.inference_mode()
def test_dispersion_and_likelihood_equal_upstream(variant: str, golden_model: Any) -> None:
    model, inputs, reference = golden_model(variant), golden("inputs"), golden("likelihood")
    prefix = {"nb": "c01", "zinb": "c00", "zinb_cond": "c05"}[variant]
    control = golden("control")
    level = torch.from_numpy(inputs["combined_batch"]) if variant == "zinb_cond" else torch.zeros(11, dtype=torch.int64)
    dispersion = model.dispersion(level)
    assert scale_error(dispersion.numpy(), reference[f"{variant}/dispersion"]) <= TOLERANCE
    total = 0.0
    for t in (1, 2):
        head = model.count_decoder(torch.from_numpy(control[f"{prefix}/mean_t{t}"]))
        mu = head.head_BG * torch.from_numpy(inputs[f"tgt_size_factor_t{t}"])[:, None]
        nll = negative_log_likelihood(
            torch.from_numpy(inputs[f"tgt_counts_t{t}"]), mu, dispersion, head.dropout_logit_BG
        )
        assert scale_error(nll.numpy(), reference[f"{variant}/nll_per_cell_t{t}"]) <= TOLERANCE
        total += float(nll.mean())
    assert scale_error(np.array(total), reference[f"{variant}/loss_total"]) <= TOLERANCE


@torch.inference_mode()
def test_the_expected_readout_is_the_mean_that_upstream_samples_around(golden_model: Any) -> None:
    case = next(c for c in CASES if c["variant"] == "zinb_cond" and not c["context_mode"])
    rows, adapter = engine(case, golden_model("zinb_cond"))
    expected = PerturbGenAdapter(adapter.model, adapter.pred_tps, adapter.context_tps, readout="expected")
    ours = np.concatenate([expected.predict(rows.control(c)).counts(1).numpy() for c in range(11)])
    assert scale_error(ours, golden("likelihood")["zinb_cond/expected_sample_mean_t1"]) <= TOLERANCE


def test_size_factors_are_observed_predicted_or_left_out(golden_model: Any) -> None:
    case = next(c for c in CASES if c["variant"] == "zinb_predsf" and not c["context_mode"])
    rows, observed = engine(case, golden_model("zinb_predsf"))
    settings = {
        s: PerturbGenAdapter(observed.model, (1, 2), (1, 2), readout="mu", size_factor=s) for s in ("predicted", "none")
    }
    control = golden("control")
    for cell in range(11):
        plain = rows.control(cell)
        predicted = settings["predicted"].predict(plain).counts(1).numpy()[0]
        share = settings["none"].predict(plain).counts(1).numpy()[0]
        assert scale_error(predicted, control[f"{case['control_key']}/mu_predsf_t1"][cell]) <= TOLERANCE
        observed_total = golden("inputs")["tgt_size_factor_t1"][cell]
        assert scale_error(share * observed_total, control[f"{case['control_key']}/mu_t1"][cell]) <= TOLERANCE
