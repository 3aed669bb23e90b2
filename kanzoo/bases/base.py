"""The contract of a basis: an elementwise expansion R -> R^K of every feature.

Axes: K functions, C features (input channels). Functions come first, so that each function's values
lie together in memory as the inputs do: an order of magnitude faster than functions last.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kanzoo import registry
from kanzoo.checks import MAX_FUNCTIONS, check_init, check_name, check_whole


@dataclass(frozen=True)
class Family:
    """A basis as compiled code knows it: a family of functions and the numbers that set it apart.

    The first table is `(J, K, C)`, or `(J, K, 1)` where all features have the same functions; what
    its rows mean is up to the family. If any number is trained, it has all features and a gradient.
    A single function (K = 1) may have tables of any shape.
    """

    name: str
    tables: tuple[Tensor, ...]
    constants: tuple[float, ...] = ()


class Splines(NamedTuple):
    """B-splines as compiled code knows them, and the one other function that a basis may have."""

    knots: Tensor  # (M,) for all features, or (C, M)
    order: int
    extrapolation: str
    beside: "Basis | None" = None  # the last function, of the same inputs


class Basis(nn.Module, ABC):
    """Functions phi_1 .. phi_K, the same or one set per feature, evaluated on every feature.

    Shapes: `(..., C) -> (K, ..., C)`. A basis holds no normalisation, squashing or residual branch:
    those are options of the layer. Class attributes name what the literature combines it with and
    are used where the layer's option is "auto".
    """

    default_squash: ClassVar[str] = "none"
    default_residual: ClassVar[str | None] = "silu"
    zero_at_zero: ClassVar[bool] = False  # whether all functions are zero at zero
    num_global: int = 0  # how many of the functions, the last ones, act on the whole line
    # Which coefficients make an increasing function: "ordered" ones, "positive" ones, or None.
    rising: str | None = None
    feature_tensors: tuple[str, ...] = ()  # parameters and buffers with C as last dimension

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        check_init(cls)

    def __init__(self, in_features: int, num_functions: int) -> None:
        super().__init__()
        check_whole("in_features", in_features, 1)
        if num_functions < 0:
            raise ValueError(f"a basis cannot have {num_functions} functions")
        self.in_features = in_features
        self.num_functions = num_functions

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Values of all functions: `(..., C) -> (K, ..., C)`, in the dtype of x."""

    def exact_buffers(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        """The float64 values that stored buffers are roundings of, where these are known."""
        return {}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Basis":
        before = {name: b for name, b in self._buffers.items() if b is not None}
        super()._apply(fn, recurse)
        after = {name: self._buffers[name] for name in before}
        if any(b.dtype != before[name].dtype for name, b in after.items() if b is not None):
            self._set_exact(before)
        return self

    def _set_exact(self, stored: dict[str, Tensor]) -> None:
        """Round buffers from their exact values, where they are known to be those of the stored."""
        if any(buffer.is_meta for buffer in stored.values()):
            return
        for name, exact in self.exact_buffers(stored).items():
            old = stored[name].detach().cpu()
            near = 2 * torch.finfo(old.dtype).eps * float(exact.abs().max())
            if exact.shape == old.shape and float((exact - old.double()).abs().max()) <= near:
                setattr(self, name, exact.to(getattr(self, name), copy=True).contiguous())

    def on_features(self, x: Tensor, block: slice) -> Tensor:
        """The functions of a block of features: `(..., b) -> (K, ..., b)`."""
        sliced = {name: getattr(self, name)[..., block] for name in self.feature_tensors}
        values: Tensor = torch.func.functional_call(self, sliced, (x,)) if sliced else self(x)
        return values

    def rising_range(self) -> tuple[float, float]:
        """The inputs for which `rising` holds."""
        return -float("inf"), float("inf")

    def family(self) -> Family | None:
        """The same functions for compiled code, None where there is no such code for them."""
        return None

    def splines(self) -> Splines | None:
        """The B-splines that the basis consists of, but for one function; None for others."""
        return None

    @property
    def num_nonzero(self) -> int:
        """How many functions, at most, are not zero at one input."""
        return self.num_functions

    @property
    @abstractmethod
    def flops(self) -> int:
        """Arithmetic operations that evaluate all K functions at one input."""


class GridBasis(Basis):
    """A basis of functions on a grid that can follow the data and be refined; not trained itself.

    The methods change the functions only. `kanzoo.layers.grid` changes the weights with them, so
    that the function of a layer stays.
    """

    grid_size: int

    @abstractmethod
    def fit_grid(self, sample: Tensor, uniform_share: float, margin: float) -> None:
        """Move the grid to data: sample `(N, C)`, float64 on the CPU, NaN for what is missing.

        The share of equal intervals against equal numbers of data, where grids allow the latter;
        `margin` times the range is added on both sides. Features without range stay.
        """

    @abstractmethod
    def resize_grid(self, grid_size: int) -> None:
        """Another number of cells over the same range."""

    @abstractmethod
    def size_with(self, num_functions: int) -> int:
        """The grid size at which there are that many functions."""

    @abstractmethod
    def grid_ends(self) -> Tensor:
        """Both ends of the range, per feature or for all: `(2, C)` or `(2, 1)`, float64, CPU."""

    @abstractmethod
    def grid_points(self) -> Tensor:
        """Points at which values determine a function, `(P, C)`, float64 on the CPU."""


@dataclass(frozen=True)
class BasisFactory:
    """A basis without its number of features: what `get_basis` returns and layers accept."""

    cls: type[Basis]
    options: tuple[tuple[str, Any], ...] = ()
    name: str = ""

    def __call__(
        self,
        in_features: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Basis:
        options = {**dict(self.options), "device": device, "dtype": dtype}
        return self.cls(in_features, **options)


def get_basis(name: str, **options: Any) -> BasisFactory:
    """A factory for the basis of that name in `conf/basis`, with some of its options changed.

    Raises `ValueError` for unknown names and options, and for options that cannot be.
    """
    node = registry.options("basis", name)
    target = node.pop("_target_")
    for key in options:
        check_name(f"option of basis {name!r}", key, node)
    cls = registry.locate(target)
    if not issubclass(cls, Basis):
        raise ValueError(f"{target} of conf/basis/{name}.yaml is not a kanzoo.bases.base.Basis")
    return make_factory(cls, name=name, **{**node, **options})


def make_factory(cls: type[Basis], name: str = "", **options: Any) -> BasisFactory:
    """A factory over a class; its options are plain values, so that factories can be compared."""
    frozen = tuple((key, _plain(value)) for key, value in sorted(options.items()))
    factory = BasisFactory(cls, frozen, name or cls.__name__.lower())
    for key, value in frozen:
        if isinstance(value, int) and value > MAX_FUNCTIONS:
            raise ValueError(
                f"basis {factory.name!r}: {key}={value} is above {MAX_FUNCTIONS}: its functions of "
                f"every number of a batch need {4 * value / 2**20:,.1f} MiB"
            )
    try:  # impossible options are refused here, not when the first layer is built
        with torch.random.fork_rng(devices=[]):
            factory(1)
    except TypeError as error:
        raise ValueError(f"basis {factory.name!r}: {error}") from error
    return factory


def _plain(value: Any) -> Any:
    """Tuples for lists, and Python's numbers for NumPy's."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def as_factory(basis: str | BasisFactory | type[Basis]) -> BasisFactory:
    """A factory from a name, a factory or a `Basis` class."""
    if isinstance(basis, BasisFactory):
        return basis
    if isinstance(basis, str):
        return get_basis(basis)
    if isinstance(basis, type) and issubclass(basis, Basis):
        return make_factory(basis)
    raise ValueError(f"basis must be a name, a factory or a Basis class, got {basis!r}")


def neighbours(in_features: int, groups: int, device: torch.device | str | None = None) -> Tensor:
    """The group of every feature, `(C)`, of neighbours; groups differ in size by one at most."""
    return torch.arange(in_features, device=device) * groups // in_features


def normal_quantiles(count: int = 4096) -> Tensor:
    """`count` float64 points on the CPU that divide the standard normal distribution evenly."""
    levels = (torch.arange(count, dtype=torch.float64, device="cpu") + 0.5) / count
    quantiles: Tensor = torch.special.ndtri(levels)
    return quantiles


@lru_cache(maxsize=1024)
def second_moment(
    factory: BasisFactory,
    transform: Callable[[Tensor], Tensor],
    derivative: bool = False,
    uniform: bool = False,
) -> float:
    """E[sum_k phi_k(transform(x))^2] for x ~ N(0, 1), by quadrature in float64.

    With `uniform` for x between -1 and 1, all as likely; with `derivative` that of d phi_k / dx, by
    central differences. Several features are averaged, since the functions of some bases differ
    between features or are drawn. Drawing must neither depend on nor advance the global generator.
    """
    step = 1e-5
    with torch.no_grad(), torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        # Of large bases fewer features: values of all functions are held at once.
        functions = factory(1, device="cpu").num_functions
        features = 64 if functions <= 512 else max(1, 4096 // functions)
        torch.default_generator.manual_seed(0)
        basis = factory(features, device="cpu", dtype=torch.float64)

        def values(x: Tensor) -> Tensor:
            functions: Tensor = basis(transform(x).unsqueeze(-1).expand(-1, features))
            return functions

        x = normal_quantiles(1024)
        if uniform:
            x = torch.special.erf(x / 2**0.5)  # of which a half is below -0.5 or above 0.5
        moments = (values(x + step) - values(x - step)) / (2 * step) if derivative else values(x)
        return float(moments.square().sum(0).mean())
