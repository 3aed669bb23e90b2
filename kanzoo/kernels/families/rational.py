"""Group-rational functions P(x) / (1 + |Q(x)|) that save their input only.

``kanzoo::rational`` is an operator over a compiled kernel that makes one pass over the inputs for
all gradients.

Axes: C channels last, G groups. P = a_0 + .. + a_5 x^5 for all, Q = b_1 x + .. + b_4 x^4 by group.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kanzoo.kernels.native.call import Argument, call, int64_array, thread_count
from kanzoo.kernels.native.operator import register


def dense_rational(x: Tensor, above: Tensor, below: Tensor, group_of: Tensor) -> Tensor:
    """The definition, differentiable any number of times."""
    p = horner(above.unbind(), x)
    q = x * horner(below.index_select(1, group_of).unbind(), x)
    return p / (1 + q.abs())


def horner(coefficients: Sequence[Tensor], x: Tensor) -> Tensor:
    """c_0 + c_1 x + c_2 x^2 + ..., with as many products as the degree."""
    value = coefficients[-1] * x + coefficients[-2]
    for coefficient in reversed(coefficients[:-2]):
        value = value * x + coefficient
    return value


def layout_of(x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """The input with an order in memory that the kernel knows, and its outer, C and inner sizes."""
    if x.dim() == 0:
        raise ValueError("x must be (..., C), got a single number")
    channels = x.shape[-1]
    first = memory_order(x)
    if not x.is_contiguous() and first.is_contiguous():
        return x, (x.shape[0], channels, first[0, 0].numel())
    x = x.contiguous()
    return x, (x.numel() // max(channels, 1), channels, 1)


def memory_order(x: Tensor) -> Tensor:
    """A contiguous view of what `layout_of` gives: images are seen with channels last."""
    return x.movedim(-1, 1) if x.dim() > 2 and not x.is_contiguous() else x


def _functions(
    x: Tensor, above: Tensor, below: Tensor, group_of: Tensor, sizes: tuple[int, int, int]
) -> tuple[list[Argument], tuple[int, ...]]:
    """What describes the functions to C, with sizes to go before the number of threads."""
    if below.dim() != 2:
        raise ValueError(f"below must be (4, groups), got {tuple(below.shape)}")
    if group_of.shape != sizes[1:2]:
        raise ValueError(f"group_of must be ({sizes[1]},), got {tuple(group_of.shape)}")
    arguments: list[Argument] = [
        ("x", memory_order(x), memory_order(x).shape),
        ("above", above.contiguous(), (6,)),
        ("below", below.contiguous(), (4, below.shape[1])),
        ("group_of", group_of.contiguous(), (sizes[1],)),
    ]
    return arguments, (*sizes, below.shape[1])


def _forward(x: Tensor, above: Tensor, below: Tensor, group_of: Tensor) -> Tensor:
    x, sizes = layout_of(x)
    y = torch.empty_like(x)
    arguments, numbers = _functions(x, above, below, group_of, sizes)
    if x.numel():
        arguments.append(("y", memory_order(y), memory_order(x).shape))
        threads = thread_count(x.numel())
        call("kanzoo_rational_forward", None, arguments, int64_array(*numbers, threads))
    return y


def _backward(
    grad: Tensor, x: Tensor, above: Tensor, below: Tensor, group_of: Tensor, *needs: bool
) -> tuple[Tensor, Tensor, Tensor]:
    need_x, need_above, need_below = needs
    x, sizes = layout_of(x)
    grad_x = torch.empty_like(x) if need_x else x.new_empty(0)
    grad_above = torch.zeros_like(above, memory_format=torch.contiguous_format)
    grad_below = torch.zeros_like(below, memory_format=torch.contiguous_format)
    arguments, numbers = _functions(x, above, below, group_of, sizes)
    if grad.shape != x.shape:
        raise ValueError(f"grad must be {tuple(x.shape)}, got {tuple(grad.shape)}")
    if x.numel():
        if grad.stride() != x.stride():
            grad = torch.empty_like(x).copy_(grad)
        shape = memory_order(x).shape
        arguments = [
            ("grad", memory_order(grad), shape),
            *arguments,
            ("grad_x", memory_order(grad_x) if need_x else None, shape),
            ("grad_above", grad_above, (6,)),
            ("grad_below", grad_below, (4, below.shape[1])),
        ]
        threads = thread_count(2 * x.numel())
        call("kanzoo_rational_backward", None, arguments, int64_array(*numbers, threads))
    empty = x.new_empty(0)
    return grad_x, grad_above if need_above else empty, grad_below if need_below else empty


def _fake(x: Tensor, above: Tensor, below: Tensor, group_of: Tensor) -> Tensor:
    if any(t.device != x.device for t in (above, below, group_of)):
        raise ValueError(f"all tensors of rational functions must be on {x.device}, as x")
    return torch.empty_like(layout_of(x)[0])


register(
    "rational",
    "Tensor x, Tensor above, Tensor below, Tensor group_of",
    3,
    forward=_forward,
    backward=_backward,
    fake=_fake,
    definition=dense_rational,
    layout=lambda t: layout_of(t)[0],
)
