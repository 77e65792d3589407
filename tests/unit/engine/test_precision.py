"""Precisions: what each rounds, that fp16x2 is float32 on half-rounded weights, and that a pilot guards every run."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from screen.cli.main import main
from screen.config.sections import ComputeConfig
from screen.engine.choose import candidates
from screen.engine.executor import Executor
from screen.engine.precision import agreement, first_that_agrees, pilot, require_agreement
from screen.errors import ConfigError
from screen.models.products import (
    HalfPairProduct,
    OneDnnProduct,
    RoundedProduct,
    has_onednn_products,
    rounded,
)
from screen.store.store import ScreenStore
from tests.models.perturbgen.test_golden_model import CASES
from tests.models.perturbgen.test_packed_model import packed
from tests.support.golden import scale_error
from tests.support.tiny import tiny, write
from tests.unit.engine.test_engine import screen_of

CPU = torch.device("cpu")
floats = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


@given(st.lists(floats, min_size=1, max_size=20), st.sampled_from([("tf32", 10), ("bf16", 7)]))
def test_rounding_keeps_the_nearest_value_with_fewer_bits(values: list[float], kind: Any) -> None:
    name, n_bits = kind
    x = torch.tensor(values, dtype=torch.float32)
    mantissa, exponent = np.frexp(x.double().numpy())
    expected = np.ldexp(np.round(mantissa * 2 ** (n_bits + 1)), exponent - n_bits - 1)
    np.testing.assert_array_equal(rounded(x, name).double().numpy(), expected)


@given(st.integers(1, 40), st.integers(1, 24), st.sampled_from(["none", "gelu"]), st.integers(0, 2**31 - 1))
def test_half_pairs_multiply_as_the_doubled_product_would(n_rows: int, width: int, activation: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(width, 9)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(9, width, generator=generator) * 0.1)
    x = torch.randn(n_rows, width, generator=generator)
    y = nn.functional.gelu(x) if activation == "gelu" else x
    high = y.half()
    low = (y - high.float()).half()
    weight = linear.weight.detach().half().double()
    doubled = torch.cat([high, low], 1).double() @ torch.cat([weight, weight], 1).T + linear.bias.detach().double()
    ours = HalfPairProduct(linear, activation)(x).detach().double()
    # float32 accumulation of `width` terms
    bound = (y.abs().double() @ weight.abs().T + 1) * width * 2.0**-23
    assert ((ours - doubled).abs() <= bound).all()
    exact = y.double() @ weight.T + linear.bias.detach().double()
    # 22 bits of each activation are kept, or 2^-25 where a part is subnormal
    assert ((ours - exact).abs() <= bound + (y.abs().double() * 2.0**-21 + 2.0**-24) @ weight.abs().T).all()


@pytest.mark.skipif(not has_onednn_products(), reason="this torch has no oneDNN products")
@pytest.mark.parametrize("shape", [(0, 5), (1, 7), (3, 4, 33), (2, 1, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_onednn_products_are_as_close_as_torchs(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(shape[-1], 11, bias=bias), torch.randn(shape)
    with torch.no_grad():
        exact = copy.deepcopy(linear).double()(x.double())
        ours, plain = OneDnnProduct(linear)(x), linear(x)
    assert ours.shape == plain.shape
    if x.numel():
        worst = [float((y.double() - exact).abs().max()) for y in (ours, plain)]
        assert worst[0] <= 2 * worst[1] + float(exact.abs().max()) * 2.0**-22


def half_weights(model: nn.Module) -> nn.Module:
    """A copy whose products, the count head's aside, read weights rounded to float16."""
    changed = copy.deepcopy(model)
    for name, child in changed.named_modules():
        if not name.startswith("count_decoder"):
            for weight in ("weight", "in_proj_weight"):
                is_product = isinstance(child, nn.Linear) or weight == "in_proj_weight"
                if is_product and isinstance(p := getattr(child, weight, None), nn.Parameter):
                    p.data = p.data.half().float()
    return changed


