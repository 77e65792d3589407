"""Products: how a layer multiplies by its weights, and at which precision.

float32 (TF32 off) is the definition. `fp16x2` splits the activation into two float16 parts and keeps float32
accumulation and output; the weight is rounded once, which is the same slightly different model for control and edit.
On a CPU every precision but float32 is emulated: inputs rounded as the tensor cores would, product in float32.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import torch
from screen_kernels import split_half
from torch import Tensor, nn
from torch.nn import functional as F

from screen.models.attention import Attend, attend, attend_by_length, attend_in_bfloat16

Precision = Literal["float32", "fp16x2", "tf32", "bf16"]
CpuBackend = Literal["torch", "onednn"]
M = TypeVar("M", bound=nn.Module)
TF32_DROPPED_BITS = 13


def has_onednn_products() -> bool:
    """Whether this torch can call oneDNN's float32 product with a weight laid out once."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


class OneDnnProduct(nn.Module):
    """x W' + b in float32 by oneDNN, the weight laid out for it once."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        with torch.no_grad():
            self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous(), None)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.out_features = linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() == 0:
            return x.new_empty((*x.shape[:-1], self.out_features))
        out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self.weight, self.bias, "none", [], "")
        return out


class HalfPairProduct(nn.Module):
    """fp16x2: [h | l] x [w ; w] with float32 accumulation and output, where h + l is x, or gelu(x), to 22 bits."""

    def __init__(self, linear: nn.Linear, activation: Literal["none", "gelu"] = "none") -> None:
        super().__init__()
        self.activation: Literal["none", "gelu"] = activation
        half = linear.weight.detach().half()
        self.on_gpu = half.is_cuda
        self.weight = torch.cat([half, half], dim=1).T if self.on_gpu else half.float()
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        pair = split_half(x.flatten(0, -2), self.activation)
        if self.on_gpu:
            out: Tensor = torch.mm(pair, self.weight, out_dtype=torch.float32)
            if self.bias is not None:
                out += self.bias
        else:
            # the sum of the two parts is exact in float32
            out = F.linear(pair.float().view(len(pair), 2, -1).sum(1), self.weight, self.bias)
        return out.view(*x.shape[:-1], -1)


class RoundedProduct(nn.Module):
    """tf32 or bf16: inputs rounded, float32 accumulation and output."""

    def __init__(self, linear: nn.Linear, precision: Precision) -> None:
        super().__init__()
        self.precision = precision
        weight = linear.weight.detach()
        self.on_gpu = weight.is_cuda
        if not self.on_gpu:
            self.weight = rounded(weight, precision)
        else:
            # on a GPU the engine lets float32 products use TF32; nothing is rounded by hand
            self.weight = weight if precision == "tf32" else weight.bfloat16().T
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        if not self.on_gpu:
            return F.linear(rounded(x, self.precision), self.weight, self.bias)
        if self.precision == "tf32":
            return F.linear(x, self.weight, self.bias)
        out: Tensor = torch.mm(x.flatten(0, -2).bfloat16(), self.weight, out_dtype=torch.float32)
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], -1)


def rounded(x: Tensor, precision: Precision) -> Tensor:
    """float32 values rounded to what the products of a precision read: 8 bits (bf16) or 11 bits (tf32) of mantissa."""
    if precision == "bf16":
        return x.bfloat16().float()
    bits = x.contiguous().view(torch.int32)
    half_ulp_less_one, last_kept = (1 << (TF32_DROPPED_BITS - 1)) - 1, (bits >> TF32_DROPPED_BITS) & 1
    # round to nearest, ties to even
    return ((bits + half_ulp_less_one + last_kept) & ~((1 << TF32_DROPPED_BITS) - 1)).view(torch.float32)


@dataclass(frozen=True)
class Arithmetic:
    """How a model's products and attention are computed.

    cpu_products           what multiplies float32 on a CPU
    onednn_attention_from  keys from which attention on a CPU is made of oneDNN products; None: never. The encoder, whose
                           heads have another width, has its own
    """

    precision: Precision = "float32"
    cpu_products: CpuBackend = "torch"
    onednn_attention_from: int | None = None
    onednn_encoder_attention_from: int | None = None

    def product(self, device: torch.device) -> Callable[[nn.Linear], nn.Module]:
        """What stands in for a Linear layer."""
        if self.precision == "fp16x2":
            return HalfPairProduct
        if self.precision != "float32":
            return partial(RoundedProduct, precision=self.precision)
        return OneDnnProduct if device.type == "cpu" and self.cpu_products == "onednn" else _unchanged_linear

    def attention(self, device: torch.device, in_encoder: bool = False) -> Attend:
        """What stands in for `attend`. fp16x2 and tf32 keep float32 attention inputs."""
        onednn_from = self.onednn_encoder_attention_from if in_encoder else self.onednn_attention_from
        if self.precision == "bf16":
            return attend_in_bfloat16
        if self.precision == "float32" and device.type == "cpu" and onednn_from is not None:
            return partial(attend_by_length, onednn_from=onednn_from)
        return attend


def _unchanged_linear(linear: nn.Linear) -> nn.Module:
    return linear


def fused(*linears: nn.Linear) -> nn.Linear:
    """One Linear that computes several of the same input, side by side."""
    first = linears[0]
    out = nn.Linear(first.in_features, sum(x.out_features for x in linears), bias=False, device=first.weight.device)
    with torch.no_grad():
        out.weight.copy_(torch.cat([x.weight for x in linears]))
    return out


def with_products(
    model: M,
    make: Callable[[nn.Linear], nn.Module],
    attend_with: Attend,
    fuse: bool,
    exact: tuple[str, ...] = (),
    attend_in: Mapping[str, Attend] | None = None,
) -> M:
    """A copy of a model, sharing its weights, whose Linear layers and attention are replaced.

    fuse    queries, keys and values of one input are one product
    exact   children that keep plain float32 products
    attend_in  children whose attention is another
    """
    memo: dict[int, object] = {id(x): x for x in (*model.parameters(), *model.buffers())}
    changed = copy.deepcopy(model, memo)
    for name, child in changed.named_children():
        if name not in exact:
            _replace(child, make, (attend_in or {}).get(name, attend_with), fuse)
    return changed


def _unchanged(x: Tensor) -> Tensor:
    return x


def _replace(
    module: nn.Module,
    make: Callable[[nn.Linear], nn.Module],
    attend_with: Attend,
    fuse: bool,
    is_self: bool = False,
) -> None:
    if hasattr(module, "attend"):
        module.attend = attend_with  # type: ignore[assignment]
    if isinstance(weight := getattr(module, "in_proj_weight", None), nn.Parameter):
        packed = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        packed.weight, packed.bias = weight, module.in_proj_bias  # type: ignore[assignment]
        module.to_qkv = make(packed)
    elif fuse and hasattr(module, "to_kv"):
        q, k, v = (getattr(module, n) for n in ("to_q", "to_k", "to_v"))
        if is_self:
            module.to_qkv = make(fused(q, k, v))
        else:
            module.to_kv = make(fused(k, v))
    if make is HalfPairProduct and isinstance(getattr(module, "fc2", None), nn.Linear):
        # the second product of a feed-forward reads gelu's output in two parts: one pass makes them
        module.fc2, module.activation = HalfPairProduct(module.fc2, "gelu"), _unchanged  # type: ignore[arg-type, assignment]
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, make(child))
        elif not isinstance(child, OneDnnProduct | HalfPairProduct | RoundedProduct):
            _replace(child, make, attend_with, fuse, is_self=name == "self_attn")
