"""KAN layers, the factory that places them by role, and the grids of their bases."""

from kanzoo.layers.conv import KANConv1d, KANConv2d, KANConv3d
from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.grid import GridChange, adjust_optimizer
from kanzoo.layers.kan import KANLinear
from kanzoo.layers.kanify import kanify
from kanzoo.layers.kanify_report import KanifyReport, kanify_report
from kanzoo.layers.layer import KANLayer
from kanzoo.layers.transposed import KANConvTranspose1d, KANConvTranspose2d

__all__ = [
    "GridChange",
    "KANConv1d",
    "KANConv2d",
    "KANConv3d",
    "KANConvTranspose1d",
    "KANConvTranspose2d",
    "KANLayer",
    "KANLinear",
    "KanifyReport",
    "LayerFactory",
    "adjust_optimizer",
    "kanify",
    "kanify_report",
]