def shaken(model: nn.Module) -> nn.Module:
    """A copy whose weights are no longer float16 numbers, as the golden ones are."""
    generator, changed = torch.Generator().manual_seed(0), copy.deepcopy(model)
    with torch.no_grad():
        for weight in changed.parameters():
            weight.mul_(1 + 1e-3 * torch.rand(weight.shape, generator=generator))
    return changed


@pytest.mark.parametrize("case", CASES[::6], ids=lambda c: c["name"])
@pytest.mark.parametrize("fuse", [True, False])
def test_fp16x2_is_float32_on_half_rounded_weights(case: dict[str, Any], fuse: bool, golden_model: Any) -> None:
    model = shaken(golden_model(case["variant"]))
    pairs = packed(case, lambda variant: model, "torch", 100, fuse, "fp16x2")
    plain = packed(case, lambda variant: half_weights(model), "torch", 100)
    exact = packed(case, lambda variant: model, "torch", 100)
    for name, values in plain.items():
        assert scale_error(pairs[name], values) <= 1e-5, name
    assert max(scale_error(exact[name], values) for name, values in plain.items()) > 1e-5


def test_fused_products_compute_what_the_separate_ones_do(golden_model: Any) -> None:
    for case in CASES[::9]:
        one, three = (packed(case, golden_model, "torch", 100, fuse) for fuse in (True, False))
        for name, values in three.items():
            assert scale_error(one[name], values) <= 1e-5, name


def test_the_pilot_tells_precisions_apart() -> None:
    screen = screen_of(("mask", "delete"), ("src",), (), False, 1000, 4)
    close, rough = (pilot(screen, Executor(CPU, precision=p)) for p in ("fp16x2", "bf16"))
    assert close.n_items > 50
    assert close.is_close
    assert close.median_error < 0.001 < 0.01 < rough.median_error
    assert not rough.is_close
    require_agreement(close)
    with pytest.raises(ConfigError, match=r"bf16 is not exact enough.*Use --precision float32"):
        require_agreement(rough)


def test_the_first_precision_that_agrees_is_taken_and_float32_where_none_does() -> None:
    screen = screen_of(("mask", "delete"), ("src",), (), False, 1000, 4)
    second = first_that_agrees(screen, Executor(CPU), ("bf16", "fp16x2", "float32"))
    assert second.executor.precision == second.record["precision"] == "fp16x2"
    assert [(a.precision, a.is_close) for a in second.tried] == [("bf16", False), ("fp16x2", True)]
    none = first_that_agrees(screen, Executor(CPU), ("bf16", "float32"))
    assert none.executor.precision == "float32"
    assert [a.is_close for a in none.tried] == [False]
    first = first_that_agrees(screen, Executor(CPU), ("delta16", "fp16x2", "float32"))
    assert first.executor.precision == "delta16"
    assert first.executor.scales


def test_what_auto_tries_depends_on_device_and_engine() -> None:
    gpu = torch.device("cuda", 0)
    assert candidates(ComputeConfig(), CPU) == ("float32",)
    assert candidates(ComputeConfig(), gpu) == ("delta16", "fp16x2", "float32")
    assert candidates(ComputeConfig(engine="packed"), gpu) == ("fp16x2", "float32")


def test_agreement_measures_errors_ranks_and_the_top() -> None:
    exact = np.array([[3.0, 4.0], [0.3, 0.4], [30.0, 40.0]])
    assert agreement("fp16x2", {"all": exact}, {"all": exact}).is_close
    swapped = agreement("tf32", {"all": exact}, {"all": exact[[1, 0, 2]]})
    assert swapped.rank_correlation == pytest.approx(0.5)
    assert swapped.median_error == pytest.approx(0.9)
    assert swapped.top_overlap == 1
    scaled = agreement("tf32", {"all": exact}, {"all": exact * 1.02})
    assert scaled.median_error == pytest.approx(0.02)
    assert not scaled.is_close


