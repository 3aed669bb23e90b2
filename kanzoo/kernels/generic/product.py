"""KAN layers as one matrix product over contiguous features, as accelerators like it.

Features are made again in the backward, so that autograd saves the input only.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from kanzoo.kernels.generic.conv import (
    differentiable_gradients,
    full_precision,
    product_dtype,
    where_required,
)
from kanzoo.kernels.generic.linear import even_size, unflatten_rows

BLOCK_BYTES = 256 << 20  # of features: large enough for every product, small beside the memory
Features = Callable[[Tensor], Tensor]


def flat_features(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Features in the order of the weight and its dtype, in one pass: `(T, n, C) -> (n, C T)`."""
    last = values.movedim(0, -1)
    return torch.empty(last.shape, dtype=dtype, device=values.device).copy_(last).flatten(1)


def _row_blocks(x: Tensor, weight: Tensor) -> Iterator[slice]:
    size = max(weight.shape[0] * weight.shape[1] * 4, 1)
    high = even_size(len(x), max(BLOCK_BYTES // size, 1))
    for n in range(0, len(x), high):
        yield slice(n, n + high)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        features: Features,
        dtype: torch.dtype,
        x: Tensor,
        weight: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.features, ctx.dtype = features, dtype
        ctx.save_for_backward(x, weight, *parameters)
        matrix = weight.flatten(0, 1).to(dtype)
        y = matrix.new_empty(len(x), weight.shape[2])
        for rows in _row_blocks(x, weight):
            torch.mm(flat_features(features(x[rows]), dtype), matrix, out=y[rows])
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        x, weight, *parameters = ctx.saved_tensors
        with full_precision(x):
            if torch.is_grad_enabled():  # a second derivative will follow

                def product(x: Tensor, weight: Tensor) -> Tensor:
                    flat = flat_features(ctx.features(x), ctx.dtype)
                    return flat @ weight.flatten(0, 1).to(ctx.dtype)

                grads = differentiable_gradients(product, x, weight, parameters, grad)
            else:
                grads = _gradients(ctx, grad, x, weight, parameters)
        return None, None, *grads


def _gradients(  # type: ignore[no-untyped-def]
    ctx, grad: Tensor, x: Tensor, weight: Tensor, parameters: Sequence[Tensor]
) -> list[Tensor | None]:
    need_x, need_weight = ctx.needs_input_grad[2:4]
    trained = [p for p in parameters if p.requires_grad]
    grad_x = torch.zeros_like(x) if need_x else None
    grad_weight = torch.zeros_like(weight) if need_weight else None
    sums = [torch.zeros_like(p) for p in trained]
    matrix = weight.flatten(0, 1).to(ctx.dtype)
    for rows in _row_blocks(x, weight):
        with torch.enable_grad():
            part = x[rows].detach().requires_grad_(need_x)
            values = ctx.features(part)
        if grad_weight is not None:
            flat = flat_features(values.detach(), ctx.dtype)
            grad_weight += torch.mm(flat.t(), grad[rows]).view_as(weight)
        sources = [part, *trained] if need_x else trained
        if not sources or not values.requires_grad:
            continue
        back = torch.mm(grad[rows], matrix.t()).view(-1, *weight.shape[:2]).movedim(-1, 0)
        back = back.to(values.dtype)
        grads = list(torch.autograd.grad(values, sources, back, materialize_grads=True))
        if grad_x is not None:
            grad_x[rows] = grads.pop(0)
        for total, more in zip(sums, grads, strict=True):
            total += more
    return [grad_x, grad_weight, *where_required(iter(sums), parameters)]


def product_linear(
    features: Features,
    x: Tensor,
    weight: Tensor,
    parameters: Sequence[Tensor] = (),
) -> Tensor:
    """sum_i sum_k weight[i, k] phi_k(x[..., i]) for any basis, saving x only.

    features: functions of some rows `(n, in) -> (T, n, in)`, the residual branch among them, where
    rows do not see each other. weight: `(in, T, out)`; parameters: tensors that `features` uses and
    that want gradients. Returns `(..., out)`, in lower precision under autocast as the product.
    """
    inputs = x.shape[-1]
    if weight.ndim != 3 or weight.shape[0] != inputs:
        raise ValueError(f"weight must be ({inputs}, T, out), got {tuple(weight.shape)}")
    flat, dtype = x.reshape(-1, inputs), product_dtype(weight)
    with full_precision(x):
        y: Tensor = _Product.apply(features, dtype, flat, weight, *parameters)
    return unflatten_rows(y, x)
