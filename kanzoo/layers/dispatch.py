"""Which code computes a KAN layer: the same function, at different speed and memory.

- "dense": all features at once, then one product a function; autograd keeps what it needs.
- "blocked": a block of features at a time, computed again in the backward; only the input is kept.
- "compiled": B-splines on the CPU by kernels that touch the non-zero functions only.
- "auto": the fastest of these that can be had for the basis, the device and the size; "blocked" is
  then compiled too for the functions that `kernels.Plan` knows.

Axes: C input channels, O output channels, K functions a channel (the residual branch last).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kanzoo import kernels, registry
from kanzoo.bases.activation import ACTIVATIONS
from kanzoo.bases.beside import SplinePReLU
from kanzoo.bases.spline import BSpline
from kanzoo.layers.expansion import Expansion

BACKENDS = ("auto", "dense", "blocked", "compiled")
MAX_ORDER = 5  # of the compiled splines
COMPILED_OPERATORS = {"KANLinear": "linear", "KANConv2d": "conv"}  # and the library of each
SMALL = 3 * 2**14  # features of a batch below which recomputing costs more than it saves


def check_backend(backend: str, expansion: Expansion, operator: str) -> None:
    """Raise `ValueError` for an unknown backend, or one that cannot compute this layer."""
    registry.check_name("backend", backend, BACKENDS)
    if backend != "compiled":
        return
    spline = spline_of(expansion)
    known = spline is not None and spline.spline_order <= MAX_ORDER
    if not known or operator not in COMPILED_OPERATORS:
        raise ValueError(
            f"backend 'compiled' has {' and '.join(COMPILED_OPERATORS)} of B-splines up to order "
            f"{MAX_ORDER}, not {operator} of basis {expansion.factory.name!r}; allowed are auto, "
            "dense, blocked"
        )
    assert spline is not None
    reason = kernels.unavailable_reason(COMPILED_OPERATORS[operator], spline.spline_order)
    if reason is not None:
        raise ValueError(f"backend 'compiled' is not available: {reason}")


def linear(
    expansion: Expansion, weight: Tensor, bias: Tensor | None, x: Tensor, backend: str
) -> Tensor:
    """b + sum_i sum_k weight[i, k] phi_k(x_i): x `(..., C)`, weight `(C, K, O)` -> `(..., O)`."""
    plan = function_plan(expansion, weight, x, backend)
    if plan is not None:
        parameters = [p for p in expansion.parameters() if p.requires_grad]
        wide = expansion.wide(x)
        y = kernels.function_linear(plan, expansion.on_features, wide, weight, bias, parameters)
        return _as_dense(y, weight)
    backend = choose(expansion, weight, x, backend)
    # A squash that looks at other features or rows cannot be computed a block at a time.
    if backend == "dense" or (backend == "blocked" and not expansion.squash_is_elementwise):
        return dense_linear(expansion(x), weight, bias)
    wide, basis = expansion.wide(x), expansion.basis
    if spline_of(expansion) is not None:
        compiled, residual = backend == "compiled", expansion.residual
        if (
            compiled
            and expansion.squash == "none"
            and isinstance(basis, BSpline)
            and kernels.is_direct(wide, weight, bias, residual)
        ):
            knots, order, kind = spline_options(expansion, wide)
            return kernels.direct_linear(wide, weight, bias, residual, knots, order, kind)
        compute = kernels.spline_linear if compiled else kernels.blocked_spline_linear
        inputs, beside = spline_inputs(expansion, wide)
        y = compute(inputs, weight.to(wide.dtype), beside, *spline_options(expansion, wide))
    else:
        parameters = [p for p in expansion.parameters() if p.requires_grad]
        y = kernels.blocked_linear(expansion.on_features, wide, weight, parameters)
    y = y if bias is None else y + bias
    return _as_dense(y, weight)


def dense_linear(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """One product a function, which copies neither side: `(K, ..., C), (C, K, O) -> (..., O)`."""
    values = values.to(weight.dtype)
    if weight.shape[1] == 1:  # views, as in an ordinary layer: no gradient is copied
        return F.linear(values.squeeze(0), weight.squeeze(1).t(), bias)
    first, *others = zip(values.unbind(), weight.unbind(1), strict=True)
    y = F.linear(first[0], first[1].t(), bias)
    for value, matrix in others:
        y = y + F.linear(value, matrix.t())
    return y


def conv2d(
    expansion: Expansion,
    weight: Tensor,
    bias: Tensor | None,
    pixels: Tensor,
    options: dict[str, Any],
) -> Tensor:
    """The compiled convolution: pixels `(..., C, H, W)`, weight `(O, C / groups, K, kH, kW)`."""
    wide = expansion.wide(pixels if pixels.dim() == 4 else pixels.unsqueeze(0))
    groups = options["groups"]
    # (C, kH, kW, K, O / groups), a view where there is one: autograd then keeps no copy.
    laid = weight.unflatten(0, (groups, -1)).permute(0, 2, 4, 5, 3, 1).flatten(0, 1)
    inputs, beside = spline_inputs(expansion, wide, channels=1)
    described = spline_options(expansion, wide)
    y = kernels.spline_conv2d(inputs, laid.to(wide.dtype), beside, *described, **options)
    y = y if bias is None else y + bias.view(-1, 1, 1)
    y = y if pixels.dim() == 4 else y.squeeze(0)
    return _as_dense(y, weight)


def aten_options(options: dict[str, Any]) -> tuple[Any, ...]:
    """The options of `torch.ops.aten.convolution` after the bias, in its order."""
    names = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
    return tuple(options[name] for name in names)


def spline_plan(
    expansion: Expansion, weight: Tensor, x: Tensor, groups: int
) -> kernels.SplinePlan | None:
    """How B-splines are convolved without a compiler; None where that is not known."""
    basis = expansion.basis
    if not isinstance(basis, BSpline) or kernels.is_transformed() or x.numel() == 0:
        return None
    wide = expansion.wide(x)
    if weight.dtype != wide.dtype or not expansion.squash_is_elementwise:
        return None
    squash = None if expansion.squash == "none" else expansion.squasher
    residual = None if expansion.residual is None else ACTIVATIONS[expansion.residual]
    plan = kernels.SplinePlan.of(*spline_options(expansion, wide), squash, residual)
    return plan if plan.usable(groups) else None


def _has_kernels(operator: str, order: int) -> bool:
    return kernels.is_available(COMPILED_OPERATORS[operator], order)


# What torch.compiler.assume_constant_result does, without importing the compiler at every start.
_has_kernels._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _as_dense(y: Tensor, weight: Tensor) -> Tensor:
    """The output in the dtype that the dense path has: autocast's, or else the weight's."""
    kind = weight.device.type
    return y.to(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype)


def choose(
    expansion: Expansion, weight: Tensor, x: Tensor, backend: str, operator: str = "KANLinear"
) -> str:
    """The backend that "auto" stands for; the given one where it can be used."""
    if x.is_meta or expansion.num_functions == 1:
        return "dense"
    if backend != "auto":
        return backend
    if x.device.type != "cpu" or torch.compiler.is_exporting():
        return "dense"
    spline = spline_of(expansion)
    if (
        operator in COMPILED_OPERATORS
        and spline is not None
        and spline.spline_order <= MAX_ORDER
        and _has_kernels(operator, spline.spline_order)
    ):
        return "compiled"
    kept = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    large = x.numel() * expansion.num_functions >= SMALL
    return "blocked" if kept and large and not torch.compiler.is_compiling() else "dense"


def function_plan(
    expansion: Expansion, weight: Tensor, x: Tensor, backend: str
) -> kernels.Plan | None:
    """What a kernel needs to know if "auto" finds one for functions other than B-splines."""
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return None
    if backend != "auto" or x.device.type != "cpu" or not x.is_floating_point():
        return None
    large = x.numel() * expansion.num_functions >= SMALL
    if not large or isinstance(expansion.basis, BSpline) or expansion.basis.num_functions < 2:
        return None
    plan = kernels.Plan(expansion.basis.formula, expansion.squash, expansion.residual)
    if not plan.usable() or not kernels.has_functions(expansion.wide(x), weight):
        return None
    return plan


def spline_of(expansion: Expansion) -> BSpline | None:
    """The B-splines of a layer where the kernels know all its functions: splines and one more."""
    basis = expansion.basis
    if isinstance(basis, SplinePReLU) and expansion.residual is None:
        return basis.spline
    return basis if isinstance(basis, BSpline) else None


def spline_inputs(
    expansion: Expansion, wide: Tensor, channels: int = -1
) -> tuple[Tensor, Tensor | None]:
    """What the splines see of inputs with that axis of channels, and the function beside them."""
    inputs = wide
    if expansion.squash != "none":
        inputs = expansion.squasher(wide.movedim(channels, -1)).movedim(-1, channels)
    if expansion.residual is not None:
        return inputs, ACTIVATIONS[expansion.residual](wide)
    if not isinstance(expansion.basis, SplinePReLU):
        return inputs, None
    return inputs, expansion.basis.prelu(inputs.movedim(channels, -1))[0].movedim(-1, channels)


def spline_options(expansion: Expansion, wide: Tensor) -> tuple[Tensor, int, str]:
    """Knots `(1 or C, G + 2 order + 1)`, order and extrapolation."""
    spline = spline_of(expansion)
    assert spline is not None
    knots = spline.knots.to(wide.dtype)
    knots = knots.unsqueeze(0) if knots.dim() == 1 else knots
    return knots, spline.spline_order, spline.extrapolation
