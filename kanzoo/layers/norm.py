"""Normalisation by name, one choice for both twins."""

from torch import nn

from kanzoo.checks import check_name

NORMS = ("layer", "batch", "none")


def make_norm(name: str, features: int, *, channels_first: bool = False) -> nn.Module:
    """A normalisation over `features`.

    Shapes: `(..., features)`, or `(B, features, H, W)` with `channels_first`, where "layer"
    normalises over channels and pixels of a sample.
    """
    check_name("norm", name, NORMS)
    if name == "none":
        return nn.Identity()
    if channels_first:
        return nn.GroupNorm(1, features) if name == "layer" else nn.BatchNorm2d(features)
    if name == "batch":
        return nn.BatchNorm1d(features)
    return nn.LayerNorm(features)
