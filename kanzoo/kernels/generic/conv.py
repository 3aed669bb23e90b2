"""Convolutions of basis functions that save the pixels only and expand them again in the backward.

Axes: B batch, C channels of the pixels, T functions a channel, G groups of channels, S the pixels.
As channels of a convolution, functions come before the channels of a group.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

Expand = Callable[[Tensor], Tensor]
Options = tuple[Sequence[int], Sequence[int], Sequence[int], bool, Sequence[int], int]


def flat_weight(weight: Tensor, options: Options) -> Tensor:
    """The weight for functions as channels: `(O, C / G, T, ...) -> (O, T C / G, ...)`.

    Of a transposed convolution `(C, T, O / G, ...) -> (T C, O / G, ...)`.
    """
    *_, transposed, _, groups = options
    if transposed:
        return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 2)
    return weight.transpose(1, 2).flatten(1, 2)


def unflatten_weight(flat: Tensor, weight: Tensor, options: Options) -> Tensor:
    """The way back, to the shape of `weight`."""
    *_, transposed, _, groups = options
    if transposed:
        return flat.unflatten(0, (groups, weight.shape[1], -1)).transpose(1, 2).flatten(0, 1)
    return flat.unflatten(1, (weight.shape[2], -1)).transpose(1, 2)


class _Gate(torch.autograd.Function):
    """The same tensor; its gradient passes on only while the gate is open."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: dict[str, bool]) -> Tensor:
        ctx.gate = gate
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:  # type: ignore[override]
        return (grad if ctx.gate["open"] else None), None


def differentiable_gradients(
    function: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    weight: Tensor,
    others: Sequence[Tensor | None],
    grad: Tensor,
) -> list[Tensor | None]:
    """Partial gradients of <grad, function(x, weight)>, None where not required, with a graph.

    ``others`` are tensors that ``function`` uses besides. x or weight may have been computed from
    them or from each other: the gates keep a partial gradient from being followed further back,
    and open for the derivatives that come later.
    """
    gate = {"open": False}
    with torch.enable_grad():
        inner = [_Gate.apply(t, gate) for t in (x, weight)]
        y = function(*inner)
        inputs = [*inner, *others]
        needed = [t for t in inputs if t is not None and t.requires_grad]
        grads = iter(
            torch.autograd.grad(y, needed, grad, create_graph=True, materialize_grads=True)
        )
    gate["open"] = True
    return [next(grads) if t is not None and t.requires_grad else None for t in inputs]


def product_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of products with a weight: autocast's, or else its own."""
    kind = weight.device.type
    if weight.is_meta or weight.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return weight.dtype
    return torch.get_autocast_dtype(kind)


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Operations in the dtypes of their inputs on the device of x."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def where_required(grads: Iterator[Tensor], tensors: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients in the places of the tensors that require one."""
    return [next(grads) if t.requires_grad else None for t in tensors]


class _RecomputedConv(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        features: Expand,
        options: Options,
        dtype: torch.dtype,
        x: Tensor,
        weight: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.features, ctx.options, ctx.dtype = features, options, dtype
        ctx.save_for_backward(x, weight, *parameters)
        return operate(features, x, weight, options, dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        x, weight, *parameters = ctx.saved_tensors
        with full_precision(x):
            if torch.is_grad_enabled():  # a second derivative will follow
                grads = differentiable_gradients(
                    lambda x, w: operate(ctx.features, x, w, ctx.options, ctx.dtype),
                    x,
                    weight,
                    parameters,
                    grad,
                )
            else:
                grads = _gradients(ctx, grad, x, weight, parameters)
        return None, None, None, *grads


def operate(
    features: Expand, x: Tensor, weight: Tensor, options: Options, dtype: torch.dtype
) -> Tensor:
    with full_precision(x):
        y: Tensor = torch.ops.aten.convolution(
            features(x).to(dtype), flat_weight(weight.to(dtype), options), None, *options
        )
    return y


def _gradients(
    ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, parameters: Sequence[Tensor]
) -> list[Tensor | None]:
    need_x, need_weight = ctx.needs_input_grad[3:5]
    trained = [p for p in parameters if p.requires_grad]
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(need_x)
        values = ctx.features(leaf)
    sources = [leaf, *trained] if need_x else trained
    moving = values.requires_grad and bool(sources)
    grad_values, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad,
        values.detach().to(ctx.dtype),
        flat_weight(weight.detach().to(ctx.dtype), ctx.options),
        None,
        *ctx.options,
        [moving, need_weight, False],
    )
    if moving:
        back = grad_values.to(values.dtype)
        grads = iter(torch.autograd.grad(values, sources, back, materialize_grads=True))
    else:
        grads = iter([torch.zeros_like(t) for t in sources])
    grad_x = next(grads) if need_x else None
    if need_weight:
        grad_weight = unflatten_weight(grad_weight, weight, ctx.options).to(weight.dtype)
    return [grad_x, grad_weight, *where_required(grads, parameters)]


def check_dims(x: Tensor, weight: Tensor) -> None:
    """Raise ``ValueError`` unless the weight has the dimensions of images and of functions."""
    if x.dim() < 3 or weight.dim() != x.dim() + 1:
        raise ValueError(
            f"x must be (B, C, *S) and weight of one dimension more, got {tuple(x.shape)} and"
            f" {tuple(weight.shape)}"
        )


def recomputed_conv(
    features: Expand,
    x: Tensor,
    weight: Tensor,
    parameters: Sequence[Tensor] = (),
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    transposed: bool = False,
    output_padding: Sequence[int] | None = None,
) -> Tensor:
    """The convolution of ``features(x)`` (B, T C, *S) with weight, saving x only.

    x: (B, C, *S), padded already where padding shall go through the functions; features: a
    function of x without side effects; weight: (out, C / groups, T, *kernel), or for a transposed
    convolution (C, T, out / groups, *kernel); parameters: tensors that ``features`` uses and that
    want gradients. The options are those of ``F.conv2d`` and ``F.conv_transpose2d``, a number for
    each dimension. Under autocast the convolution, not the features, runs in its lower precision.
    Returns (B, out, *S').
    """
    dims = x.dim() - 2
    output_padding = (0,) * dims if output_padding is None else output_padding
    sizes = {"stride": stride, "padding": padding, "dilation": dilation}
    for name, value in (sizes | {"output_padding": output_padding}).items():
        if len(value) != dims:
            raise ValueError(
                f"{name} must be {dims} numbers for x of {tuple(x.shape)}, got {value}"
            )
    check_dims(x, weight)
    lists = (list(stride), list(padding), list(dilation), transposed, list(output_padding))
    options = (*lists, groups)
    dtype = product_dtype(weight)
    y: Tensor = _RecomputedConv.apply(features, options, dtype, x, weight, *parameters)
    return y
