"""What layers should take on a GPU, from counted operations and bytes: no measurement.

A kernel takes the longest of three times: its products on matrix units, its functions on ordinary
units, and its bytes to and from memory. All are reached to a share of what data sheets promise;
launches cost nothing, so that small layers take longer than estimated.

Axes: N rows, C inputs, T functions with the residual branch, O outputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from kanzoo.training.cards import CARDS, Card

REACHED = 0.65  # of the peak, by products and by memory
FUNCTION = 12  # operations of a B-spline in registers, 2 more for its slope
BLOCK_ROWS, BLOCK_OUTPUTS, BLOCK_INPUTS = 128, 128, 64  # of the kernels' tiles


@dataclass(frozen=True)
class Estimate:
    """Milliseconds of a forward and of a training step, and ratios over ready-made features."""

    card: str
    kind: str
    rows: int
    features: int
    grid_size: int
    forward_ms: float
    step_ms: float
    forward_ratio: float
    step_ratio: float
    one_product_step_ratio: float


@dataclass(frozen=True)
class Layer:
    """Sizes of a square layer, and the card and kind of numbers that it is computed with."""

    card: Card
    kind: str
    rows: int
    features: int
    functions: int

    @property
    def size(self) -> int:
        """Bytes of a number in products."""
        return 2 if self.kind == "bf16" else 4

    def time(self, products: float, functions: float, numbers: float) -> float:
        """Seconds of a kernel."""
        return max(
            products / (REACHED * self.card.products(self.kind)),
            functions / (REACHED * 1e12 * self.card.fp32),
            numbers / (REACHED * 1e12 * self.card.memory),
        )

    def fused(self) -> tuple[float, float]:
        """Forward and step of the fused kernels."""
        n, c, t = self.rows, self.features, self.functions
        product, x, y, weight = 2 * n * c * c * t, 4 * n * c, self.size * n * c, c * c * t
        made = n * c * t * FUNCTION
        across = -(-c // BLOCK_OUTPUTS)  # tiles that make the same function again
        forward = self.time(product, made * across, x + y + self.size * weight)
        back = self.time(product, n * c * t * (FUNCTION + 4), 2 * x + y + self.size * weight)
        gradient = self.time(product, made * across, (x + y) * t + 4 * weight)
        return forward, forward + back + gradient

    def ready(self) -> tuple[float, float]:
        """Forward and step of a linear layer on features that lie in memory."""
        n, c, t = self.rows, self.features, self.functions
        product, features, y = 2 * n * c * c * t, self.size * n * c * t, self.size * n * c
        weight = self.size * c * c * t
        each = self.time(product, 0, features + y + weight)
        return each, 3 * each

    def one_product(self) -> float:
        """Step where features are written, read and made again by operations of PyTorch."""
        n, c, t = self.rows, self.features, self.functions
        operations = 8 * 4 * n * c * t  # bytes: about eight passes over float32 features
        copies = (4 + self.size) * n * c * t
        return self.ready()[1] + 2 * self.time(0, 0, operations + copies) + self.time(0, 0, copies)


def estimates(names: list[str], sizes: list[tuple[int, int, int]]) -> Iterator[Estimate]:
    """Cubic B-splines with a residual branch: rows, features and cells on named cards."""
    for name in names:
        for kind in ("bf16", "tf32", "fp32"):
            for n, c, grid_size in sizes:
                layer = Layer(CARDS[name], kind, n, c, grid_size + 4)
                forward, step = layer.fused()
                limit, limit_step = layer.ready()
                times = (round(1e3 * forward, 4), round(1e3 * step, 4))
                ratios = (forward / limit, step / limit_step, layer.one_product() / limit_step)
                rounded = (round(ratio, 3) for ratio in ratios)
                yield Estimate(name, kind, n, c, grid_size, *times, *rounded)
