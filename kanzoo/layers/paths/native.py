"""B-splines and rational functions by compiled kernels that touch the non-zero functions only."""

import torch
from torch import Tensor

from kanzoo import kernels
from kanzoo.bases.activation import ACTIVATIONS
from kanzoo.kernels.native.build import ORDERS
from kanzoo.kernels.native.call import REALS
from kanzoo.kernels.native.enumerations import SPLINE_RESIDUALS
from kanzoo.layers.paths.base import Path, Request, is_traced, is_transformed, missing

PLAIN = (Tensor, torch.nn.Parameter)


class Direct(Path):
    """B-splines as one node of autograd, which nothing but autograd may look into."""

    name = "direct"
    rank = 10
    operators = ("linear",)
    backends = ("compiled",)

    def can(self, request: Request) -> str | None:
        expansion, weight, bias = request.expansion, request.weight, request.bias
        splines = expansion.basis.splines()
        if splines is None:
            return "no B-splines"
        if splines.beside is not None or expansion.squash != "none":
            return "more than B-splines and a residual branch"
        if expansion.residual not in SPLINE_RESIDUALS or splines.order not in ORDERS:
            return f"no such residual branch, or an order above {ORDERS[-1]}"
        if is_traced() or torch.is_autocast_enabled("cpu"):
            return "traced by torch.compile or torch.export, or autocast"
        x = expansion.wide(request.x)
        if x.dtype is not weight.dtype or x.dtype not in REALS or not x.is_cpu:
            return "not tensors of one dtype, float32 or float64, on the CPU"
        bare = type(x) in PLAIN and type(weight) in PLAIN and (bias is None or type(bias) in PLAIN)
        if not bare or x.numel() == 0:
            return "no input, or a subclass of Tensor"
        if is_watched() or is_transformed():
            return "a dispatch mode or a transform of torch.func looks on"
        return missing("linear", splines.order, REALS[x.dtype])

    def run(self, request: Request) -> Tensor:
        expansion = request.expansion
        x, splines = expansion.wide(request.x), expansion.basis.splines()
        assert splines is not None
        knots = splines.knots.to(x.dtype)
        options = (expansion.residual, knots, splines.order, splines.extrapolation)
        return kernels.direct_linear(x, request.weight, request.bias, *options)


class Operator(Path):
    """B-splines as an operator of PyTorch."""

    name = "native"
    rank = 20
    backends = ("compiled",)
    library: str

    def can(self, request: Request) -> str | None:
        expansion = request.expansion
        splines = expansion.basis.splines()
        if splines is None:
            return "no B-splines"
        if splines.beside is not None and expansion.residual is not None:
            return "two functions beside the B-splines"
        if splines.order not in ORDERS:
            return f"an order above {ORDERS[-1]}"
        if not request.x.is_cpu:
            return "not on the CPU"
        if is_transformed():
            return "a transform of torch.func"
        if request.backend == "auto" and torch.compiler.is_exporting():
            return "exported programs hold PyTorch's own operators"
        real = REALS[torch.float64 if request.x.dtype == torch.float64 else torch.float32]
        return missing(self.library, splines.order, real)


class OperatorLinear(Operator):
    """`kanzoo::spline_linear`."""

    operators = ("linear",)
    library = "linear"

    def run(self, request: Request) -> Tensor:
        x, weight = request.expansion.wide(request.x), request.weight
        inputs, beside = spline_inputs(request, x)
        y = kernels.spline_linear(inputs, weight.to(x.dtype), beside, *spline_options(request, x))
        return request.as_dense(y if request.bias is None else y + request.bias)


class OperatorConv(Operator):
    """`kanzoo::spline_conv2d`."""

    operators = ("conv",)
    library = "conv"

    def can(self, request: Request) -> str | None:
        options = request.options
        assert options is not None
        if len(options.stride) != 2 or options.transposed:
            return "not a convolution of images"
        return super().can(request)

    def run(self, request: Request) -> Tensor:
        options, pixels = request.options, request.x
        assert options is not None
        padding = options.padding
        if not request.expansion.keeps_zero:  # else the kernel knows padding
            pixels, padding = kernels.pad(pixels, padding), (0, 0)
        x, groups = request.expansion.wide(pixels), options.groups
        # (C, kH, kW, K, O / groups), a view where there is one: autograd then keeps no copy.
        weight = request.weight.unflatten(0, (groups, -1)).permute(0, 2, 4, 5, 3, 1).flatten(0, 1)
        inputs, beside = spline_inputs(request, x, channels=1)
        y = kernels.spline_conv2d(
            inputs,
            weight.to(x.dtype),
            beside,
            *spline_options(request, x),
            options.stride,
            padding,
            options.dilation,
            groups,
        )
        return request.as_dense(y if request.bias is None else y + request.bias.view(-1, 1, 1))


class Rational(Path):
    """Rational functions by an operator of PyTorch."""

    name = "native"
    rank = 20
    operators = ("values",)

    def can(self, request: Request) -> str | None:
        family = request.expansion.basis.family()
        if family is None or family.name != "rational":
            return "no rational functions"
        if not request.x.is_cpu or request.x.dtype not in REALS:
            return "not float32 or float64 on the CPU"
        if is_transformed() or torch.compiler.is_exporting():
            return "a transform of torch.func, or an export"
        return missing("functions", None, REALS[request.x.dtype])

    def run(self, request: Request) -> Tensor:
        return kernels.rational(request.x, *rational_tables(request)).unsqueeze(0)


def is_watched() -> bool:
    """Whether a dispatch mode must see operators, not only the tensors that they make."""
    if torch._C._len_torch_dispatch_stack() == 0:
        return False
    modes = torch.utils._python_dispatch._get_current_dispatch_mode_stack()
    return not all(getattr(mode, "sees_tensors_only", False) for mode in modes)


def spline_inputs(request: Request, x: Tensor, channels: int = -1) -> tuple[Tensor, Tensor | None]:
    """What the splines see of x with that axis of channels, and the function beside them."""
    expansion, inputs = request.expansion, x
    if expansion.squash != "none":
        inputs = expansion.squasher(x.movedim(channels, -1)).movedim(-1, channels)
    if expansion.residual is not None:
        return inputs, ACTIVATIONS[expansion.residual](x)
    splines = expansion.basis.splines()
    assert splines is not None
    if splines.beside is None:
        return inputs, None
    return inputs, splines.beside(inputs.movedim(channels, -1))[0].movedim(-1, channels)


def spline_options(request: Request, x: Tensor) -> tuple[Tensor, int, str]:
    """Knots `(1 or C, G + 2 order + 1)`, order and extrapolation."""
    splines = request.expansion.basis.splines()
    assert splines is not None
    knots = splines.knots.to(x.dtype)
    knots = knots.unsqueeze(0) if knots.dim() == 1 else knots
    return knots, splines.order, splines.extrapolation


def rational_tables(request: Request) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients of numerator and denominators in the dtype of x, and the group of channels."""
    family = request.expansion.basis.family()
    assert family is not None
    above, below, group_of = family.tables
    return above.to(request.x.dtype), below.to(request.x.dtype), group_of
