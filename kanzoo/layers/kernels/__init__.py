"""Fast paths of KAN layers: compiled B-splines, and blocks of features elsewhere."""

from .blocked import blocked_linear
from .blocked_spline import blocked_spline_linear
from .compile import CompileError, is_available, unavailable_reason
from .compiled import is_transformed, spline_linear
from .convolution import spline_conv2d
from .dense import dense_conv2d, dense_linear, spline_features
from .direct import direct_linear, is_direct
from .functions import Plan, function_linear, has_functions
from .functions_conv import function_conv, pad
from .rational import group_rational
from .recompute import recomputed_conv
from .spline_plan import SplinePlan

__all__ = [
    "CompileError",
    "Plan",
    "SplinePlan",
    "blocked_linear",
    "blocked_spline_linear",
    "dense_conv2d",
    "dense_linear",
    "direct_linear",
    "function_conv",
    "function_linear",
    "group_rational",
    "has_functions",
    "is_available",
    "is_direct",
    "is_transformed",
    "pad",
    "recomputed_conv",
    "spline_conv2d",
    "spline_features",
    "spline_linear",
    "unavailable_reason",
]
