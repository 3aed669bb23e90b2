"""Layers of other functions than B-splines, which a compiled kernel evaluates in one pass.

A block of inputs at a time is expanded, functions first, into memory that stays in the cache, where
the matrix product or the convolution finds it; the backward expands again, and the same pass takes
the gradients back through slopes in closed form. Nothing but the inputs is saved.

Axes: C channels, K functions, T = K or K + 1 with the residual branch, P pixels of an image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kanzoo.bases.base import Family
from kanzoo.kernels.generic.conv import differentiable_gradients, where_required
from kanzoo.kernels.generic.linear import blocks, unblocked, unflatten_rows
from kanzoo.kernels.native.call import call, check_features, int64_array, thread_count
from kanzoo.kernels.native.enumerations import FAMILIES, NUMBERS
from kanzoo.kernels.native.scratch import scratch

LANES = 16  # numbers of a vector; rows shorter than that waste most of it
LONG = 16 * LANES  # rows of which the last vector does not matter
BLOCK_BYTES = 8 << 20  # larger products are faster, beyond the L2 cache too


@dataclass(frozen=True)
class Plan:
    """What a layer's functions are made of; `family` is called when its numbers are needed."""

    family: Callable[[], Family | None]
    squash: str
    residual: str | None

    def prepare(self, x: Tensor, trained: bool) -> "Functions":
        """The functions of one call, on inputs like x."""
        return Functions(self, x, trained)


