"""KAN layers in plain PyTorch, a block of inputs at a time: the path without a compiler.

The features of a block (about 4 MB) stay in the cache between expansion and matrix product and
are computed again in the backward, so that autograd saves the input only.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from kanzoo.kernels.generic.conv import differentiable_gradients, where_required

BLOCK_BYTES = 4 << 20
MOST_COLUMNS = 512
FEW_ROWS = 128  # blocks get narrower rather than lower than that
Features = Callable[[Tensor, slice], Sequence[Tensor] | Tensor]


def blocks(x: Tensor, weight: Tensor, size: int | None = None) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of x in blocks whose features take about ``size`` or ``BLOCK_BYTES``.

    As wide as may be, since products over few columns are slow, but no wider than needed for that.
    """
    rows, inputs = x.shape
    if rows == 0 or inputs == 0:
        return
    fit = max((size or BLOCK_BYTES) // (weight.shape[1] * x.element_size()), 1)  # inputs of a block
    width = even_size(inputs, min(MOST_COLUMNS, max(fit // min(rows, FEW_ROWS), 1)))
    height = even_size(rows, max(fit // width, 1))
    for i in range(0, inputs, width):
        for n in range(0, rows, height):
            yield slice(n, min(n + height, rows)), slice(i, min(i + width, inputs))


def even_size(size: int, most: int) -> int:
    """Size of at most ``most`` that divides into parts without a small remainder."""
    return math.ceil(size / math.ceil(size / most)) if size else 1


def unblocked(features: Features, x: Tensor, weight: Tensor) -> Tensor:
    """The layer without blocks, differentiable any number of times."""
    values = features(x, slice(0, x.shape[1]))
    y = x.new_zeros(x.shape[0], weight.shape[2])
    for value, matrix in zip(values, weight.unbind(1), strict=True):
        y = y + value @ matrix
    return y


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Features, x: Tensor, weight: Tensor, *parameters: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.features = features
        ctx.save_for_backward(x, weight, *parameters)
        y = x.new_zeros(x.shape[0], weight.shape[2])
        for rows, block in blocks(x, weight):
            values = features(x[rows, block], block)
            for value, matrix in zip(values, weight[block].unbind(1), strict=True):
                y[rows].addmm_(value, matrix)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        x, weight, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative will follow
            grads = differentiable_gradients(
                lambda x, w: unblocked(ctx.features, x, w), x, weight, parameters, grad
            )
            return None, *grads
        _, need_x, need_weight, *_ = ctx.needs_input_grad
        grad_x = torch.zeros_like(x) if need_x else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        trained = [p for p in parameters if p.requires_grad]
        sums = [torch.zeros_like(p) for p in trained]
        for rows, block in blocks(x, weight):
            with torch.enable_grad():
                part = x[rows, block].detach().requires_grad_(need_x)
                values = ctx.features(part, block)
            if grad_weight is not None:
                _add_products(values, grad[rows], grad_weight[block])
            sources = [part, *trained] if need_x else trained
            block_grads = _differentiate(values, sources, grad[rows], weight[block])
            if not block_grads:
                continue
            if grad_x is not None:
                grad_x[rows, block] = block_grads.pop(0)
            for total, more in zip(sums, block_grads, strict=True):
                total += more
        return None, grad_x, grad_weight, *where_required(iter(sums), parameters)


def _add_products(values: Sequence[Tensor] | Tensor, grad: Tensor, grad_weight: Tensor) -> None:
    """Add what a block contributes to the gradient (b, T, O) of its weight."""
    for k, value in enumerate(values):
        grad_weight[:, k].addmm_(value.detach().t(), grad)


def _differentiate(
    values: Sequence[Tensor] | Tensor, sources: Sequence[Tensor], grad: Tensor, weight: Tensor
) -> list[Tensor]:
    """Gradients of the sources through the features of a block; empty where nothing depends."""
    if isinstance(values, Tensor):  # not taken apart, which autograd would undo by a copy
        if not sources or not values.requires_grad:
            return []
        back = torch.empty_like(values, memory_format=torch.contiguous_format)
        for one, matrix in zip(back, weight.unbind(1), strict=True):
            torch.mm(grad, matrix.t(), out=one)
        return list(torch.autograd.grad(values, sources, back, materialize_grads=True))
    moving = [
        (value, grad @ matrix.t())
        for value, matrix in zip(values, weight.unbind(1), strict=True)
        if value.requires_grad
    ]
    if not sources or not moving:
        return []
    outputs, backs = zip(*moving, strict=True)
    return list(torch.autograd.grad(outputs, sources, backs, materialize_grads=True))


def unflatten_rows(y: Tensor, x: Tensor) -> Tensor:
    """Outputs `(N, O)` in the shape of inputs `(..., C)`.

    Matrices stay what they are: shards of weights (FSDP2) need outputs that are no views.
    """
    return y if x.dim() == 2 else y.reshape(*x.shape[:-1], y.shape[1])


def blocked_linear(
    features: Features, x: Tensor, weight: Tensor, parameters: Sequence[Tensor] = ()
) -> Tensor:
    """sum_i sum_k weight[i, k] phi_k(x[..., i]) for any basis, saving x only.

    features: elementwise functions, called with a block (n, b) of some rows and columns and the
    slice of the columns; returns T tensors (n, b), or one of (T, n, b), the residual branch among
    them. weight: (in, T, out); parameters: tensors that ``features`` uses and that want gradients.
    Returns (..., out); float32 under autocast.
    """
    inputs = x.shape[-1]
    if weight.ndim != 3 or weight.shape[0] != inputs:
        raise ValueError(f"weight must be ({inputs}, T, out), got {tuple(weight.shape)}")
    flat = x.reshape(-1, inputs)
    with torch.autocast(x.device.type, enabled=False):
        y: Tensor = _Blocked.apply(features, flat, weight, *parameters)
    return unflatten_rows(y, x)
