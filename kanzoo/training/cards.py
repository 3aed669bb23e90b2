"""What GPUs can do at best, by their names: dense products and memory, from data sheets."""

from dataclasses import dataclass

import torch

TRAINING = 3  # forward, and twice as much backward
HALF = ("16-mixed", "bf16-mixed", "16-true", "bf16-true")


@dataclass(frozen=True)
class Card:
    """Peaks of a GPU: 10^12 operations a second by kind of product, 10^12 bytes a second.

    `half` is that of bfloat16 or float16 with sums in float32.
    """

    half: float
    tf32: float
    fp32: float
    memory: float

    def products(self, kind: str) -> float:
        """Operations a second; those of float32 may be three products of TF32."""
        exact = max(self.fp32, self.tf32 / 3)
        return 1e12 * {"bf16": self.half, "tf32": self.tf32, "fp32": exact}[kind]


# The first that a device's name contains.
CARDS = {
    "H200": Card(half=989, tf32=495, fp32=67, memory=4.8),
    "H100 PCIe": Card(half=756, tf32=378, fp32=51, memory=2.0),
    "H100": Card(half=989, tf32=495, fp32=67, memory=3.35),
    "A100": Card(half=312, tf32=156, fp32=19.5, memory=2.04),
    "L40S": Card(half=362, tf32=183, fp32=91.6, memory=0.864),
    "RTX A6000": Card(half=155, tf32=77.4, fp32=38.7, memory=0.768),
    "RTX 4090": Card(half=165, tf32=82.6, fp32=82.6, memory=1.008),
    "RTX 3090": Card(half=71, tf32=35.6, fp32=35.6, memory=0.936),
    "V100": Card(half=125, tf32=15.7, fp32=15.7, memory=0.9),
    "T4": Card(half=65, tf32=8.1, fp32=8.1, memory=0.32),
}


def card_of(name: str) -> Card | None:
    """The card that a name of `torch.cuda.get_device_name` contains, None if it is not known."""
    return next((card for known, card in CARDS.items() if known in name), None)


def utilisation(
    step_ms: float, flops: int, precision: str, device: torch.device, devices: int = 1
) -> float | None:
    """The share of the peak of some GPUs that training takes up; None where it is not known.

    `flops` are those of a forward over a batch, dense; a step takes three times as many.
    `precision` is that of a trainer, and decides which products are meant.
    """
    card = card_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    kind = "bf16" if precision in HALF else {"tf32": "tf32", "32-true": "fp32"}.get(precision)
    if card is None or kind is None:
        return None
    return TRAINING * flops / (step_ms / 1000) / (devices * card.products(kind))
