"""KAN layers in a network that exists already: its layers are replaced, its function is not.

A KAN layer whose residual branch is x itself is the old linear operator plus a basis. The residual
branch takes over the old weight and the basis starts with weights of zero, so that the sum is the
old layer everywhere: outside the grid too, and in the zero padding of convolutions.
"""

import difflib
import logging
import re
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, Never, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from kanzoo.bases.base import Basis, BasisFactory, as_factory
from kanzoo.layers.conv import KANConv1d, KANConv2d, KANConv3d
from kanzoo.layers.kan import KANLinear
from kanzoo.layers.kanify_reads import readers
from kanzoo.layers.kanify_report import kanify_report
from kanzoo.layers.layer import KANLayer
from kanzoo.layers.options import refuse_unknown
from kanzoo.layers.transposed import KANConvTranspose1d, KANConvTranspose2d

log = logging.getLogger("kanzoo")

M = TypeVar("M", bound=nn.Module)
REPLACEMENTS: dict[type[nn.Module], type[KANLayer]] = {
    nn.Linear: KANLinear,
    nn.Conv1d: KANConv1d,
    nn.Conv2d: KANConv2d,
    nn.Conv3d: KANConv3d,
    nn.ConvTranspose1d: KANConvTranspose1d,
    nn.ConvTranspose2d: KANConvTranspose2d,
}
TYPES = ", ".join(f"nn.{cls.__name__}" for cls in REPLACEMENTS)
RESIDUALS = ("linear", "identity")  # two names of the only branch that can carry old weights
HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel)


def kanify(
    module: M,
    select: str | Iterable[str],
    *,
    exclude: str | Iterable[str] = (),
    basis: str | BasisFactory | type[Basis] = "bspline",
    residual: str = "linear",
    squash: str = "auto",
    backend: str = "auto",
    **unknown: Never,
) -> M:
    """Replace layers of any network by KAN layers that compute the same; returns the network.

    The network is changed in place, without a second copy of it: `kanify(copy.deepcopy(net), ..)`
    keeps the old one. `select` and `exclude` are dotted names of submodules, or patterns of them
    (`*` stands for any characters, dots too): "blocks.*.mlp.fc*". Among the modules that `select`
    matches, layers are replaced and others stay; every pattern must match a layer.

    Layers are `nn.Linear`, `nn.Conv1d/2d/3d` and `nn.ConvTranspose1d/2d`, with their device, dtype
    and mode; a layer with several names is replaced under all of them. A frozen weight stays
    frozen, and the basis with it: `layer.requires_grad_()` lets it learn. The bias is the same
    `Parameter` as before. `squash` and `backend` are those of `KANLinear`; `residual="linear"` is
    its `"identity"`. What was replaced, and what it costs, is logged and is `kanify_report(net)`.

    Make optimisers, and wrap in DDP or FSDP, afterwards. Names that match nothing, and layers that
    cannot be replaced, are a `ValueError`, and nothing is changed then. So are layers whose weight
    is read by the code around them, instead of calling the layer: the code that a forward reaches
    is searched for `layer.weight`.
    """
    with torch.random.fork_rng(devices=[]):  # some bases draw functions, here only to be checked
        factory = as_factory(basis)
        refuse_unknown(kanify, factory, unknown)
    if residual not in RESIDUALS:
        raise ValueError(
            f"residual {residual!r} cannot carry the old weights: it must be 'linear' (or its "
            "other name 'identity')"
        )
    _check_root(module)
    options = {"basis": factory, "residual": "identity", "squash": squash, "backend": backend}
    chosen = _select(module, select, exclude)
    uses = Counter(id(p) for part in module.modules() for p in part._parameters.values())
    for name, old in chosen.items():
        reason = _obstacle(old, shared=uses[id(getattr(old, "weight", None))] > 1)
        if reason is not None:
            raise ValueError(f"{name} cannot be replaced: {reason}; or exclude it")
        try:
            _empty(old, "meta", options)
        except ValueError as error:
            raise ValueError(f"{name} cannot be replaced: {error}") from error
    _check_called(module, chosen)
    names: dict[nn.Module, list[str]] = {}
    for name, part in module.named_modules(remove_duplicate=False):
        names.setdefault(part, []).append(name)
    cuda = {layer.weight.device for layer in chosen.values() if layer.weight.is_cuda}
    with torch.random.fork_rng(cuda):  # weights are drawn that are not kept
        while chosen:  # the old layers go one by one, so that both networks never exist at once
            old = chosen.pop(next(iter(chosen)))
            new = _replacement(old, options)
            for name in names.pop(old):
                module.set_submodule(name, new)
    _leave_fused_paths(module)
    log.info("%s", kanify_report(module))
    return module


def _check_called(module: nn.Module, chosen: dict[str, nn.Module]) -> None:
    """Raise `ValueError` with the names of layers whose weight is read instead."""
    matched = readers(module, chosen.values())
    names = [name for name, layer in chosen.items() if layer in matched]
    if names:
        patterns = dict.fromkeys(re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name) for name in names)
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise ValueError(
            f"{names[0]}{more} cannot be replaced: {matched[chosen[names[0]]]} reads the weight "
            f"instead of calling the layer; use exclude={list(patterns)}"
        )


