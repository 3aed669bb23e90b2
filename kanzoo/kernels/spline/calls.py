"""Calls of the compiled B-spline layer, with a check of all shapes."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kanzoo.bases.knots import EXTRAPOLATIONS
from kanzoo.kernels.native.build import ORDERS, load
from kanzoo.kernels.native.call import REALS, SERIAL_WORK, bind, int64_array
from kanzoo.kernels.native.enumerations import SPLINE_RESIDUALS


class Sizes(NamedTuple):
    """Shapes of a layer that fit each other, and what C functions take as their last argument."""

    x: torch.Size  # (N, I)
    weight: torch.Size  # (I, K, O)
    knots: torch.Size  # (1 or I, M), or (M)
    order: int
    numbers: Any

    @property
    def y(self) -> tuple[int, int]:
        return self.x[0], self.weight[2]


@lru_cache(maxsize=256)
def sizes_of(
    x: torch.Size,
    weight: torch.Size,
    knots: torch.Size,
    order: int,
    extrapolation: str,
    residual: str | None,
    threads: int,
    rows_beside: int = 0,
) -> Sizes:
    """Sizes for these shapes; ``ValueError`` if they do not fit.

    `residual` is the function that the kernels add themselves; `rows_beside` are further rows of
    weight, which they leave alone; `threads` are at their disposal.
    """
    if len(x) != 2 or len(weight) != 3 or min(*x, *weight) < 1:
        raise ValueError(f"x {tuple(x)} must be (N, in), weight {tuple(weight)} (in, K, out)")
    if extrapolation not in EXTRAPOLATIONS or order not in ORDERS:
        raise ValueError(f"no B-splines of order {order}, extrapolation {extrapolation!r}")
    if residual not in SPLINE_RESIDUALS:
        raise ValueError(f"residual must be one of {SPLINE_RESIDUALS}, got {residual!r}")
    rows, inputs = x
    vectors = knots[0] if len(knots) == 2 else 1
    cells = check_knots(inputs, knots, order)
    functions = cells + order + (residual is not None) + rows_beside
    if tuple(weight[:2]) != (inputs, functions):
        raise ValueError(f"weight must be ({inputs}, {functions}, out), got {tuple(weight)}")
    work = rows * inputs * (math.ceil(weight[2] / 16) + 4)
    modes = (EXTRAPOLATIONS.index(extrapolation), threads if work >= SERIAL_WORK else 1)
    branch = SPLINE_RESIDUALS.index(residual)
    numbers = int64_array(rows, inputs, weight[2], cells, functions, vectors, *modes, branch)
    return Sizes(x, weight, knots, order, numbers)


def check_knots(inputs: int, knots: Sequence[int], order: int) -> int:
    """The number of cells of knots of that shape; ``ValueError`` if there cannot be such."""
    cells = knots[-1] - 2 * order - 1 if len(knots) in (1, 2) else 0
    if cells < 1 or (len(knots) == 2 and knots[0] not in (1, inputs)):
        raise ValueError(
            f"knots must be (1 or {inputs}, at least {2 * order + 2}), got {tuple(knots)}"
        )
    return cells


def bind_forward(
    sizes: Sizes,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    knots: Tensor,
    y: Tensor,
    sorted_rows: Tensor | None,
) -> Callable[[], None]:
    """The C function that writes y (N, O)."""
    arguments = (
        ("x", x, sizes.x),
        ("weight", weight, sizes.weight),
        ("bias", bias, sizes.weight[2:]),
        ("knots", knots, sizes.knots),
        ("y", y, sizes.y),
        ("sorted rows", sorted_rows, _order_shape(sorted_rows, x.dtype, sizes)),
    )
    return bind("kanzoo_linear_forward", sizes.order, arguments, sizes.numbers)


def bind_backward(
    sizes: Sizes,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    knots: Tensor,
    grad_x: Tensor | None,
    grad_weight: Tensor | None,
    sorted_rows: Tensor | None,
) -> Callable[[], None]:
    """The C function that writes the gradients of x and weight, each unless None."""
    arguments = (
        ("grad", grad, sizes.y),
        ("x", x, sizes.x),
        ("weight", weight, sizes.weight),
        ("knots", knots, sizes.knots),
        ("grad_x", grad_x, sizes.x),
        ("grad_weight", grad_weight, sizes.weight),
        ("sorted rows", sorted_rows, _order_shape(sorted_rows, x.dtype, sizes)),
    )
    return bind("kanzoo_linear_backward", sizes.order, arguments, sizes.numbers)


def _order_shape(sorted_rows: Tensor | None, dtype: torch.dtype, sizes: Sizes) -> tuple[int, ...]:
    return () if sorted_rows is None else (order_size(dtype, sizes),)


def order_size(dtype: torch.dtype, sizes: Sizes) -> int:
    """Numbers that tell the backward how the forward sorted rows; 0 for too fine a grid."""
    return int(load("kanzoo_linear_order", sizes.order, REALS[dtype])(sizes.numbers))


def check_spline(
    inputs: int,
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    knots: Tensor,
    order: int,
    extrapolation: str,
) -> int:
    """Validate what linear and convolution share; returns the weight rows per input, K + R."""
    if extrapolation not in EXTRAPOLATIONS:
        raise ValueError(f"extrapolation must be one of {EXTRAPOLATIONS}, got {extrapolation!r}")
    if order not in ORDERS:
        raise ValueError(f"order must be 0 to {ORDERS[-1]}, got {order}")
    cells = check_knots(inputs, knots.shape, order)
    if knots.ndim != 2:
        raise ValueError(f"knots must be (1 or {inputs}, M), got {tuple(knots.shape)}")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"residual must be {tuple(x.shape)}, got {tuple(residual.shape)}")
    if x.dtype not in REALS:
        raise ValueError(f"x must be float32 or float64, got {x.dtype}")
    for name, tensor in (("x", x), ("weight", weight), ("residual", residual), ("knots", knots)):
        if tensor is not None and (tensor.dtype != x.dtype or tensor.device.type != "cpu"):
            raise ValueError(
                f"{name} must be a {x.dtype} tensor on cpu, got {tensor.dtype} on {tensor.device}"
            )
    return cells + order + (residual is not None)
