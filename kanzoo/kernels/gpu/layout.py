"""What sets a layer's functions apart: constants of the kernels' code, and their numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kanzoo.bases.knots import EXTRAPOLATIONS

MAX_ORDER = 5  # of splines in closed form
ORDERED = {"uniform_spline": 0, "adaptive_spline": 0, "spline_gaussian": 0, "ramps": 1}
TRAINED = ("waves", "ramps", "mexican_hat", "gaussian_derivative", "morlet")
FAMILIES = ("recurrence", "bernstein", "gaussian", "switch", "harmonics", *ORDERED, *TRAINED)


@dataclass(frozen=True)
class Layout:
    """Functions of a layer but for their table.

    `order` is that of splines, or the power of ramps; `constant` what all functions share.
    """

    family: str
    order: int
    extrapolation: str
    constant: float
    squash: str
    residual: str

    @classmethod
    def of(cls, family: str, constants: Sequence[float], squash: str, residual: str) -> "Layout":
        """From the constants of a family; those of splines are order and extrapolation."""
        order = int(constants[ORDERED[family]]) if family in ORDERED else 0
        number = int(constants[1]) if family.endswith("_spline") else 0
        constant = float(constants[0]) if constants else 0.0
        return cls(family, order, EXTRAPOLATIONS[number], constant, squash, residual)

    def num_functions(self, table: Tensor) -> int:
        """K."""
        if self.family.endswith("_spline"):
            return table.shape[1] - self.order - 1
        return table.shape[1]

    def total(self, table: Tensor) -> int:
        """T: K and the residual branch."""
        return self.num_functions(table) + (self.residual != "none")

    def strides(self, table: Tensor) -> tuple[int, int, int]:
        """Between rows, functions and channels of a contiguous table; knots count as a plane."""
        if self.family.endswith("_spline"):
            return 0, table.shape[1], table.shape[1] if table.shape[0] > 1 else 0
        return table.stride(0), table.stride(1), int(table.shape[2] > 1)


_constants: dict[tuple[object, ...], Tensor] = {}


def table_on(table: Tensor, device: torch.device) -> Tensor:
    """A contiguous float32 table on a device; copies of tables on the CPU are kept.

    Those are constants of a family: a few numbers, which would else be sent at every call.
    """
    if table.device == device:
        return table.float().contiguous()
    key = (*table.shape, device, *table.flatten().tolist())
    if key not in _constants:
        _constants[key] = table.to(device, torch.float32).contiguous()
    return _constants[key]
