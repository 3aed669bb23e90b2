"""From data to a formula: symmetries first, then networks from the smallest up.

Axes: N samples, C columns, O outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sympy
import torch

from kanzoo.fit.least_squares import rmse
from kanzoo.fit.stack import FittedStack, StackOptions, fit_regression, standardise
from kanzoo.interpret.formula.expression import Formula, make_symbols, tidy
from kanzoo.interpret.formula.problem import Problem, one_function
from kanzoo.interpret.formula.run import judge, symbolic
from kanzoo.interpret.formula.search import EXACT, FormulaError
from kanzoo.interpret.formula.symmetry import simplify
from kanzoo.interpret.pruning import Pruning, prune, smallest

MAX_WIDTH = 9  # of the network whose symmetries are looked for
ROUGH = 1e-4  # error of a network, in deviations, from which the logarithm is tried too
HIDDEN_LAYERS = ((), (1,), (2,))  # that are tried in turn unless given


@dataclass(frozen=True)
class Discovery:
    """A formula and the network that was fitted beside it."""

    formula: Formula
    stack: FittedStack


def discover(
    x: np.ndarray,
    y: np.ndarray,
    names: Sequence[str],
    options: StackOptions,
    *,
    tolerance: float = 0.01,
    time_limit: float | None = 180.0,
    floor: Any = 0.0,
    use_symmetry: bool = True,
) -> Discovery:
    """A formula of the columns `names` of x `(N, C)` for y `(N, O)`.

    Of one output, whose network is neither given by `options.hidden` nor constrained, symmetries
    are looked for first. Networks of `HIDDEN_LAYERS`, or of `options.hidden`, are then fitted,
    pruned and read, until one is exact; the best is taken. An output whose deviation is at most
    `floor` counts as constant. Raises `FormulaError` if no formula is within `tolerance`
    deviations of y, or found in `time_limit` seconds.
    """
    units = standardise(y, floor)
    may_reduce = options.hidden is None and y.shape[1] == 1 and options.constrain is None
    if use_symmetry and may_reduce:
        by_symmetry = _by_symmetry(x, y, names, options, units, tolerance, time_limit)
        if by_symmetry is not None:
            return by_symmetry
    best: tuple[float, Discovery] | None = None
    failure: FormulaError | None = None
    for hidden in HIDDEN_LAYERS if options.hidden is None else (options.hidden,):
        stack = fit_regression(x, y, replace(options, hidden=hidden), units)
        prune_stack(stack)
        try:
            formula = read_stack(stack, names, tolerance=tolerance, time_limit=time_limit)
        except FormulaError as reason:
            failure = reason
            continue
        error = formula.rmse_formula / float(stack.deviation.mean())
        if best is None or error < 0.8 * best[0]:
            best = error, Discovery(formula, stack)
        if error < EXACT:
            break
    if best is None:
        assert failure is not None
        raise failure
    return best[1]


def prune_stack(
    stack: FittedStack, threshold: float | None = None, tolerance: float = 0.1
) -> Pruning:
    """Prune the network of a stack and fit what is left again.

    Without a threshold the smallest network is searched whose error grows by `tolerance`, a share
    of it; for classes, weak edges are pruned.
    """
    if threshold is None and stack.options.is_regression:
        result = smallest(stack.net, stack.z, stack.y, tolerance=tolerance, refit=stack.refit)
    else:
        loss = stack.options.loss
        result = prune(
            stack.net,
            stack.z,
            stack.y,
            threshold=0.03 if threshold is None else threshold,
            metric=None if stack.options.is_regression else lambda a, b: float(loss(a, b)),
        )
        stack.refit(result.net)
    stack.net = result.net
    return result


def read_stack(stack: FittedStack, names: Sequence[str], **options: Any) -> Formula:
    """The formula of a stack, in the units of the data: of targets, or of the scores of classes."""
    return symbolic(
        stack.net,
        stack.z,
        stack.y if stack.options.is_regression else None,
        names=names,
        inputs=list(zip(stack.shift.tolist(), stack.scale.tolist(), strict=True)),
        outputs=list(zip(stack.mean.tolist(), stack.deviation.tolist(), strict=True)),
        **options,
    )


def _by_symmetry(
    x: np.ndarray,
    y: np.ndarray,
    names: Sequence[str],
    options: StackOptions,
    units: tuple[np.ndarray, np.ndarray],
    tolerance: float,
    time_limit: float | None,
) -> Discovery | None:
    """A formula by way of fewer variables, if there is one within the tolerance."""
    mean, deviation = units
    values = ((y - mean) / deviation)[:, 0] * deviation[0] + mean[0]
    symbols = make_symbols(names)
    problem = Problem(x, values, tuple(symbols), lambda e: e)

    def widened(num_columns: int) -> StackOptions:
        return replace(options, hidden=(min(2 * num_columns + 1, MAX_WIDTH),))

    def fit(x: np.ndarray, y: np.ndarray) -> "_Smooth":
        return _fit_smooth(x, y, widened(x.shape[1]))

    reduced = simplify(problem, fit, fit(x, values))
    if reduced is problem and x.shape[1] > 1:
        return None
    solution = _solve(reduced, options, tolerance, time_limit)
    if solution is None:
        return None
    raw, edges = solution
    index = np.arange(0, len(x), max(1, len(x) // 500))
    tidied = tidy(raw, symbols, x[index], values[index]) if raw.free_symbols else raw
    stack = fit_regression(x, y, widened(x.shape[1]), units)
    choices = [[tidied], [raw]]
    try:
        formula = judge(choices, symbols, x, values[:, None], stack.predict(x), edges, tolerance)
    except FormulaError:
        return None
    return Discovery(formula, stack)


def _solve(
    problem: Problem, options: StackOptions, tolerance: float, time_limit: float | None
) -> tuple[sympy.Expr, list[dict[str, Any]]] | None:
    """The expression of what is left when all symmetries are used, and what its edges became."""
    if problem.is_constant or not problem.x.shape[1]:
        return problem.invert(sympy.Float(problem.y.mean(), 17)), []
    single = one_function(problem) if problem.x.shape[1] == 1 else None
    if single is not None:
        return single
    names = [f"x{k}" for k in range(problem.x.shape[1])]
    limits: dict[str, Any] = {"tolerance": tolerance, "time_limit": time_limit}
    try:
        rest = discover(
            problem.x, problem.y[:, None], names, options, use_symmetry=False, **limits
        ).formula
    except FormulaError:
        return None
    columns = dict(zip(rest.symbols, problem.columns, strict=True))
    return problem.invert(rest.expression.subs(columns)), rest.edges


def _fit_smooth(x: np.ndarray, y: np.ndarray, options: StackOptions) -> "_Smooth":
    """A network of one hidden layer, fitted to y or to its logarithm, whichever goes better."""
    smooth = _Smooth(fit_regression(x, y[:, None], options), x, y)
    if smooth.error > ROUGH and y.min() > 0:
        other = fit_regression(x, np.log(y)[:, None], options)
        return min(smooth, _Smooth(other, x, y, logarithm=True), key=lambda smooth: smooth.error)
    return smooth


class _Smooth:
    """A fitted stack, of y or of its logarithm, as the search for symmetries takes it."""

    def __init__(
        self, stack: FittedStack, x: np.ndarray, y: np.ndarray, *, logarithm: bool = False
    ) -> None:
        self.stack, self.logarithm = stack, logarithm
        truth = np.log(y) if logarithm else y
        self.error = rmse(self._outputs(x)[0], truth) / (float(truth.std()) or 1.0)

    def gradient(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values `(N,)` and derivatives `(N, C)`."""
        values, slopes = self._outputs(x)
        if self.logarithm:
            values = np.exp(values)
            slopes = slopes * values[:, None]
        return values, slopes

    def _outputs(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        stack = self.stack
        z = stack.scaled(x).requires_grad_()
        output = stack.net(z)[:, 0]
        (slopes,) = torch.autograd.grad(output.sum(), z)
        mean, deviation = float(stack.mean[0]), float(stack.deviation[0])
        return output.detach().numpy() * deviation + mean, slopes.numpy() * deviation / stack.scale
