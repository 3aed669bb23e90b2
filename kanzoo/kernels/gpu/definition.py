"""The functions of all families in PyTorch, from their table: what the Triton kernels compute.

Differentiable any number of times: for second derivatives, and where no kernel can run.

Axes: C channels last, K functions, T with the residual branch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from kanzoo.bases.knots import spline_values
from kanzoo.kernels.gpu.layout import Layout

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
}
SQUASHES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def features(x: Tensor, table: Tensor, layout: Layout) -> Tensor:
    """All functions, the residual branch last: `(N, C) -> (T, N, C)`, in at least float32."""
    x = x.float() if x.element_size() < 4 else x
    table = table.to(x)
    seen = SQUASHES[layout.squash](x)
    if layout.family.endswith("_spline"):
        knots = table[0] if layout.family == "uniform_spline" else table
        values = spline_values(seen, knots, layout.order, layout.extrapolation)
    else:
        values = FAMILIES[layout.family](seen, table.unsqueeze(2), layout)
    if layout.residual == "none":
        return values
    return torch.cat([values, ACTIVATIONS[layout.residual](x).unsqueeze(0)])


def _recurrence(x: Tensor, table: Tensor, layout: Layout) -> Tensor:
    values = [torch.ones_like(x)]
    for k in range(table.shape[1] - 1):
        a, b, c = table[:3, k]
        before = values[-2] if k else torch.zeros_like(x)
        values.append((a * x + b) * values[-1] - c * before)
    return torch.stack(values)


def _bernstein(x: Tensor, table: Tensor, layout: Layout) -> Tensor:
    degree = table.shape[1] - 1
    powers = [x**k * (1 - x) ** (degree - k) for k in range(degree + 1)]
    return table[0] * torch.stack(powers)


def _harmonics(x: Tensor, table: Tensor, layout: Layout) -> Tensor:
    orders = torch.arange(1, table.shape[1] // 2 + 1, device=x.device, dtype=x.dtype)
    angles = (layout.constant * orders).view(-1, 1, 1) * x
    return table[0] * torch.cat([angles.cos(), angles.sin()])


def _waves(x: Tensor, table: Tensor, layout: Layout) -> Tensor:
    return layout.constant * torch.sin(table[0] * x + table[1])


def _ramps(x: Tensor, table: Tensor, layout: Layout) -> Tensor:
    rising = torch.relu(x - table[0]) * layout.constant
    return (rising * torch.relu(table[1] - x) * layout.constant) ** layout.order


def _placed(psi: Callable[[Tensor, Layout], Tensor]) -> Callable[[Tensor, Tensor, Layout], Tensor]:
    """A function of (x - p_0) p_1."""
    return lambda x, table, layout: psi((x - table[0]) * table[1], layout)


def _bell(t: Tensor) -> Tensor:
    return torch.exp(-0.5 * t.square())


def _spline_gaussian(x: Tensor, table: Tensor, layout: Layout) -> Tensor:
    order, t = layout.order, ((x - table[0]) * table[1]).abs()
    factor, value = 1.0, torch.zeros_like(t)
    for n in range(2, order + 1):
        factor /= n
    for j in range(order // 2 + 1):
        value = value + factor * torch.relu((order + 1) / 2 - j - t) ** order
        factor *= -(order + 1 - j) / (j + 1)
    return value + torch.exp(-((x - table[2]) * table[3]).square())


FAMILIES: dict[str, Callable[[Tensor, Tensor, Layout], Tensor]] = {
    "recurrence": _recurrence,
    "bernstein": _bernstein,
    "harmonics": _harmonics,
    "waves": _waves,
    "ramps": _ramps,
    "spline_gaussian": _spline_gaussian,
    "gaussian": _placed(lambda t, _: torch.exp(-t * t)),
    "switch": _placed(lambda t, _: 1 - torch.tanh(t).square()),
    "mexican_hat": _placed(lambda t, layout: layout.constant * (1 - t * t) * _bell(t)),
    "gaussian_derivative": _placed(lambda t, _: -t * _bell(t)),
    "morlet": _placed(lambda t, layout: torch.cos(layout.constant * t) * _bell(t)),
}


def linear(
    x: Tensor,
    weight: Tensor,
    table: Tensor,
    bias: Tensor | None,
    layout: Layout,
    dtype: torch.dtype,
) -> Tensor:
    """The layer `(N, C) -> (N, O)` as one product over all features."""
    last = features(x, table, layout).movedim(0, -1).flatten(1).to(dtype)
    y = last @ weight.flatten(0, 1).to(dtype)
    return y if bias is None else y + bias.to(dtype)


def expand(x: Tensor, table: Tensor, layout: Layout, groups: int, dtype: torch.dtype) -> Tensor:
    """Features as channels, functions before the channels of a group: `(N, C) -> (N, T C)`."""
    values = features(x, table, layout).to(dtype)
    return values.unflatten(-1, (groups, -1)).movedim(0, -2).flatten(1)


@contextmanager
def _autograd() -> Iterator[None]:
    """Autograd inside an operator, whose implementation PyTorch runs below it."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for name in ("AutogradCPU", "AutogradCUDA", "AutogradXPU", "AutogradOther", "ADInplaceOrView"):
        excluded = excluded.remove(getattr(torch._C.DispatchKey, name))
    included = torch._C._dispatch_tls_local_include_set()
    with torch._C._ForceDispatchKeyGuard(included, excluded), torch.enable_grad():
        yield


def gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor, needs: Sequence[bool]
) -> tuple[Tensor, ...]:
    """Gradients of <grad, function> by the inputs, each empty unless needed."""
    with _autograd():
        leaves = [t.detach().requires_grad_(need) for t, need in zip(inputs, needs, strict=True)]
        wanted = [t for t in leaves if t.requires_grad]
        found = iter(torch.autograd.grad(function(*leaves), wanted, grad, materialize_grads=True))
    return tuple(next(found) if t.requires_grad else grad.new_empty(0) for t in leaves)
