"""Counting the parameters of modules."""

from torch import nn


def count_params(module: nn.Module, *, frozen: bool = False) -> int:
    """Trainable parameters, with the frozen ones if asked for."""
    return sum(p.numel() for p in module.parameters() if frozen or p.requires_grad)
