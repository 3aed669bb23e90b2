"""Calls of compiled code with tensors that do not fit: run by itself, since it may crash.

``python wrong_arguments.py OPERATOR...`` makes every such call of some operators. Each must end in
a `ValueError`, or in what PyTorch's own operations give; the first other end is the exit's message.
"""

import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import kanzoo
from kanzoo import kernels
from kanzoo.kernels.families.linear import Plan
from kanzoo.kernels.families.rational import dense_rational
from kanzoo.kernels.spline.calls import bind_backward, bind_forward, sizes_of
from kanzoo.layers.paths.base import channel_features

Arguments = dict[str, Tensor]
Function = Callable[[Arguments], Tensor]
ROWS, INPUTS, OUTPUTS, CELLS, ORDER = 37, 6, 9, 5, 3
FAMILIES = [
    name
    for name in kanzoo.list_bases()
    if (family := kanzoo.get_basis(name)(INPUTS).family()) and family.name != "rational"
]
OPERATORS = ("linear", "direct", "bound", "conv", "rational", "families", "families_conv")


def variants(tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensor in other shapes, dtypes, layouts and places."""
    yield "as it is", tensor
    for dim in range(tensor.dim()):
        size = tensor.shape[dim]
        yield f"empty along {dim}", tensor.narrow(dim, 0, 0)
        yield f"shorter along {dim}", tensor.narrow(dim, 0, max(size - 1, 0))
        yield f"longer along {dim}", torch.cat([tensor, tensor.narrow(dim, 0, 1)], dim)
        yield f"much longer along {dim}", torch.cat([tensor] * 9, dim)
        yield f"one along {dim}", tensor.narrow(dim, 0, 1)
        yield f"expanded along {dim}", tensor.narrow(dim, 0, 1).expand_as(tensor)
        wide = torch.stack([tensor, tensor], dim + 1).flatten(dim, dim + 1)
        yield f"every second along {dim}", wide[(slice(None),) * dim + (slice(None, None, 2),)]
    yield "without a dimension", tensor[0]
    yield "with a dimension", tensor.unsqueeze(0)
    yield "a number", tensor.flatten()[0]
    if tensor.dim() > 1:
        yield "transposed", tensor.transpose(0, -1)
        yield "transposed in memory", tensor.transpose(0, -1).contiguous().transpose(0, -1)
        yield "flat", tensor.flatten()
    for dtype in (torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64):
        yield str(dtype), tensor.to(dtype)
    yield "on meta", tensor.to("meta")
    yield "sparse", tensor.to_sparse()


def is_odd(tensor: Tensor) -> bool:
    """Whether PyTorch itself refuses most operations."""
    return tensor.is_meta or tensor.layout != torch.strided


def gradients(function: Function, arguments: Arguments) -> list[Tensor]:
    leaves = {
        name: t.detach().requires_grad_(t.is_floating_point() and name not in ("knots", "group_of"))
        for name, t in arguments.items()
    }
    y = function(leaves)
    wanted = [t for t in leaves.values() if t.requires_grad]
    found = torch.autograd.grad(y, wanted, torch.ones_like(y).cumsum(-1), allow_unused=True)
    return [y.detach(), *(g for g in found if g is not None)]


def run(function: Function, arguments: Arguments) -> str:
    try:
        results = gradients(function, arguments)
        return f"{[r.shape for r in results]} {[r.dtype for r in results]}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def check(label: str, native: Function, dense: Function, arguments: Arguments) -> None:
    try:
        found = gradients(native, arguments)
    except ValueError as error:
        if "\n" in str(error):
            raise SystemExit(f"{label}: more than one line: {error}") from error
        return
    except (RuntimeError, IndexError) as error:  # PyTorch's, before compiled code is reached
        odd = any(is_odd(t) for t in arguments.values())
        if odd or label.startswith("families"):
            return
        raise SystemExit(f"{label}: {type(error).__name__}: {error}") from error
    knots = arguments.get("knots")
    flat = knots is not None and bool((knots[..., 0] == knots[..., -1]).any())
    if flat or found[0].is_meta or found[0].numel() == 0:  # nothing to compare
        return
    try:
        wanted = gradients(dense, arguments)
    except Exception as error:
        raise SystemExit(f"{label}: computed what cannot be: {error}") from error
    for one, other in zip(found, wanted, strict=True):
        if one.shape != other.shape or not torch.allclose(
            one.double(), other.double(), rtol=1e-2, atol=1e-2
        ):
            raise SystemExit(f"{label}: {run(native, arguments)}, not {run(dense, arguments)}")


def check_all(name: str, native: Function, dense: Function, arguments: Arguments) -> int:
    count = 0
    for changed, tensor in arguments.items():
        for label, variant in variants(tensor):
            check(f"{name}, {changed} {label}", native, dense, arguments | {changed: variant})
            count += 1
    return count


def splines() -> Arguments:
    knots = torch.linspace(-2.2, 2.2, CELLS + 2 * ORDER + 1)
    return {
        "x": torch.randn(ROWS, INPUTS),
        "weight": torch.randn(INPUTS, CELLS + ORDER + 1, OUTPUTS),
        "bias": torch.randn(OUTPUTS),
        "knots": knots.expand(INPUTS, -1) + torch.rand(INPUTS, 1),
    }


def linear() -> int:
    def native(a: Arguments) -> Tensor:
        return kernels.spline_linear(a["x"], a["weight"], a["residual"], a["knots"], ORDER, "zero")

    def dense(a: Arguments) -> Tensor:
        tensors = [t.float() if t.dtype == torch.bfloat16 else t for t in a.values()]
        y = kernels.dense_linear(*tensors, ORDER, "zero")  # type: ignore[arg-type]
        return y.to(a["x"].dtype)

    given = splines()
    residual = given["x"].sin()
    arguments = {"x": given["x"], "weight": given["weight"], "residual": residual}
    arguments["knots"] = given["knots"]
    return check_all("linear", native, dense, arguments)


def direct() -> int:
    def native(a: Arguments) -> Tensor:
        return kernels.direct_linear(
            a["x"], a["weight"], a["bias"], "silu", a["knots"], ORDER, "linear"
        )

    def dense(a: Arguments) -> Tensor:
        x, weight, bias, knots = a.values()
        rows, grid = x.reshape(-1, x.shape[-1]), knots if knots.dim() == 2 else knots.unsqueeze(0)
        y = kernels.dense_linear(rows, weight, F.silu(rows), grid, ORDER, "linear")
        return (y + bias).reshape(*x.shape[:-1], -1)

    return check_all("direct", native, dense, splines())


def bound() -> int:
    given = splines()
    sizes = sizes_of(
        *(given[name].shape for name in ("x", "weight", "knots")), ORDER, "zero", "silu", 2
    )
    y, grad = torch.zeros(ROWS, OUTPUTS), torch.randn(ROWS, OUTPUTS)
    forward = [given["x"], given["weight"], given["bias"], given["knots"], y]
    made = [torch.zeros_like(given["x"]), torch.zeros_like(given["weight"])]
    backward = [grad, given["x"], given["weight"], given["knots"], *made]
    count = 0
    for bind, tensors in ((bind_forward, forward), (bind_backward, backward)):
        for place, tensor in enumerate(tensors):
            freed = tensor.clone()
            freed.untyped_storage().resize_(0)
            for label, variant in (*variants(tensor), ("without memory", freed)):
                changed = [*tensors[:place], variant, *tensors[place + 1 :], None]
                fits = variant.shape == tensor.shape and variant.dtype == tensor.dtype
                fits = fits and variant.is_cpu and variant.layout == torch.strided
                fits = fits and variant.is_contiguous()
                fits = fits and bool(variant.untyped_storage().nbytes())
                try:
                    bind(sizes, *changed)()  # type: ignore[operator]
                    refused = False
                except ValueError:
                    refused = True
                if refused == fits:
                    raise SystemExit(f"bound {bind.__name__} {place} {label}: refused {refused}")
                count += 1
    return count


def conv() -> int:
    options: dict[str, Any] = {"stride": 2, "padding": 1, "groups": 2}

    def native(a: Arguments) -> Tensor:
        return kernels.spline_conv2d(*a.values(), ORDER, "clamp", **options)  # type: ignore[arg-type]

    def dense(a: Arguments) -> Tensor:
        dtype = a["x"].dtype
        x, weight, residual, knots = (
            t.float() if t.dtype == torch.bfloat16 else t for t in a.values()
        )
        x, residual = F.pad(x, [1] * 4), F.pad(residual, [1] * 4)
        grid = (ORDER, "clamp", (2, 2), (1, 1), 2)
        return kernels.dense_conv2d(x, weight, residual, knots, *grid).to(dtype)

    x = torch.randn(4, INPUTS, 7, 8)
    weight = torch.randn(INPUTS, 3, 3, CELLS + ORDER + 1, OUTPUTS)
    arguments = {"x": x, "weight": weight, "residual": x.sin(), "knots": splines()["knots"]}
    return check_all("conv", native, dense, arguments)


def rational() -> int:
    group_of = torch.arange(INPUTS) // 2
    arguments = {
        "x": torch.randn(5, 4, INPUTS),
        "above": torch.randn(6),
        "below": torch.randn(4, 3),
        "group_of": group_of,
    }

    def native(a: Arguments) -> Tensor:
        return torch.ops.kanzoo.rational(*a.values())  # type: ignore[no-any-return]

    def dense(a: Arguments) -> Tensor:
        return dense_rational(*a.values())

    count = check_all("rational", native, dense, arguments)
    for wrong in (-1, 3, 2**40):
        groups = group_of.clone()
        groups[2] = wrong
        check(f"rational, group {wrong}", native, dense, arguments | {"group_of": groups})
    return count


def families() -> int:
    count = 0
    for name in FAMILIES:
        layer = kanzoo.KANLinear(INPUTS, OUTPUTS, basis=name)
        expansion = layer.expansion
        plan = Plan(expansion.basis.family, expansion.squash, expansion.residual)

        def native(a: Arguments, plan: Any = plan, expansion: Any = expansion) -> Tensor:
            tensors = (a["x"], a["weight"], a["bias"])
            return kernels.function_linear(plan, expansion.on_features, *tensors)

        def dense(a: Arguments, expansion: Any = expansion) -> Tensor:
            values = expansion(a["x"])
            y: Tensor = values.movedim(0, -1).flatten(-2) @ a["weight"].flatten(0, 1)
            return y + a["bias"]

        arguments = {"x": torch.randn(ROWS, INPUTS), "weight": layer.weight, "bias": layer.bias}
        count += check_all(f"families {name}", native, dense, arguments)  # type: ignore[arg-type]
    return count


def families_conv() -> int:
    count, options = 0, ((1, 1), (0, 0), (1, 1), False, (0, 0), 1)
    for name in FAMILIES[::4]:
        layer = kanzoo.KANConv2d(INPUTS, OUTPUTS, 3, padding=1, basis=name)
        expansion = layer.expansion
        plan = Plan(expansion.basis.family, expansion.squash, expansion.residual)

        def native(a: Arguments, plan: Any = plan, layer: Any = layer) -> Tensor:
            tensors = (a["x"], a["weight"], a["bias"], [], (1, 1), options)
            features = partial(channel_features, layer.expansion, layer.weight.dtype)
            return kernels.function_conv(plan, features, *tensors)

        def dense(a: Arguments, layer: Any = layer) -> Tensor:
            planes = channel_features(layer.expansion, layer.weight.dtype, F.pad(a["x"], [1] * 4))
            return F.conv2d(planes, kernels.flat_weight(a["weight"], options), a["bias"])

        arguments = {
            "x": torch.randn(9, INPUTS, 5, 4),
            "weight": layer.weight.detach(),
            "bias": layer.bias,
        }
        count += check_all(f"families_conv {name}", native, dense, arguments)  # type: ignore[arg-type]
    return count


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(2)
    for operator in sys.argv[1:]:
        print(operator, globals()[operator](), flush=True)