def _check_root(module: nn.Module) -> None:
    """Raise `ValueError` for a module in which nothing can be replaced."""
    if isinstance(module, tuple(REPLACEMENTS)):
        raise ValueError(
            "the module is itself a layer and cannot be replaced in place: put it in nn.Sequential"
        )
    for name, part in module.named_modules():
        if isinstance(part, WRAPPERS):
            raise ValueError(
                f"{name or 'the module'} is wrapped in {type(part).__name__}: kanify what is "
                "inside before it is wrapped"
            )


def _select(
    module: nn.Module, select: str | Iterable[str], exclude: str | Iterable[str]
) -> dict[str, Any]:
    """The layers to replace, each once, by the first of its names."""
    parts = {name: p for name, p in module.named_modules(remove_duplicate=False) if name}
    chosen: set[str] = set()
    for pattern in _patterns("select", select):
        chosen |= _match("select", pattern, parts)
    for pattern in _patterns("exclude", exclude):
        # Whoever excludes one name of a layer does not want it replaced under the others.
        unwanted = {id(parts[name]) for name in _match("exclude", pattern, parts)}
        chosen = {name for name in chosen if id(parts[name]) not in unwanted}
    if not chosen:
        raise ValueError("select and exclude leave no layer to replace")
    once: dict[int, str] = {}
    for name in parts:
        if name in chosen:
            once.setdefault(id(parts[name]), name)
    return {name: parts[name] for name in once.values()}


def _patterns(option: str, given: str | Iterable[str]) -> list[str]:
    patterns = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"{option} must be a name or pattern, or several, got {given!r}")
    return patterns


def _match(option: str, pattern: str, parts: dict[str, nn.Module]) -> set[str]:
    """Names of the layers that a pattern matches; `ValueError` if there is none."""
    layers = [name for name, part in parts.items() if isinstance(part, tuple(REPLACEMENTS))]
    matched = {name for name in parts if name == pattern or fnmatchcase(name, pattern)}
    if not matched:
        near = difflib.get_close_matches(pattern, layers or list(parts), n=5, cutoff=0.0)
        raise ValueError(
            f"{option} {pattern!r} matches no module; the nearest are {', '.join(near) or 'none'}"
        )
    if matched.isdisjoint(layers):
        kinds = sorted({type(parts[name]).__name__ for name in matched})
        raise ValueError(
            f"{option} {pattern!r} matches only {', '.join(kinds[:5])}: "
            f"what can be replaced is {TYPES}"
        )
    return matched.intersection(layers)


def _obstacle(old: Any, *, shared: bool) -> str | None:
    """Why a layer cannot be replaced without a change of its function, or None."""
    kind = type(old).__name__
    if parametrize.is_parametrized(old):
        return "it is parametrized; remove_parametrizations first"
    if type(old) not in REPLACEMENTS:
        return f"{kind} is a subclass of its own, whose users may read its weight instead of it"
    tensors = {*old._parameters, *old._buffers, *old._modules} - {"weight", "bias"}
    if tensors:
        return f"it also holds {', '.join(sorted(tensors))} (weight_norm, pruning?); remove first"
    if "forward" in vars(old):
        return "its forward was replaced on the object"
    if any(getattr(old, hooks, None) for hooks in HOOKS):
        return "it has hooks, which would be lost; remove them and register them on the new layer"
    if type(old.weight) is not nn.Parameter or not old.weight.is_floating_point():
        return f"its weight is a {type(old.weight).__name__} of {old.weight.dtype}"
    if shared:
        return "its weight also belongs to another module; untie them first"
    return None


def _empty(old: Any, device: torch.device | str, options: dict[str, Any]) -> Any:
    """A KAN layer of the sizes of the old layer, with other weights."""
    new: Any = REPLACEMENTS[type(old)]
    options = {**options, "device": device, "dtype": old.weight.dtype, "bias": old.bias is not None}
    if isinstance(old, nn.Linear):
        return new(old.in_features, old.out_features, **options)
    for name in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"):
        options[name] = getattr(old, name)
    if old.transposed:
        options["output_padding"] = old.output_padding
    return new(old.in_channels, old.out_channels, **options)


def _replacement(old: Any, options: dict[str, Any]) -> KANLayer:
    """The KAN layer with the function of the old layer."""
    new: KANLayer = _empty(old, old.weight.device, options)
    with torch.no_grad():
        new.weight.zero_()
        last = new.by_function()[-1]
        last.copy_(old.weight.t() if isinstance(old, nn.Linear) else old.weight)
    new.bias = old.bias
    for parameter in (new.weight, *new.expansion.parameters()):
        parameter.requires_grad_(old.weight.requires_grad)
    return new.train(old.training)


def _leave_fused_paths(module: nn.Module) -> None:
    """Keep `nn.TransformerEncoder` off code that reads the weights of its two linear layers."""
    for part in module.modules():
        if not isinstance(part, nn.TransformerEncoderLayer):
            continue
        if isinstance(part.linear1, KANLayer) or isinstance(part.linear2, KANLayer):
            part.activation_relu_or_gelu = 0  # what it tests to see whether fused code exists
    for part in module.modules():
        if isinstance(part, nn.TransformerEncoder) and any(
            not getattr(layer, "activation_relu_or_gelu", 1) for layer in part.layers
        ):
            part.use_nested_tensor = False
