"""Fast paths of KAN layers: compiled kernels, and blocks of features elsewhere."""

from kanzoo.kernels.families.conv import function_conv, pad
from kanzoo.kernels.families.linear import function_linear
from kanzoo.kernels.generic.conv import flat_weight, product_dtype, recomputed_conv
from kanzoo.kernels.generic.linear import blocked_linear
from kanzoo.kernels.generic.product import product_linear
from kanzoo.kernels.gpu.conv import fused_conv
from kanzoo.kernels.gpu.operators import fused_linear
from kanzoo.kernels.gpu.rational import rational
from kanzoo.kernels.native.build import CompileError, is_available, unavailable_reason
from kanzoo.kernels.spline.conv import spline_conv2d
from kanzoo.kernels.spline.definition import dense_conv2d, dense_linear
from kanzoo.kernels.spline.linear import spline_linear
from kanzoo.kernels.spline.linear_direct import direct_linear

__all__ = [
    "CompileError",
    "blocked_linear",
    "dense_conv2d",
    "dense_linear",
    "direct_linear",
    "flat_weight",
    "function_conv",
    "function_linear",
    "fused_conv",
    "fused_linear",
    "is_available",
    "pad",
    "product_dtype",
    "product_linear",
    "rational",
    "recomputed_conv",
    "spline_conv2d",
    "spline_linear",
    "unavailable_reason",
]