def test_limits_hold_for_every_group_and_edits_without_effect_do_not_count() -> None:
    exact = {
        name: np.random.default_rng(n).normal(size=(40, 5)) for n, name in enumerate(("mask src t1", "pad tgt t1"))
    }
    exact["mask src t1"][0] = 0
    rough = {"mask src t1": exact["mask src t1"] * 1.0001, "pad tgt t1": exact["pad tgt t1"].copy()}
    assert agreement("delta16", exact, rough).is_close
    # a twentieth of all items: no quantile over all of them would tell
    few = {**exact, "delete src t1": np.ones((3, 5))}
    found = agreement("delta16", few, {**rough, "delete src t1": np.full((3, 5), 1.2)})
    assert found.p90_error < 0.05
    assert not found.is_close
    assert found.worst[0] == "delete src t1"
    with pytest.raises(ConfigError, match=r"plain model in float64 .* most for delete src t1 \(0\.2, 0\.2\)"):
        require_agreement(found)


def test_a_run_keeps_the_pilots_figures_or_is_refused(tmp_path: Path, capsys: Any) -> None:
    config = write(tiny(), tmp_path / "s.yaml")
    assert main(["run", str(config), "--out", str(tmp_path / "half"), "--precision", "fp16x2"]) == 0
    assert "fp16x2 against float32" in capsys.readouterr().err
    provenance = json.loads((tmp_path / "half" / "provenance.json").read_text())
    assert provenance["pilot"]["median_error"] <= provenance["pilot"]["limits"]["median_error"]
    assert provenance["identity"]["precision"] == provenance["decided"]["precision"] == "fp16x2"
    assert main(["run", str(config), "--out", str(tmp_path / "half")]) == 0
    assert main(["run", str(config), "--out", str(tmp_path / "half"), "--precision", "float32"]) == 2
    assert "created with fp16x2" in capsys.readouterr().err
    assert main(["run", str(config), "--out", str(tmp_path / "rough"), "--precision", "bf16"]) == 2
    assert "not exact enough" in capsys.readouterr().err
    assert not ScreenStore.exists(tmp_path / "rough" / "screen.zarr")
    assert main(["run", str(config), "--engine", "reference", "--precision", "tf32"]) == 2
    assert "the reference engine computes in float32 or float64" in capsys.readouterr().err


def test_rounded_products_round_both_inputs() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(16, 5), torch.randn(7, 16)
    ours = RoundedProduct(linear, precision="bf16")(x)
    expected = x.bfloat16().double() @ linear.weight.detach().bfloat16().double().T + linear.bias.detach().double()
    assert float((ours.detach() - expected).abs().max()) < 1e-5


def test_a_delta_precision_is_a_run_like_any_other(tmp_path: Path, capsys: Any) -> None:
    config, out = write(tiny(), tmp_path / "s.yaml"), tmp_path / "out"
    assert main(["run", str(config), "--out", str(out), "--precision", "delta16"]) == 0
    assert "delta16 against the plain model in float64" in capsys.readouterr().err
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["identity"]["precision"] == provenance["decided"]["precision"] == "delta16"
    scales = provenance["decided"]["scales"]
    assert len(scales) > 20
    assert all(isinstance(exponent, int) for exponent in scales.values())
    assert {name.split()[0] for name in provenance["pilot"]["by_group"]} == {"mask"}
    assert main(["run", str(config), "--out", str(out)]) == 0
    assert main(["status", str(out)]) == 0
    assert "engine delta" in capsys.readouterr().out
    assert (
        main(["run", str(config), "--out", str(tmp_path / "no"), "--engine", "packed", "--precision", "delta32"]) == 2
    )
    assert "carries changes, which the packed engine does not" in capsys.readouterr().err
    assert main(["run", str(config), "--out", str(tmp_path / "no"), "--precision", "float64"]) == 2
    assert "reference engine's alone" in capsys.readouterr().err
