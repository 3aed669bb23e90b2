"""Layers by kernels in Triton: on GPUs, and in Triton's interpreter on the CPU."""

import torch
from torch import Tensor

from kanzoo import kernels
from kanzoo.bases.activation import ACTIVATIONS
from kanzoo.bases.knots import EXTRAPOLATIONS
from kanzoo.kernels.gpu.launch import is_interpreted, unavailable_reason
from kanzoo.kernels.gpu.layout import FAMILIES, MAX_ORDER, ORDERED, TRAINED
from kanzoo.kernels.gpu.operators import Functions
from kanzoo.layers.paths.base import Path, Request, is_transformed
from kanzoo.layers.paths.native import rational_tables

DEVICES = ("cuda", "xpu")  # for which Triton compiles, where it is installed


def functions_of(request: Request) -> Functions | None:
    """The functions of a request but for one beside splines; None without kernels for them."""
    basis = request.expansion.basis
    splines = basis.splines()
    if splines is not None:
        if not 1 <= splines.order <= MAX_ORDER:
            return None
        uniform, number = splines.knots.dim() == 1, EXTRAPOLATIONS.index(splines.extrapolation)
        name = "uniform_spline" if uniform else "adaptive_spline"
        knots = splines.knots.unsqueeze(0) if uniform else splines.knots
        return Functions(name, knots, [float(splines.order), float(number)])
    family = basis.family()
    if family is None or family.name not in FAMILIES or basis.num_functions < 2:
        return None
    table, constants = family.tables[0], list(family.constants)
    if family.name == "spline_gaussian" and constants[ORDERED[family.name]] > MAX_ORDER:
        return None
    if table.requires_grad and family.name not in TRAINED:
        return None
    return Functions(family.name, table, constants)


class Triton(Path):
    """What linear layers and convolutions share."""

    name = "triton"
    rank = 40
    backends = ("triton",)

    def can(self, request: Request) -> str | None:
        x = request.x
        if is_transformed():
            return "a transform of torch.func"
        if request.backend == "auto" and torch.compiler.is_exporting():
            return "exported programs hold PyTorch's own operators"
        if not (x.is_cpu and request.backend == "triton") and x.device.type not in DEVICES:
            return "no device that Triton compiles for"
        if x.is_cpu and not is_interpreted():
            return "on the CPU Triton has its interpreter only: TRITON_INTERPRET=1"
        if torch.float64 in (x.dtype, request.weight.dtype):
            return "float64"
        functions = functions_of(request)
        if functions is None:
            return f"no kernel for the basis, or an order outside 1 to {MAX_ORDER}"
        return _unavailable(functions.family)


def _unavailable(family: str) -> str | None:
    return unavailable_reason(family)


# What torch.compiler.assume_constant_result does, without importing the compiler at every start.
_unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]


class TritonLinear(Triton):
    """`kanzoo::fused_linear`: functions and product in one kernel."""

    operators = ("linear",)

    def run(self, request: Request) -> Tensor:
        functions, weight = functions_of(request), request.weight
        assert functions is not None
        x, squash, residual, beside = seen(request)
        local = weight[:, : weight.shape[1] - len(beside)]
        y = kernels.fused_linear(x, local, request.bias, functions, squash, residual)
        for number, values in enumerate(beside, local.shape[1]):
            y = y + values.to(y.dtype) @ weight[:, number].to(y.dtype)
        return y


def seen(request: Request) -> tuple[Tensor, str, str | None, list[Tensor]]:
    """What a kernel sees of x, the squash and the residual in it, and functions left beside it."""
    expansion = request.expansion
    residual, splines = expansion.residual, expansion.basis.splines()
    other = None if splines is None else splines.beside
    if other is None and expansion.squash_is_elementwise:
        return request.x, expansion.squash, residual, []
    x = expansion.wide(request.x)
    inputs = expansion.squasher(x)
    beside = [] if other is None else [other(inputs)[0]]
    if expansion.residual is not None:
        beside.append(ACTIVATIONS[expansion.residual](x))
    return inputs, "none", None, beside


class TritonConv(Triton):
    """`kanzoo::fused_conv`: a kernel writes features as channels, PyTorch convolves them."""

    operators = ("conv",)

    def can(self, request: Request) -> str | None:
        splines = request.expansion.basis.splines()
        if not request.expansion.squash_is_elementwise:
            return "the squash looks at other features or rows, or is trained"
        if splines is not None and splines.beside is not None:
            return "a function beside B-splines"
        return super().can(request)

    def run(self, request: Request) -> Tensor:
        functions, expansion = functions_of(request), request.expansion
        margins, options = request.margins()
        assert functions is not None
        branches = (expansion.squash, expansion.residual)
        tensors = (request.x, request.weight, functions)
        y = kernels.fused_conv(*tensors, *branches, list(margins or ()), options)
        bias = request.bias
        return y if bias is None else y + bias.to(y.dtype).view(-1, *[1] * len(options.stride))


class TritonRational(Path):
    """Rational functions by `kanzoo::rational` on GPUs."""

    name = "triton"
    rank = 15
    operators = ("values",)

    def can(self, request: Request) -> str | None:
        family, x = request.expansion.basis.family(), request.x
        if family is None or family.name != "rational":
            return "no rational functions"
        if x.device.type not in DEVICES or x.dim() == 0:
            return "no device that Triton compiles for"
        if is_transformed() or torch.compiler.is_exporting():
            return "a transform of torch.func, or an export"
        return "float64" if x.dtype == torch.float64 else _unavailable("rational")

    def run(self, request: Request) -> Tensor:
        return kernels.rational(request.x, *rational_tables(request)).unsqueeze(0)
