"""What every KAN layer does first: squash, expand in the basis, append the residual branch.

Axes: C features (input channels), K basis functions, R = 1 with a residual branch, else 0.
"""

import dataclasses

import torch
from torch import Tensor, nn

from kanzoo.bases.activation import ACTIVATIONS, Activation
from kanzoo.bases.base import BasisFactory, second_moment
from kanzoo.checks import check_name
from kanzoo.layers.dispatch import compute
from kanzoo.layers.inputs import evaluating
from kanzoo.layers.paths.base import Request
from kanzoo.layers.squash import SQUASHES, Squash

# For every function phi_k the index j and the sign s of phi_k(-x) = s phi_j(x).
Reflection = tuple[tuple[int, ...], tuple[float, ...]]
INITS = (
    *("variance", "paper", "paper_unscaled", "glorot", "glorot_uniform", "power_law", "pykan"),
    "uniform",
)
NOISE = 0.1  # at which splines start in pykan
MAX_SLOPE = 1.2  # mean square of a layer's slope at the start, for inputs and outputs of variance 1


class Expansion(nn.Module):
    """Features of a KAN layer: `(..., C) -> (K + R, ..., C)`, the residual branch last.

    Evaluated in at least float32, also under autocast, since squares and cubes of bfloat16 inputs
    lose what distinguishes neighbouring functions. `"auto"` for `residual` and `squash` means what
    the basis' literature combines it with (`Basis.default_residual`, `default_squash`). The
    squashed input goes to the basis only; the residual branch sees the input as it is.
    """

    def __init__(
        self,
        in_features: int,
        basis: BasisFactory,
        *,
        residual: str | None = "auto",
        squash: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        residual = basis.cls.default_residual if residual == "auto" else residual
        squash = basis.cls.default_squash if squash == "auto" else squash
        if residual is not None:
            check_name("residual", residual, ACTIVATIONS)
        check_name("squash", squash, SQUASHES)
        self.factory = basis
        self.residual = residual
        self.basis = basis(in_features, device=device, dtype=dtype)
        self.squash = squash if self.basis.num_functions else "none"  # nothing else would use it
        self.squasher = SQUASHES[self.squash](in_features, device=device, dtype=dtype)
        self.num_functions = self.basis.num_functions + (residual is not None)
        self.reflection: Reflection | None = None  # set where edges are even or odd
        if self.num_functions == 0:
            raise ValueError(
                f"basis {basis.name!r} without a residual branch has no functions: set residual"
            )

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(x)
        return self._with_residual(self._functions(self.squasher(x)), x)

    def univariate(self, x: Tensor) -> Tensor:
        """As `forward`, but every feature by itself and without side effects: what edges show."""
        x = self.wide(x)
        return self._with_residual(self.basis(self.squasher.univariate(x)), x)

    def squashed(self, x: Tensor) -> Tensor:
        """What the basis gets to see of x, as in evaluation: no statistics are updated."""
        with evaluating(self.squasher):
            values: Tensor = self.squasher(self.wide(x))
        return values

    def on_features(self, x: Tensor, block: slice) -> Tensor:
        """`forward` for a block of features, where the squash is elementwise: `(..., b)`."""
        values = self.basis.on_features(self.squasher(x), block)
        return self._with_residual(values, x)

    @property
    def squash_is_elementwise(self) -> bool:
        """Whether the squash is the same fixed function of every value."""
        return self.squash in ("none", "tanh", "sigmoid")

    @property
    def keeps_zero(self) -> bool:
        """Whether an input of zero reaches the basis as zero and has a residual of zero."""
        return self.squash in ("none", "tanh")  # so are all activations

    @property
    def zero_at_zero(self) -> bool:
        """Whether all functions of a zero are zero, so that zeros can be put in after them."""
        return self.basis.zero_at_zero and self.keeps_zero

    def grid_changed(self) -> None:
        """Take note that the basis has another grid, and perhaps another number of functions."""
        self.num_functions = self.basis.num_functions + (self.residual is not None)
        options = dict(self.factory.options) | {"grid_size": self.basis.grid_size}
        self.factory = dataclasses.replace(self.factory, options=tuple(sorted(options.items())))

    def wide(self, x: Tensor) -> Tensor:
        """The input in at least float32, the precision of all bases."""
        if not x.is_floating_point():
            raise ValueError(f"a KAN layer needs floating point inputs, got {x.dtype}")
        return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x

    def _functions(self, x: Tensor) -> Tensor:
        """The basis, by a kernel where there is one for its values."""
        request = self.values_request(x)
        values: Tensor = self.basis(x) if request is None else compute(request)
        return values

    def values_request(self, x: Tensor) -> Request | None:
        """What is asked for where a single function has compiled code, None elsewhere."""
        family = self.basis.family() if self.basis.num_functions == 1 else None
        return None if family is None else Request("values", self, x, family.tables[0], None)

    def _with_residual(self, values: Tensor, x: Tensor) -> Tensor:
        if self.residual is None:
            return values
        residual = ACTIVATIONS[self.residual](x).unsqueeze(0)
        return torch.cat([values, residual]) if self.basis.num_functions else residual

    @property
    def flops(self) -> int:
        """Operations per input value: every function is evaluated once an input, not an edge."""
        residual = self.residual not in (None, "identity")
        return self.basis.flops + residual + self.squasher.flops

    def moments(self, derivative: bool = False, uniform: bool = False) -> tuple[float, float]:
        """E[sum_k phi_k(x)^2] of the basis and E[act(x)^2] of the residual, for x ~ N(0, 1).

        With `derivative` those of the derivatives in x, with `uniform` for x from -1 to 1.
        """
        basis = second_moment(self.factory, SQUASHES[self.squash].at_start, derivative, uniform)
        if self.residual is None:
            return basis, 0.0
        residual = BasisFactory(Activation, (("function", self.residual),))
        return basis, second_moment(residual, Squash.at_start, derivative, uniform)

    def variance_shares(self) -> tuple[float, float]:
        """Variances of a basis' and a residual's weights, times fan-in, that keep N(0, 1) inputs.

        Outputs have variance 1. Both are equal unless the basis is so rough that the mean square
        of the slope, E[sum phi'^2] over E[sum phi^2], exceeds `MAX_SLOPE`; then the residual takes
        as much of the variance as brings the slope down to it. Deep networks of rough random
        functions, like those of fine grids, are chaotic and learn nothing from their gradients.
        """
        basis, residual = self.moments()
        basis_slope, residual_slope = self.moments(derivative=True)
        equal = 1.0 / (basis + residual)
        if residual == 0.0 or equal * (basis_slope + residual_slope) <= MAX_SLOPE:
            return equal, equal
        smooth = residual_slope / residual
        share = max(MAX_SLOPE - smooth, 0.0) / (basis_slope - smooth * basis)
        return share, (1.0 - share * basis) / residual

    def _through_noise(self, weight: Tensor) -> Tensor:
        """The least coefficients of splines whose values at the ends of cells are noise.

        It is uniform and 0.1 / G wide, G being the grid's cells. Of other bases the coefficients
        are normal noise, of the deviation that G = K would give it. `(K, ...) -> (K, ...)`.
        """
        splines = self.basis.splines()
        if splines is None or splines.beside is not None:
            return torch.empty_like(weight).normal_(0.0, NOISE / max(len(weight), 1) / 12**0.5)
        knots = splines.knots.reshape(-1, splines.knots.shape[-1])[0]  # of the first feature
        ends = knots[splines.order : len(knots) - splines.order].to(weight)
        values = self.basis(ends.unsqueeze(-1).expand(-1, self.basis.in_features))  # (K, G + 1, C)
        noise = torch.rand((len(ends), *weight.shape[1:]), device=weight.device) - 0.5
        solve = torch.linalg.pinv(values[..., 0].double().t()).to(noise)
        least = solve * (NOISE / (len(ends) - 1))
        return torch.tensordot(least, noise, 1).to(weight)

    @torch.no_grad()
    def init_weight(
        self, weight: Tensor, fan_in: float, scheme: str, fan_out: float | None = None
    ) -> None:
        """Draw the weights of a layer, given as a view with functions first.

        Shapes: weight `(K + R, ...)`; `fan_out` is its size over fan-in unless given. Schemes:
        "variance" keeps the variance of N(0, 1) inputs and bounds the slope (`variance_shares`);
        "paper" (2404.19756, section 2.2) draws the basis with std 0.1 / sqrt(K) over fan-in and
        the residual by Glorot; "paper_unscaled" is that with a std of 0.1 at any width, as jaxKAN's
        default; "glorot" (2509.03417) gives every function an equal share of the
        variances of outputs and of gradients,
        std = sqrt(2 / ((K + R) (fan_in E[phi^2] + fan_out E[phi'^2]))), E being the mean over the
        basis, or that of the residual; "glorot_uniform" is that for inputs from -1 to 1, all as
        likely, whose deviation of 3^-0.5 the outputs keep (so the code of that paper);
        "power_law" (2509.03417) has std (fan_in (K + R))^-1.75 for the basis and
        (fan_in (K + R))^-0.25 for the residual, or (fan_in (K + R))^-0.5 where one of the two is
        missing; "pykan" is what pykan 0.0 drew (KAN.py), as measured by others: a residual of std
        0.2 at any fan-in, of mean fan_in^-0.5 - 0.1, and splines through noise at the ends of their
        cells (`_through_noise`); "uniform" is that of PyTorch's layers, within
        (fan_in (K + R))^-0.5, where biases are drawn too.
        """
        check_name("init", scheme, INITS)
        if weight.is_meta:
            return
        num_basis, count = self.basis.num_functions, self.num_functions
        fan_out = fan_out or weight[0].numel() / fan_in
        if scheme == "pykan":
            weight[:num_basis] = self._through_noise(weight[:num_basis])
            weight[num_basis:].normal_(fan_in**-0.5 - 0.1, 0.2)
            return
        if scheme == "uniform":
            bound = (fan_in * count) ** -0.5
            weight.uniform_(-bound, bound)
            return
        if scheme == "variance":
            weight.normal_(0.0, fan_in**-0.5)
            basis, residual = self.variance_shares()
            weight[:num_basis] *= basis**0.5
            weight[num_basis:] *= residual**0.5
            return
        if scheme.startswith("paper"):
            basis = 0.1 * (1 if scheme != "paper" else (max(num_basis, 1) * fan_in) ** -0.5)
            residual = (2.0 / (fan_in + fan_out)) ** 0.5
        elif scheme.startswith("glorot"):
            uniform = scheme == "glorot_uniform"
            outputs, gradients = (self.moments(slope, uniform) for slope in (False, True))
            sums = [fan_in * m + fan_out * g for m, g in zip(outputs, gradients, strict=True)]
            basis, residual = (
                (2 * num / (count * total) / (3 if uniform else 1)) ** 0.5 if total else 0.0
                for num, total in zip((num_basis, 1), sums, strict=True)
            )
        else:
            both = num_basis > 0 and self.residual is not None
            powers = (-1.75, -0.25) if both else (-0.5, -0.5)
            basis, residual = ((fan_in * count) ** power for power in powers)
        weight[:num_basis].normal_(0.0, basis)
        weight[num_basis:].normal_(0.0, residual)

    def extra_repr(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.factory.options)
        return (
            f"basis={self.factory.name!r}{options}, num_functions={self.num_functions}, "
            f"residual={self.residual!r}, squash={self.squash!r}"
        )
