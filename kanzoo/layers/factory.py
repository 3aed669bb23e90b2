"""The factory that decides, role by role, whether a position of an architecture becomes KAN."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from torch import nn

from kanzoo.bases.activation import ACTIVATIONS, Activation
from kanzoo.bases.base import BasisFactory, as_factory
from kanzoo.checks import check_init, check_name
from kanzoo.layers.conv import ConvLayer, KANConv2d
from kanzoo.layers.dispatch import BACKENDS
from kanzoo.layers.edge_scale import Layer, with_edge_scale
from kanzoo.layers.expansion import INITS
from kanzoo.layers.kan import KANLinear
from kanzoo.layers.norm import make_norm

ACTIVATED = "activated"  # the roles in which the twin of an architecture is not linear


@check_init
@dataclass(frozen=True)
class LayerFactory:
    """Makes the layers of an architecture: KAN in the roles of `kan_roles`, ordinary elsewhere.

    `kan_roles` is "all", "activated" (those in which the MLP twin is not linear), one role or
    several of those that the architecture declares. An ordinary layer is `activation`, then the
    linear operator; a KAN layer takes the place of both. Without KAN roles every architecture is
    the MLP twin. `residual`, `squash` and `init` are those of `KANLinear`; `init` holds for both
    kinds; `backend` says how KAN layers are computed. With `edge_scale` every edge of a KAN layer
    has a further trained factor, as in pykan (`EdgeScale`); its grids can then not be changed.
    """

    kan_roles: str | Iterable[str] = "all"
    basis: str | BasisFactory = "bspline"
    activation: str = "gelu"
    residual: str | None = "auto"
    squash: str = "auto"
    init: str = "variance"
    backend: str = "auto"
    edge_scale: bool = False
    _roles: frozenset[str] = field(init=False, repr=False, default=frozenset())

    def __post_init__(self) -> None:
        several = not isinstance(self.kan_roles, str) and isinstance(self.kan_roles, Iterable)
        roles = list(self.kan_roles) if several else [self.kan_roles]
        if not all(isinstance(role, str) for role in roles):
            raise ValueError(f"kan_roles must be a role or several, got {self.kan_roles!r}")
        check_name("activation", self.activation, ACTIVATIONS)
        check_name("init", self.init, INITS)
        check_name("backend", self.backend, BACKENDS)
        if not isinstance(self.edge_scale, bool):
            raise ValueError(f"edge_scale must be true or false, got {self.edge_scale!r}")
        object.__setattr__(self, "_roles", frozenset(roles))
        object.__setattr__(self, "basis", as_factory(self.basis))
        if not isinstance(self.kan_roles, str):  # factories are compared and hashed
            object.__setattr__(self, "kan_roles", tuple(roles))

    @property
    def is_kan(self) -> bool:
        """Whether any role is KAN; if not, this is the factory of the MLP twin."""
        return bool(self._roles)

    def twin(self) -> "LayerFactory":
        """The same factory without KAN roles."""
        return _twin(self.activation, self.init)

    def check_roles(self, architecture: str, declared: Iterable[str]) -> None:
        """Raise `ValueError` if a KAN role is not one of the roles that the architecture has."""
        for role in sorted(self._roles):
            kind = f"role of model {architecture!r}"
            check_name(kind, role, ("all", ACTIVATED, *declared))

    def resolve(self, activated: Iterable[str]) -> "LayerFactory":
        """The factory with the activated roles of an architecture in the place of their name.

        Raises `ValueError` if there are none.
        """
        if ACTIVATED not in self._roles:
            return self
        roles = dict.fromkeys([*sorted(self._roles - {ACTIVATED}), *activated])
        if not roles:
            raise ValueError(
                "kan_roles=activated, but the architecture declares no activated roles"
            )
        return replace(self, kan_roles=tuple(roles))

    def roles_among(self, declared: Iterable[str]) -> tuple[str, ...]:
        """Those of an architecture's roles that are KAN."""
        return tuple(role for role in declared if self._is_kan_in(role))

    def _is_kan_in(self, role: str) -> bool:
        return bool(self._roles & {role, "all"})

    def linear(
        self,
        role: str,
        in_features: int,
        out_features: int,
        *,
        activate: bool = True,
        bias: bool = True,
    ) -> KANLinear:
        """The linear layer of a role; `activate=False` where the twin has no activation."""
        options = self._options(role, activate)
        return self._scaled(role, KANLinear(in_features, out_features, bias, **options))

    def conv(
        self,
        role: str,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        operator: type[ConvLayer] = KANConv2d,
        activate: bool = True,
        **options: Any,
    ) -> ConvLayer:
        """The convolution of a role, of any class of them; `options` as the class takes them."""
        chosen = self._options(role, activate)
        layer = operator(in_channels, out_channels, kernel_size, **options, **chosen)
        return self._scaled(role, layer)

    def _scaled(self, role: str, layer: Layer) -> Layer:
        return with_edge_scale(layer) if self.edge_scale and self._is_kan_in(role) else layer

    def norm(self, name: str, features: int, *, channels_first: bool = False) -> nn.Module:
        """A normalisation, the same in both twins, see `make_norm`."""
        return make_norm(name, features, channels_first=channels_first)

    def _options(self, role: str, activate: bool) -> dict[str, Any]:
        if not self._is_kan_in(role):
            function = self.activation if activate else "identity"
            plain = BasisFactory(Activation, (("function", function),), function)
            return {"basis": plain, "residual": None, "squash": "none", "init": self.init}
        return {
            "basis": self.basis,
            "residual": self.residual,
            "squash": self.squash,
            "init": self.init,
            "backend": self.backend,
        }


@cache
def _twin(activation: str, init: str) -> LayerFactory:
    return LayerFactory(kan_roles=(), activation=activation, init=init)