class Functions:
    """The functions of one call, with their table in the precision of the inputs."""

    def __init__(self, plan: Plan, x: Tensor, trained: bool = False) -> None:
        with torch.set_grad_enabled(trained):
            family = plan.family()
            assert family is not None
            self.table = family.tables[0].to(x.dtype)  # (J, K, C or 1)
        self.values = self.table.detach().contiguous()
        self.count = self.table.shape[1]
        self.total = self.count + (plan.residual is not None)
        self.constants = x.new_tensor(family.constants or (0.0,))
        names = (("FAMILY", family.name), ("SQUASH", plan.squash), ("RESIDUAL", plan.residual))
        self.kind = [NUMBERS[kind][name] for kind, name in names]
        _check_family(family, self.values, x.shape[1])
        self.trained = self.table.requires_grad
        self.each = self.trained or self.values.shape[2] > 1
        self.gradient = torch.zeros_like(self.values) if self.trained else None

    def run(
        self,
        x: Tensor,
        out: Tensor | None,
        strides: tuple[int, int],
        block: slice,
        back: Tensor | None = None,
        grad_x: Tensor | None = None,
        tiles: int = 1,
        inner: int = 0,
    ) -> None:
        """Functions of the rows of x (n, c), the channels ``block`` of all, and gradients.

        Function k of row n begins at k strides[0] + n strides[1] in ``out`` and ``back``; grad_x
        has the strides of x. A row may hold the channels several times, in ``tiles``; or a row is a
        channel, ``inner`` of them make a group, and strides[1] is that of groups.
        """
        rows, columns = x.shape
        table = self.values
        if self.each:
            table = table[:, :, block].repeat(1, 1, tiles)
        added = None
        if self.gradient is not None and back is not None:
            added = torch.zeros_like(table[:2])
        num_owners = table.shape[2] if inner else 0
        if (columns > 1 and x.stride(1) != 1) or (
            grad_x is not None and (grad_x.shape, grad_x.stride()) != (x.shape, x.stride())
        ):
            raise ValueError("x and grad_x must have the same strides, the last of them 1")
        width = num_owners if inner else columns if self.each else 1
        height = (self.total - 1) * strides[0] + columns  # numbers of a row in all planes
        first = (rows - 1) // inner * strides[1] if inner else (rows - 1) * strides[1]
        span = first + (min(inner, rows) - 1) * columns * bool(inner) + height
        matrix = (rows - 1) * x.stride(0) + columns
        arguments = (
            ("x", x, matrix),
            ("table", table, (*self.values.shape[:2], width)),
            ("constants", self.constants, self.constants.shape),
            ("values", out, span),
            ("grad of values", back, span),
            ("grad_x", grad_x, matrix),
            ("grad of table", added, (2, self.count, width)),
        )
        sizes = (rows, columns, x.stride(0), *strides, self.count, *self.kind, int(self.each))
        threads = thread_count(x.numel() * self.total)
        call("kanzoo_functions", None, arguments, int64_array(*sizes, threads, inner, num_owners))
        if added is not None and self.gradient is not None:
            self.gradient[:2, :, block] += added.unflatten(2, (tiles, -1)).sum(2)

    def parameter_gradients(self, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of the parameters that want one, from what was added up for the table."""
        if self.gradient is None:
            return [torch.zeros_like(p) if p.requires_grad else None for p in parameters]
        trained = [p for p in parameters if p.requires_grad]
        grads = torch.autograd.grad(self.table, trained, self.gradient, materialize_grads=True)
        return where_required(iter(grads), parameters)


def _check_family(family: Family, table: Tensor, channels: int) -> None:
    """Raise ``ValueError`` unless C++ finds all the numbers that a family needs."""
    rows, constants = FAMILIES[family.name]
    if family.name == "spline_gaussian" and family.constants:
        constants += int(family.constants[0]) // 2
    shape = tuple(table.shape)
    if table.dim() != 3 or shape[0] < rows or shape[1] < 1 or shape[2] not in (1, channels):
        raise ValueError(
            f"table of {family.name} must be ({rows}, K, 1 or {channels}), got {shape}"
        )
    if len(family.constants) < constants:
        raise ValueError(f"{family.name} has {constants} constants, got {family.constants}")


def check_weight(weight: Tensor, x: Tensor, functions: int) -> None:
    """Raise ``ValueError`` unless a weight (C, T, O) fits x (N, C) and the number of functions."""
    if weight.dim() != 3 or tuple(weight.shape[:2]) != (x.shape[1], functions):
        expected = f"({x.shape[1]}, {functions}, out)"
        raise ValueError(f"weight must be {expected}, got {tuple(weight.shape)}")
    if (weight.dtype, weight.device) != (x.dtype, x.device):
        raise ValueError(
            f"weight must be {x.dtype} on {x.device}, got {weight.dtype} on {weight.device}"
        )


def _planes(name: str, like: Tensor, count: int, rows: int, columns: int) -> Tensor:
    """Planes (T, n, b), a little apart from each other: no cache set holds them all."""
    size = rows * columns + LANES
    memory = scratch(name, like, count * size)
    return memory.as_strided((count, rows, columns), (size, columns, 1))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        plan: Plan,
        features: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.plan, ctx.features = plan, features
        ctx.save_for_backward(x, weight, *parameters)
        functions = plan.prepare(x, False)
        check_weight(weight, x, functions.total)
        y = x.new_empty(x.shape[0], weight.shape[2])
        y.copy_(bias) if bias is not None else y.zero_()
        for rows, block in blocks(x, weight, BLOCK_BYTES):
            part = x[rows, block]
            values = _planes("function values", x, functions.total, *part.shape)
            _run_matrix(functions, part, values, block)
            for value, matrix in zip(values, weight[block].unbind(1), strict=True):
                y[rows].addmm_(value, matrix)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        x, weight, *parameters = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[2:5]
        grad_bias = grad.sum(0) if need_bias else None
        if torch.is_grad_enabled():  # a second derivative will follow
            grad_x, grad_weight, *grads = differentiable_gradients(
                lambda x, w: unblocked(ctx.features, x, w), x, weight, parameters, grad
            )
            return None, None, grad_x, grad_weight, grad_bias, *grads
        grad_x = torch.empty_like(x) if need_x else None
        grad_weight = torch.empty_like(weight) if need_weight else None
        if grad_weight is not None and x.numel() == 0:
            grad_weight.zero_()
        functions = ctx.plan.prepare(x, any(p.requires_grad for p in parameters))
        need_slopes = need_x or functions.trained
        for rows, block in blocks(x, weight, BLOCK_BYTES):
            part, g = x[rows, block], grad[rows]
            values, back = _planes("function values", x, functions.total, *part.shape), None
            if need_slopes:
                back = _planes("function back", x, functions.total, *part.shape)
                for one, matrix in zip(back, weight[block].unbind(1), strict=True):
                    torch.mm(g, matrix.t(), out=one)
            into = None if grad_x is None else grad_x[rows, block]
            _run_matrix(functions, part, values if need_weight else None, block, back, into)
            if grad_weight is not None:
                _add_products(values, g, grad_weight[block], first=rows.start == 0)
        more = functions.parameter_gradients(parameters)
        return None, None, grad_x, grad_weight, grad_bias, *more


def _run_matrix(
    functions: Functions,
    x: Tensor,
    values: Tensor | None,
    block: slice,
    back: Tensor | None = None,
    grad_x: Tensor | None = None,
) -> None:
    """`Functions.run` for planes (T, n, b)."""
    like = back if values is None else values
    if like is None:
        return
    if not functions.each and x.is_contiguous():  # as one long row
        x = x.view(1, -1)
        grad_x = None if grad_x is None else grad_x.view(1, -1)
    rows, columns = x.shape
    wasteful = -columns % LANES > columns // 8 and x.is_contiguous()  # the last vector of a row
    tiles = max(min(LONG // columns, rows), 1) if wasteful else 1
    if tiles > 1 and functions.each:  # several short rows as one, and what is left

        def shown(t: Tensor | None, part: slice, dim: int) -> Tensor | None:
            return None if t is None else t[part] if dim == 0 else t[:, part]

        full = rows // tiles * tiles
        for part, count in ((slice(full), tiles), (slice(full, rows), 1)):
            pieces = [shown(t, part, dim) for t, dim in ((values, 1), (back, 1), (grad_x, 0))]
            out, down, into = pieces
            into = None if into is None else into.view(-1, columns * count)
            strides = (like.stride(0), columns * count)
            if part.start != rows:
                functions.run(
                    x[part].view(-1, columns * count), out, strides, block, down, into, count
                )
        return
    functions.run(x, values, (like.stride(0), like.stride(1)), block, back, grad_x)


def _add_products(values: Tensor, grad: Tensor, grad_weight: Tensor, first: bool) -> None:
    """Add, or write at first, what a block contributes to the gradient (b, T, O) of its weight."""
    for value, out in zip(values, grad_weight.unbind(1), strict=True):
        if first:
            torch.mm(value.t(), grad, out=out)
        else:
            out.addmm_(value.t(), grad)


def function_linear(
    plan: Plan,
    features: Callable[[Tensor, slice], Sequence[Tensor] | Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    parameters: Sequence[Tensor] = (),
) -> Tensor:
    """``blocked_linear`` with functions that the kernel knows, and a bias."""
    check_features(x)
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    with torch.autocast(x.device.type, enabled=False):
        y: Tensor = _Linear.apply(plan, features, flat, weight, bias, *parameters)
    return unflatten_rows(y, x)
