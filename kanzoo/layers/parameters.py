"""The parameters of modules: how many, and what a tensor is computed from."""

from torch import nn


def count_params(module: nn.Module, *, frozen: bool = False) -> int:
    """Trainable parameters, with the frozen ones if asked for."""
    return sum(p.numel() for p in module.parameters() if frozen or p.requires_grad)


def sources(module: nn.Module, name: str) -> list[nn.Parameter]:
    """The parameter of a name, or those that it is computed from (pruned, normalised, scaled)."""
    stored = (f"{name}_", f"parametrizations.{name}.")
    named = module.named_parameters()
    return [p for key, p in named if key == name or key.startswith(stored)]
