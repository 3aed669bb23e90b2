"""Fast paths of KAN layers: compiled B-splines, and blocks of features elsewhere."""

from kanzoo.kernels.families.conv import function_conv, pad
from kanzoo.kernels.families.linear import function_linear
from kanzoo.kernels.families.rational import blocked_rational
from kanzoo.kernels.generic.conv import recomputed_conv
from kanzoo.kernels.generic.linear import blocked_linear
from kanzoo.kernels.native.build import CompileError, is_available, unavailable_reason
from kanzoo.kernels.spline.blocked import blocked_spline_linear
from kanzoo.kernels.spline.conv import spline_conv2d
from kanzoo.kernels.spline.definition import dense_conv2d, dense_linear
from kanzoo.kernels.spline.linear import spline_linear
from kanzoo.kernels.spline.linear_direct import direct_linear
from kanzoo.kernels.spline.plan import SplinePlan

__all__ = [
    "CompileError",
    "SplinePlan",
    "blocked_linear",
    "blocked_rational",
    "blocked_spline_linear",
    "dense_conv2d",
    "dense_linear",
    "direct_linear",
    "function_conv",
    "function_linear",
    "is_available",
    "pad",
    "recomputed_conv",
    "spline_conv2d",
    "spline_linear",
    "unavailable_reason",
]
