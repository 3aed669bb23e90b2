"""Options that all KAN layers share: what they are, what documents them and what checks them."""

import inspect
from collections.abc import Callable, Mapping
from typing import TypedDict

import torch
from torch import Tensor

from kanzoo.bases.base import Basis, BasisFactory, as_factory
from kanzoo.checks import check_name, check_whole, nearest_name

# What the docstrings of layers say of the options that all have.
OPTIONS = """basis : str, BasisFactory or Basis class, default "bspline"
        The functions that every input is expanded in: a name of `kanzoo.list_bases()`, or
        `kanzoo.get_basis(name, **options)` for other options than those of `conf/basis/NAME.yaml`.
    residual : str or None, default "auto"
        Activation of the branch beside the basis, one more function of every edge: "identity",
        "relu", "gelu", "silu" or "tanh"; None for no such branch; "auto" for what the literature
        combines the basis with (SiLU for B-splines).
    squash : str, default "auto"
        What brings inputs into the range of the basis before it: "none", "tanh", "sigmoid",
        "affine" (a trained scale and shift of every feature), "layer" or "batch" normalisation;
        "auto" for what the literature combines the basis with.
    init : str, default "variance"
        Scheme of the initial weights: "variance" (output variance 1 for standard normal inputs at
        any fan-in, the residual taking what a rough basis cannot), "paper" (KAN, 2404.19756: small
        splines beside a Glorot residual), "paper_unscaled" (as large at any width), "glorot",
        "glorot_uniform" (for inputs from -1 to 1) or "power_law" (2509.03417),
        "pykan" (what its code drew at first: wide residuals at any fan-in) or "uniform" (that of
        `nn.Linear`, biases drawn too).
    backend : str, default "auto"
        Code that computes the layer: "auto" (the fastest that can be had), "dense" (all features at
        once), "blocked" (features are computed again in the backward; only x is kept), "compiled"
        (C++ kernels on the CPU) or "triton" (kernels on GPUs). `explain_backend(x)` says which code
        runs, and why.
    device, dtype : optional
        As for layers of `torch.nn`."""


class LayerOptions(TypedDict, total=False):
    """Keyword options that all KAN layers have."""

    basis: str | BasisFactory | type[Basis]
    residual: str | None
    squash: str
    init: str
    backend: str
    device: torch.device | str | None
    dtype: torch.dtype | None


def check_sizes(**sizes: int) -> list[int]:
    """The sizes as Python's numbers; `ValueError` for what is not a positive whole number."""
    return [check_whole(name, size, 1) for name, size in sizes.items()]


def check_channels(x: Tensor, dim: int, expected: int) -> None:
    """Raise `ValueError` unless dimension `dim` of x, from behind, has `expected` features.

    Images have that dimension first, or behind the batch.
    """
    if dim < -1 and x.dim() not in (-dim, 1 - dim):
        raise ValueError(
            f"expected an input of {-dim} or {1 - dim} dimensions, got one of shape "
            f"{tuple(x.shape)}"
        )
    if x.dim() < -dim or x.shape[dim] != expected:
        raise ValueError(
            f"expected {expected} features in dimension {dim}, got an input of shape "
            f"{tuple(x.shape)}"
        )


def check_shape(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless a tensor holds real numbers and is of a shape.

    What `torch.func.functional_call` puts in the place of a parameter need not.
    """
    if tensor is not None and (tensor.shape != shape or not tensor.is_floating_point()):
        raise ValueError(
            f"{name} must be {shape} of floating point, got {tuple(tensor.shape)} of {tensor.dtype}"
        )


def refuse_unknown(
    layer: Callable[..., object],
    basis: str | BasisFactory | type[Basis],
    unknown: Mapping[str, object],
) -> None:
    """Raise `ValueError` for options that a layer, or what makes one, does not have.

    Those of a basis are set there: the line says how, also where the name was misspelt.
    """
    for name, value in unknown.items():
        factory = as_factory(basis)
        parameters = inspect.signature(layer).parameters.values()
        known = [p.name for p in parameters if p.kind != p.VAR_KEYWORD]
        if isinstance(layer, type):  # some take what all layers have as it comes
            known = list(dict.fromkeys([*known, *LayerOptions.__annotations__]))
        near = nearest_name(name, [*known, *dict(factory.options)])
        if near is None or near in known:
            check_name(f"option of {layer.__name__}", name, known)
        raise ValueError(
            f"{layer.__name__} has no option {name!r}; did you mean that of its basis, "
            f"basis=kanzoo.get_basis({factory.name!r}, {near}={value!r})?"
        )
