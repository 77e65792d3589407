"""Checkpoints: every size from the tensors, every layout of upstream's files, and refusals that name the tensor."""

from pathlib import Path
from typing import Any

import pytest
import torch

from screen.errors import CheckpointError
from screen.models.ops import PLAIN
from screen.models.perturbgen.files.checkpoint import fingerprint, load_model
from screen.models.perturbgen.files.read_sizes import Declared, guess_encoder_heads
from screen.models.perturbgen.network.model import PerturbGen
from tests.support.golden import GOLDEN, golden_json, variant_checkpoint

CKPT = GOLDEN / "e2e" / "ckpt"
VARIANTS = golden_json("config")["variants"]


def saved(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_size_is_read_off_the_tensors(variant: str, golden_model: Any) -> None:
    sizes, spec = golden_model(variant).sizes, VARIANTS[variant]
    config = golden_json("config")["sizes"]
    assert (sizes.width, sizes.n_heads, sizes.head_width, sizes.n_blocks) == (24, 3, 10, 2)
    assert (sizes.n_tokens, sizes.n_positions, sizes.max_len) == (120, 137, config["max_len"])
    assert (sizes.n_time_points, sizes.n_genes) == (3, 61)
    assert sizes.encoder.kind == spec["encoder"]
    assert sizes.position_mode == spec["pos_encoding_mode"]
    assert sizes.loss_mode == spec["loss_mode"]
    assert sizes.dispersion_levels == spec["n_theta_conditions"]
    assert sizes.predicts_size_factor is not spec["use_observed_size_factor"]
    assert (sizes.count_activation == "softmax") is spec["use_size_factor"]


def test_a_checkpoint_that_pickles_an_anndata_gives_the_same_weights_and_runs_nothing() -> None:
    plain, _ = load_model(CKPT / "count_zinb.ckpt", Declared())
    with_anndata, checkpoint = load_model(CKPT / "count_zinb_with_anndata.ckpt", Declared())
    assert fingerprint(plain) == fingerprint(with_anndata)
    stored = checkpoint.hyper_parameters["tgt_adata"]
    assert {type(v).__name__ for v in stored.values()} == {"Placeholder"}


def test_a_bare_state_dict_gives_the_same_weights() -> None:
    lightning, _ = load_model(CKPT / "count_zinb.ckpt", Declared())
    bare, _ = load_model(CKPT / "count_zinb_plain.bin", Declared(num_heads=3))
    assert fingerprint(lightning) == fingerprint(bare)


@pytest.mark.parametrize("wrap", ["module", "compiled", "nested encoder file", "encoder file"])
def test_other_layouts_of_the_same_weights_load(wrap: str, tmp_path: Path) -> None:
    whole, _ = load_model(CKPT / "count_zinb.ckpt", Declared())
    state = saved(CKPT / "count_zinb.ckpt")["state_dict"]
    path, encoder_path = tmp_path / "model.ckpt", None
    if wrap == "module":
        torch.save({"module": {**state, "onehot": torch.zeros(3)}}, path)
    elif wrap == "compiled":
        torch.save({"state_dict": {k.replace("decoder.", "decoder._orig_mod.", 1): v for k, v in state.items()}}, path)
    else:
        torch.save({k: v for k, v in state.items() if "encoder_layers" not in k}, path)
        encoder_path = CKPT / "encoder.ckpt"
        if wrap.startswith("nested"):
            inner = {
                k.replace("transformer.", "transformer.encoder_layers.model."): v
                for k, v in saved(encoder_path)["state_dict"].items()
            }
            encoder_path = tmp_path / "encoder.ckpt"
            torch.save({"state_dict": inner}, encoder_path)
    model, _ = load_model(path, Declared(num_heads=3), encoder_path)
    assert set(model.state_dict()) == set(whole.state_dict())
    if encoder_path is None:
        assert fingerprint(model) == fingerprint(whole)


def test_without_any_encoder_the_message_says_so(tmp_path: Path) -> None:
    state = saved(CKPT / "count_zinb.ckpt")["state_dict"]
    path = tmp_path / "model.ckpt"
    torch.save({k: v for k, v in state.items() if "encoder_layers" not in k}, path)
    with pytest.raises(CheckpointError, match=r"holds no encoder.*no encoder_path is given"):
        load_model(path, Declared(num_heads=3))


@torch.inference_mode()
def test_a_chained_encoder_runs_every_block_and_an_unchained_one_only_the_last(
    golden_model: Any, tmp_path: Path
) -> None:
    path = variant_checkpoint("zinb", tmp_path / "zinb.ckpt")
    chained: PerturbGen = load_model(path, Declared(encoder_num_heads=2, chained=True))[0]
    unchained: PerturbGen = golden_model("zinb")
    inner = chained.encoder_layers.model
    ids = torch.tensor([[2, 40, 30, 3, 0]])
    keep = ids != 0
    x = inner.token_embedding(ids) + inner.pos_embedding(1, 5)
    last = inner.decoder_block["2"](PLAIN, x, keep)
    torch.testing.assert_close(unchained.encode(ids), last, rtol=0, atol=1e-6)
    for number in "012":
        x = inner.decoder_block[number](PLAIN, x, keep)
    torch.testing.assert_close(chained.encode(ids), x, rtol=0, atol=1e-6)
    assert (x - last).abs().max() > 0.01
    assert list(unchained.encoder_layers.model.decoder_block) == ["2"]


@torch.inference_mode()
def test_a_row_without_any_key_attends_to_nothing(golden_model: Any) -> None:
    model: PerturbGen = golden_model("zinb")
    target, empty = torch.tensor([[9, 12, 0], [9, 12, 20]]), torch.zeros(2, 4, dtype=torch.int64)
    hidden = model.predict(empty, {1: target}, [1])[1]
    assert torch.isfinite(hidden).all()
    other = model.decode(target, 1, torch.randn(2, 7, 24), torch.zeros(2, 7, dtype=torch.bool))
    torch.testing.assert_close(hidden, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("inner", "heads"), [(768, 8), (64, 8), (28, 2), (12, 2), (7, 1)])
def test_the_assumed_encoder_heads_leave_an_even_head_width(inner: int, heads: int) -> None:
    assert guess_encoder_heads(inner) == heads


def test_combined_positions_need_the_number_of_time_points(tmp_path: Path) -> None:
    path = variant_checkpoint("pe_comb_sin", tmp_path / "comb.ckpt")
    content = saved(path)
    del content["hyper_parameters"]["n_total_tps"]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="n_total_tps"):
        load_model(path, Declared(encoder_num_heads=2))
    assert load_model(path, Declared(encoder_num_heads=2, n_tps_hint=3))[0].sizes.n_positions == 137


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"d_model": 32}, "d_model is 32 in the configuration but 24"),
        ({"num_layers": 6}, "num_layers is 6 in the configuration but 2"),
        ({"d_ff": 11}, "d_ff is 11 in the configuration but 10"),
        ({"max_seq_length": 40}, "max_seq_length is 40 in the configuration but 37"),
        ({"loss_mode": "nb"}, "loss_mode is nb in the configuration but zinb"),
        ({"num_heads": 5}, "num_heads is 5 in the configuration but 3"),
        (
            {"encoder": "Transformer_encoder"},
            'encoder is "Transformer_encoder" in the configuration but .* holds a "scmaskgit"',
        ),
        ({"encoder_num_heads": 5}, "encoder_num_heads 5 does not divide the attention width 28"),
    ],
)
def test_a_configuration_that_disagrees_is_refused_with_both_values(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_model(CKPT / "count_zinb.ckpt", Declared(**declared))


class Loud(torch.nn.Module):
    """A module whose state, when loaded, shows that its code ran."""

    def __init__(self) -> None:
        super().__init__()
        self.x = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return (self.x, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        print("CODE RAN")  # noqa: T201
        self.x = state[0]
        self.training = state[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_archive_that_carries_code_is_refused_before_it_runs(tmp_path: Path, capfd: Any) -> None:
    torch.jit.save(torch.jit.script(Loud()), tmp_path / "evil.ckpt")
    torch.jit.load(tmp_path / "evil.ckpt")
    assert "CODE RAN" in capfd.readouterr().out
    with pytest.raises(CheckpointError, match="TorchScript archive, which carries code"):
        load_model(tmp_path / "evil.ckpt", Declared())
    assert "CODE RAN" not in capfd.readouterr().out
