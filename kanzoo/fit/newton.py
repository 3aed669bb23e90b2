"""Gauss-Newton for stacks of KAN layers, with weights of samples and a penalty on rough edges.

The derivatives of such a stack are products of its basis functions, so that no automatic
differentiation is needed, and the normal equations are summed up over blocks of samples.

Axes: N samples, O outputs, C inputs, K functions and M outputs of a layer, P parameters.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanzoo.fit.least_squares import MAX_SIZE, Damping, fit_lbfgs, levenberg_marquardt
from kanzoo.layers import KANLinear

KEPT = 10_000_000  # values of the first layer's functions that are kept
BLOCK = 3_000_000  # numbers of a Jacobian that are held at once


@dataclass(frozen=True)
class Penalty:
    """Half of `ridge` times the squares of all linear branches, and of `rough` times the squares
    of second differences of the splines' coefficients, with a hundredth of their own squares.

    It is added to half the sum of squared errors, or to the sum of cross-entropies. Infinite
    roughness leaves the linear branches alone.
    """

    ridge: float
    rough: float = math.inf

    @property
    def is_linear(self) -> bool:
        return math.isinf(self.rough)

    def matrix(self, layer: KANLinear) -> Tensor:
        """The penalty of one edge, `(K, K)`, of the functions that are fitted."""
        if self.is_linear:
            return torch.full((1, 1), self.ridge, dtype=torch.float64)
        splines = layer.expansion.basis.num_functions
        matrix = torch.zeros(splines + 1, splines + 1, dtype=torch.float64)
        eye = torch.eye(splines, dtype=torch.float64)
        second = eye.diff(2, dim=0)
        matrix[:splines, :splines] = self.rough * (second.T @ second + 0.01 * eye)
        matrix[-1, -1] = self.ridge
        return matrix


@dataclass(frozen=True)
class Anchor:
    """What earlier samples and the penalty say about the parameters w `(P,)`, to second order.

    It stands for d'Hd / 2 with d = w - `flat`, parameters that were fitted to them, and the
    Gauss-Newton matrix H `(P, P)`; of squared errors without hidden layers this is exact.
    """

    flat: Tensor
    gram: Tensor

    def value(self, flat: Tensor) -> Tensor:
        change = flat - self.flat
        return change @ (self.gram @ change) / 2

    def slope(self, flat: Tensor) -> Tensor:
        """The gradient at other parameters."""
        return self.gram @ (flat - self.flat)


def is_plain(net: nn.Module) -> bool:
    """Whether a network is a sequence of unconstrained KAN layers with linear branches."""
    return isinstance(net, nn.Sequential) and all(
        isinstance(layer, KANLinear)
        and layer.stores_weight
        and not layer.is_constrained
        and not layer.given
        and layer.bias is not None
        and layer.expansion.residual == "identity"
        for layer in net
    )


def losses(outputs: Tensor, y: Tensor) -> Tensor:
    """Half the squared error of every sample summed over outputs, or its cross-entropy, `(N,)`."""
    if y.is_floating_point():
        return (outputs - y).square().sum(1) / 2
    return F.cross_entropy(outputs, y, reduction="none")


@torch.no_grad()
def predict(net: nn.Module, x: Tensor) -> Tensor:
    """Outputs `(N, O)` for x `(N, C)`, in blocks."""
    rows = max(1, BLOCK // (20 * max(x.shape[1], 1)))
    return torch.cat([net(part) for part in x.split(rows)])


@torch.no_grad()
def fit_newton(
    net: nn.Sequential,
    x: Tensor,
    y: Tensor,
    penalty: Penalty,
    *,
    weights: Tensor | None = None,
    steps: int = 20,
    least_gain: float = 1e-3,
    deadline: float = math.inf,
    anchor: Anchor | None = None,
) -> float:
    """Minimise the penalised loss of a plain stack in place; returns its value.

    Shapes: x `(N, C)`, y `(N, O)`, or whole numbers `(N,)` for cross-entropy, weights `(N,)`. The
    steps are Levenberg-Marquardt's; they end when three in a row gain less than the share
    `least_gain`, and at the deadline of `time.monotonic`. An anchor takes the penalty's place.
    """
    problem = Problem(net, x, y, penalty, weights, anchor)
    if problem.size > MAX_SIZE:
        return problem.descend(steps)
    is_quadratic = len(problem.layers) == 1 and y.is_floating_point()
    damping = Damping(1e-12 if is_quadratic else 1e-3, factor=8, least=1e-12, floor=1e-12, tries=7)
    before = math.inf if anchor is None else problem.value()
    value = levenberg_marquardt(
        problem,
        1 if is_quadratic else steps,
        least_gain=least_gain,
        damping=damping,
        least_promise=0.1 * least_gain,
        deadline=deadline,
    )
    # A class that earlier samples did not have is so improbable that no step of Newton's helps.
    return value if anchor is None or value < before else problem.descend(steps)


class Problem:
    """The penalised loss of a stack, its Gauss-Newton matrix `(P, P)` and its gradient `(P,)`."""

    def __init__(
        self,
        net: nn.Sequential,
        x: Tensor,
        y: Tensor,
        penalty: Penalty,
        weights: Tensor | None,
        anchor: Anchor | None = None,
    ) -> None:
        self.net, self.x, self.y, self.weights, self.anchor = net, x, y, weights, anchor
        self.layers: list[KANLinear] = list(net)  # type: ignore[arg-type]
        self.first = -1 if penalty.is_linear else 0  # of the functions that are fitted
        self.parameters: list[Tensor] = []
        self.penalised = [] if anchor else self.layers
        self.edges = [penalty.matrix(layer) for layer in self.penalised]
        for layer in self.layers:
            assert layer.bias is not None
            self.parameters += [layer.weight.data[:, self.first :], layer.bias.data]
        self.size = sum(p.numel() for p in self.parameters)
        numbers = x.numel() * self.layers[0].expansion.num_functions
        self.expanded: Tensor | None = None
        if numbers <= KEPT:  # grids stay, so the first layer's functions do
            self.expanded = self.layers[0].expansion.univariate(x)
        self.rows: int = max(1, BLOCK // (self.size * self.layers[-1].out_features))

    def flat(self) -> Tensor:
        return torch.cat([p.flatten() for p in self.parameters])

    def write(self, flat: Tensor) -> None:
        pieces = flat.split([p.numel() for p in self.parameters])
        for parameter, piece in zip(self.parameters, pieces, strict=True):
            parameter.copy_(piece.view_as(parameter))

    @torch.no_grad()
    def value(self) -> float:
        total = float(self.loss(self.outputs(), self.y))
        for matrix, layer in zip(self.edges, self.penalised, strict=True):
            total += float(_quadratic(matrix, layer.weight[:, self.first :]))
        total += float(self.anchor.value(self.flat())) if self.anchor else 0.0
        return total if math.isfinite(total) else math.inf

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The sum of the losses of all samples, weighted."""
        each = losses(outputs, y)
        return (each if self.weights is None else each * self.weights).sum()

    @torch.enable_grad()
    def descend(self, steps: int) -> float:
        """Minimise by LBFGS; returns the value."""
        scale = 1 / len(self.x)

        def loss(outputs: Tensor, y: Tensor) -> Tensor:
            return scale * self.loss(outputs, y)

        def penalty() -> Tensor:
            total = self.x.new_zeros(())
            for matrix, layer in zip(self.edges, self.penalised, strict=True):
                total = total + _quadratic(matrix, layer.weight[:, self.first :])
            if self.anchor:
                pairs = [(layer.weight[:, self.first :], layer.bias) for layer in self.layers]
                flat = torch.cat([p.flatten() for pair in pairs for p in pair if p is not None])
                total = total + self.anchor.value(flat)
            return scale * total

        hooks = [layer.weight.register_hook(self._fitted) for layer in self.layers]
        fit_lbfgs(self.net, self.x, self.y, loss, 3 * steps, penalty, tolerance=1e-7)
        for hook in hooks:
            hook.remove()
        return self.value()

    def _fitted(self, gradient: Tensor) -> Tensor:
        """The gradient of the functions that are fitted."""
        kept = torch.zeros_like(gradient)
        kept[:, self.first :] = gradient[:, self.first :]
        return kept

    def outputs(self) -> Tensor:
        if self.expanded is None:
            return predict(self.net, self.x)
        first = self.layers[0]
        assert first.bias is not None
        values = _apply(self.expanded, first.masked_weight()) + first.bias
        for layer in self.layers[1:]:
            values = layer(values)
        return values

    def normal_equations(self) -> tuple[Tensor, Tensor, Tensor]:
        gram = torch.zeros(self.size, self.size, dtype=torch.float64)
        gradient = torch.zeros(self.size, dtype=torch.float64)
        for start in range(0, len(self.x), self.rows):
            block = slice(start, start + self.rows)
            outputs, jacobian = self.jacobian(block)
            y = self.y[block]
            if y.is_floating_point():
                slope, rows = outputs - y, jacobian
            else:
                p = outputs.softmax(1)
                slope = p - F.one_hot(y, p.shape[1])
                root = p.sqrt()  # diag(p) - p p' is the product of diag(root) - p root' with itself
                weighted = torch.einsum("no,nop->np", p, jacobian)
                rows = root[:, :, None] * (jacobian - weighted[:, None])
            if self.weights is not None:
                w = self.weights[block, None]
                slope, rows = w * slope, w[:, :, None].sqrt() * rows
            gradient += torch.einsum("no,nop->p", slope, jacobian)
            flat = rows.flatten(0, 1)
            gram.addmm_(flat.T, flat)
        start = 0
        for matrix, layer in zip(self.edges, self.penalised, strict=True):
            weight = layer.weight.data[:, self.first :]
            c, _, m = weight.shape
            size = weight.numel()
            eyes = [torch.eye(n, dtype=torch.float64) for n in (c, m)]
            gram[start : start + size, start : start + size] += torch.kron(
                eyes[0], torch.kron(matrix, eyes[1])
            )
            gradient[start : start + size] += torch.einsum("kl,clm->ckm", matrix, weight).flatten()
            start += size + m
        if self.anchor:
            gram += self.anchor.gram
            gradient += self.anchor.slope(self.flat())
        return gram, gradient, gram.diagonal().clone()

    def jacobian(self, block: slice) -> tuple[Tensor, Tensor]:
        """Outputs of some rows and their derivatives by all parameters, `(N, O, P)`."""
        x = self.x[block]
        values: list[Tensor] = []
        slopes: list[Tensor] = []
        for layer in self.layers:
            weight = layer.masked_weight()
            if values:
                value, slope = _derivatives(layer.expansion.univariate, x)
                slopes.append(torch.einsum("knc,ckm->ncm", slope, weight))
            elif self.expanded is None:
                value = layer.expansion.univariate(x)
            else:
                value = self.expanded[:, block]
            values.append(value)
            assert layer.bias is not None
            x = _apply(value, weight) + layer.bias
        outer = torch.eye(x.shape[1], dtype=x.dtype).expand(len(x), -1, -1)  # (N, O, M)
        pieces: list[Tensor] = []
        for index in reversed(range(len(self.layers))):
            layer = self.layers[index]
            edges = torch.einsum("knc,nom->nockm", values[index][self.first :], outer)
            if layer.edge_mask is not None:
                edges = edges * layer.edge_mask
            pieces = [edges.flatten(2), outer, *pieces]
            if index:
                outer = torch.einsum("nom,ncm->noc", outer, slopes[index - 1])
        return x, torch.cat(pieces, dim=2)


def _quadratic(matrix: Tensor, weight: Tensor) -> Tensor:
    """Half of w' M w for all edges: weights `(C, K, M)` by the penalty of one edge `(K, K)`."""
    return (weight * torch.einsum("kl,clm->ckm", matrix, weight)).sum() / 2


def _apply(values: Tensor, weight: Tensor) -> Tensor:
    """Sums of functions `(K, N, C)` with weights `(C, K, M)`, `(N, M)`."""
    return torch.einsum("knc,ckm->nm", values, weight)


@torch.enable_grad()
def _derivatives(functions: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Values `(K, N, C)` at x `(N, C)` and derivatives, by differentiating a gradient."""
    x = x.detach().requires_grad_()
    values = functions(x)
    factors = torch.ones_like(values, requires_grad=True)
    (gradient,) = torch.autograd.grad(values, x, factors, create_graph=True)
    (slopes,) = torch.autograd.grad(gradient.sum(), factors)
    return values.detach(), slopes
