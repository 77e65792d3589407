"""Products: how a layer multiplies by its weights, and at which precision.

float32 (TF32 off) is the definition. `fp16x2` splits the activation into two float16 parts and keeps float32
accumulation and output; the weight is rounded once, which is the same slightly different model for control and edit.
On a CPU every precision but float32 is emulated: inputs rounded as the tensor cores would, product in float32.
"""

from typing import Literal, NamedTuple, Protocol

import torch
from screen_kernels import split_half
from torch import Tensor
from torch.nn import functional as F

TF32_DROPPED_BITS = 13
Rounding = Literal["tf32", "bf16"]


class Weights(Protocol):
    """What a product needs; `nn.Linear` and `nn.Embedding` have it. weight is (out, in)."""

    @property
    def weight(self) -> Tensor: ...

    @property
    def bias(self) -> Tensor | None: ...


class Pair(NamedTuple):
    """A weight and its bias."""

    weight: Tensor
    bias: Tensor | None


def side_by_side(*linears: Weights) -> Pair:
    """The weights of one product that computes several of the same input; all of them have a bias, or none."""
    biases = [x.bias for x in linears if x.bias is not None]
    with torch.no_grad():
        bias = torch.cat(biases) if biases else None
        return Pair(torch.cat([x.weight for x in linears]), bias)


def has_onednn_products() -> bool:
    """Whether this torch can call oneDNN's float32 product with a weight laid out once."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


class OneDnnProduct:
    """x W' + b in float32 by oneDNN, the weight laid out for it once."""

    def __init__(self, linear: Weights) -> None:
        with torch.no_grad():
            self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous(), None)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.n_out = len(linear.weight)

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() == 0:
            return x.new_empty((*x.shape[:-1], self.n_out))
        out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self.weight, self.bias, "none", [], "")
        return out


class HalfPairProduct:
    """fp16x2: [h | l] x [w ; w] with float32 accumulation and output, where h + l is x, or gelu(x), to 22 bits."""

    def __init__(self, linear: Weights, activation: Literal["none", "gelu"] = "none") -> None:
        self.activation: Literal["none", "gelu"] = activation
        half = linear.weight.detach().half()
        self.on_gpu = half.is_cuda
        self.weight = torch.cat([half, half], dim=1).T if self.on_gpu else half.float()
        self.bias = None if linear.bias is None else linear.bias.detach()

    def __call__(self, x: Tensor) -> Tensor:
        pair = split_half(x.flatten(0, -2), self.activation)
        if self.on_gpu:
            out: Tensor = torch.mm(pair, self.weight, out_dtype=torch.float32)
            if self.bias is not None:
                out += self.bias
        else:
            # the sum of the two parts is exact in float32
            out = F.linear(pair.float().view(len(pair), 2, -1).sum(1), self.weight, self.bias)
        return out.view(*x.shape[:-1], -1)


class RoundedProduct:
    """tf32 or bf16: inputs rounded, float32 accumulation and output."""

    def __init__(self, linear: Weights, precision: Rounding) -> None:
        self.precision = precision
        weight = linear.weight.detach()
        self.on_gpu = weight.is_cuda
        if not self.on_gpu:
            self.weight = rounded(weight, precision)
        else:
            # on a GPU the engine lets float32 products use TF32; nothing is rounded by hand
            self.weight = weight if precision == "tf32" else weight.bfloat16().T
        self.bias = None if linear.bias is None else linear.bias.detach()

    def __call__(self, x: Tensor) -> Tensor:
        if not self.on_gpu:
            return F.linear(rounded(x, self.precision), self.weight, self.bias)
        if self.precision == "tf32":
            return F.linear(x, self.weight, self.bias)
        out: Tensor = torch.mm(x.flatten(0, -2).bfloat16(), self.weight, out_dtype=torch.float32)
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], -1)


def rounded(x: Tensor, precision: Rounding) -> Tensor:
    """float32 values rounded to what the products of a precision read: 8 bits (bf16) or 11 bits (tf32) of mantissa."""
    if precision == "bf16":
        return x.bfloat16().float()
    bits = x.contiguous().view(torch.int32)
    half_ulp_less_one, last_kept = (1 << (TF32_DROPPED_BITS - 1)) - 1, (bits >> TF32_DROPPED_BITS) & 1
    # round to nearest, ties to even
    return ((bits + half_ulp_less_one + last_kept) & ~((1 << TF32_DROPPED_BITS) - 1)).view(torch.float32)
