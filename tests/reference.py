"""Slow, independent references that the tests compare the library with."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kanzoo.layers import KANLinear


def cox_de_boor(x: float, knots: np.ndarray, index: int, order: int) -> float:
    """B-spline `index` of degree `order` at x by the recursion; the last interval is closed."""
    if order == 0:
        last = np.flatnonzero(knots < knots[-1])[-1]
        inside = knots[index] <= x < knots[index + 1]
        return float(inside or (index == last and x == knots[-1]))
    value = 0.0
    left = knots[index + order] - knots[index]
    right = knots[index + order + 1] - knots[index + 1]
    if left > 0:
        value += (x - knots[index]) / left * cox_de_boor(x, knots, index, order - 1)
    if right > 0:
        value += (
            (knots[index + order + 1] - x) / right * cox_de_boor(x, knots, index + 1, order - 1)
        )
    return value


def spline_matrix(x: np.ndarray, knots: np.ndarray, order: int) -> np.ndarray:
    """All B-splines of a knot vector at the points x: `(K, N)`."""
    count = len(knots) - order - 1
    return np.array([[cox_de_boor(p, knots, f, order) for p in x] for f in range(count)])


def uniform_knots(low: float, high: float, grid_size: int, order: int) -> np.ndarray:
    """Knots that go on for `order` intervals on both sides of the range."""
    step = (high - low) / grid_size
    return low + step * np.arange(-order, grid_size + order + 1)


def unfold_windows(
    x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Tensor:
    """Windows of an unpadded tensor, by slicing: `(B, C, *spatial)` -> `(B, *out, C, *kernel)`."""
    sizes = [
        (size - d * (k - 1) - 1) // s + 1
        for size, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True)
    ]
    taps = []
    for tap in np.ndindex(*kernel):
        window = x
        for axis, (t, n, s, d) in enumerate(zip(tap, sizes, stride, dilation, strict=True)):
            index = torch.arange(n) * s + t * d
            window = window.index_select(axis + 2, index)
        taps.append(window.movedim(1, -1))  # (B, *out, C)
    return torch.stack(taps, -1).unflatten(-1, kernel)


def insert_zeros(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """A tensor `(B, C, *spatial)` with stride - 1 zeros between neighbours."""
    sizes = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)]
    spread = x.new_zeros((*x.shape[:2], *sizes))
    places: tuple[Any, ...] = (..., *[slice(None, None, s) for s in stride])
    spread[places] = x
    return spread


# What one floating point number of an operator's result costs: one for every elementwise operator
# (arithmetic, rounding, a transcendental or activation function), but for comparison, selection,
# conversion and moving data, which are free, and the product with one that `1 / x` contains.
# A normalisation has mean, difference, square, sum, scaling, weight and bias; with stored
# statistics only difference, scaling, weight and bias.
COSTS = {
    "addcmul": 2,
    "cumprod": 1,
    "cumsum": 1,
    "lerp": 3,
    "native_layer_norm": 7,
    "native_batch_norm": 4,
    "_native_batch_norm_legit_no_training": 4,
    "rational": 10 + 7 + 3,  # Horner above and below, then abs, add and div, as its formula
}
_NONE = (
    "_to_copy _unsafe_view alias arange as_strided bitwise_and bitwise_not bitwise_or cat clone "
    "constant_pad_nd copy copy_ detach empty empty_like eq expand fill fill_ flip full full_like "
    "gather ge gt index index_select isnan le lift_fresh linspace logical_and logical_not "
    "logical_or lt movedim nan_to_num narrow ne new_empty new_full new_ones new_zeros ones "
    "ones_like permute reshape scalar_tensor scatter scatter_ searchsorted select slice split "
    "squeeze stack t transpose unbind unfold unsqueeze view where zeros zeros_like "
    "_local_scalar_dense bucketize slice_scatter select_scatter _reshape_alias item"
)
FREE = set(_NONE.split())


def is_one(value: Any) -> bool:
    """Whether an argument of an operator is the number one itself."""
    return (value.dim() == 0 and bool(value == 1)) if isinstance(value, Tensor) else value == 1


class ArithmeticCounter(TorchDispatchMode):
    """Counts floating point operations by watching every operator that PyTorch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.before = ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        first = result[0] if isinstance(result, (tuple, list)) else result
        if name in FREE or not isinstance(first, Tensor) or not first.is_floating_point():
            return result
        before, self.before = self.before, name
        if before == "reciprocal" and name == "mul" and any(is_one(value) for value in args):
            return result
        if name == "sum":
            self.count += args[0].numel() - first.numel()
        elif name in ("mm", "bmm"):
            self.count += 2 * first.numel() * args[0].shape[-1]
        elif name == "prod":
            self.count += args[0].numel() - first.numel()
        elif name in COSTS:
            self.count += COSTS[name] * first.numel()
        elif torch.Tag.pointwise in func.tags:
            self.count += first.numel()
        else:
            raise AssertionError(f"say in tests/reference.py what {name} costs")
        return result


def flops_per_input(module: torch.nn.Module, features: int) -> float:
    """Operations that one more input value costs: the difference between two batch sizes."""
    counts = []
    for batch in (8, 24):
        x = torch.linspace(-2.1, 2.3, batch * features).view(batch, features)
        with torch.no_grad(), ArithmeticCounter() as counter:
            module(x)
        counts.append(counter.count)
    return (counts[1] - counts[0]) / (16 * features)


@torch.no_grad()
def fit_least_squares(layer: KANLinear, x: Tensor, y: Tensor) -> None:
    """Give a layer the weights and biases of least squared error; of many, the smallest.

    Shapes: x `(N, C)`, y `(N, O)`. A KAN layer is linear in them, so this is the best it can do:
    an oracle for training. Solved by singular values in float64, so that constant inputs and fewer
    samples than coefficients do no harm.
    """
    layer.check_stored("weight", "bias")
    features = layer.expansion(x.to(layer.weight.dtype)).double()  # (K, N, C)
    matrix = features.permute(1, 2, 0).flatten(1)  # (N, C K)
    if layer.bias is not None:
        matrix = torch.cat([matrix, torch.ones_like(matrix[:, :1])], dim=1)
    solution = torch.linalg.lstsq(matrix.cpu(), y.double().cpu(), driver="gelsd").solution
    if layer.bias is not None:
        layer.bias.copy_(solution[-1])
        solution = solution[:-1]
    layer.weight.copy_(solution.view(layer.weight.shape))
