"""The search for the formula of one output, in stages of rising cost.

Axes: N samples, C columns.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import sympy
import torch

from kanzoo.fit.least_squares import rmse
from kanzoo.fit.stack import FittedStack, StackOptions, fit_regression
from kanzoo.interpret.formula.clock import Clock, TimeOver
from kanzoo.interpret.formula.direct import VAGUE, search
from kanzoo.interpret.formula.front import NOISY, Front
from kanzoo.interpret.formula.inner import inner_functions
from kanzoo.interpret.formula.problem import Problem, one_function
from kanzoo.interpret.formula.separable import separations, solve_separated
from kanzoo.interpret.formula.stacks import formula_of_stack, prune_stack
from kanzoo.interpret.formula.surrogate import Polynomial, fit_polynomial
from kanzoo.interpret.formula.symmetry import Smooth, simpler
from kanzoo.interpret.formula.units import dimensionless

log = logging.getLogger("kanzoo")

MAX_WIDTH = 9  # of the network whose symmetries are looked for
ROUGH = 1e-4  # error of a network, in deviations, from which the logarithm is tried too
MAX_ROWS = 4000  # samples that formulas are looked for in
HIDDEN_LAYERS = ((), (1,), (2,))  # that are tried in turn unless given
AS_GOOD = 1.05  # factor of a smooth fit's error within which a formula of noisy data is one
DROPPED = 1.02  # factor by which the error may grow when a column is left out


class OutputSearch:
    """Fills a front with formulas of y `(N,)`; `findings` say what the data show, in words.

    `smooth_error` is the error, in deviations of y, of the best smooth fit.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        symbols: Sequence[sympy.Symbol],
        names: Sequence[str],
        options: StackOptions,
        clock: Clock,
    ) -> None:
        self.names, self.options, self.clock = list(names), options, clock
        rows = np.linspace(0, len(x) - 1, min(len(x), MAX_ROWS)).astype(int)
        x, y = x[rows], y[rows]
        self.problem = Problem(x, y, tuple(symbols), lambda e: e)
        self.front = Front(x, y, symbols, clock)
        self.findings: list[str] = []
        self.smooth_error = np.inf
        self.is_stopped = False

    def run(self, units: Mapping[str, str] | None = None, *, networks: bool = True) -> None:
        """Search until a formula is exact, all ways are tried, or the time is over."""
        try:
            self.front.add_linear()
            self._run(units, networks)
        except TimeOver:
            self.is_stopped = True
        except KeyboardInterrupt:
            self.is_stopped = True
            self.clock.stop()

    @property
    def _is_done(self) -> bool:
        return self.front.is_exact or self.front.is_settled(self.smooth_error)

    def _run(self, units: Mapping[str, str] | None, networks: bool) -> None:
        if self.problem.is_constant:
            return
        constrained = self.options.constrain is not None
        if not constrained:
            self._without_networks(units)
        noise = max(self.smooth_error, NOISY)
        if networks and not (self._is_done or NOISY < self.front.choose().error < AS_GOOD * noise):
            self._by_networks()

    def _without_networks(self, units: Mapping[str, str] | None) -> None:
        problem = self.problem
        if units is not None:
            reduced = dimensionless(problem, units, self.names)
            if reduced is not None:
                groups = ", ".join(map(str, reduced.columns))
                self.findings.append(f"units leave a function of {groups}")
                search(reduced, self.front, self.clock)
                if self._is_done:
                    return
        smooth = fit_polynomial(problem.x, problem.y)
        self.smooth_error = smooth.error
        self.problem = problem = self._without_dummies(problem, smooth)
        search(problem, self.front, self.clock, self.smooth_error)
        if self._is_done:
            return
        smooth = fit_polynomial(problem.x, problem.y)
        self.smooth_error = min(self.smooth_error, smooth.error)
        smaller = self._by_symmetry(problem, fit_polynomial, smooth)
        for rest in [smaller, problem] if smaller is not problem else [problem]:
            if self._is_done:
                return
            fit = fit_polynomial(rest.x, rest.y)
            for separation in separations(rest, fit) if fit.error < VAGUE else ():
                before = self.front.least
                for part in solve_separated(rest, fit, separation, search, self.clock):
                    self._add(rest, part)
                if fit.error < NOISY or self.front.least < before:  # noise may hide what is not so
                    self.findings.append(separation.title([str(c) for c in rest.columns]))
            for part in inner_functions(rest, self.clock):
                self._add(rest, part)

    def _add(self, problem: Problem, expression: sympy.Expr) -> None:
        self.clock.check()
        if not self._is_done:
            self.front.add(problem.invert(expression))

    def _without_dummies(self, problem: Problem, smooth: Polynomial) -> Problem:
        """The problem without columns that a smooth fit predicts as well without."""
        k = 0
        if smooth.error > VAGUE:
            return problem
        while k < problem.x.shape[1] and problem.x.shape[1] > 1:
            self.clock.check()
            rest = [i for i in range(problem.x.shape[1]) if i != k]
            fit = fit_polynomial(problem.x[:, rest], problem.y)
            if fit.error <= DROPPED * smooth.error + 1e-12:
                self.findings.append(f"does not depend on {problem.columns[k]}")
                columns = tuple(problem.columns[i] for i in rest)
                problem, smooth = (
                    Problem(problem.x[:, rest], problem.y, columns, problem.invert),
                    fit,
                )
            else:
                k += 1
        return problem

    def _by_symmetry(self, problem: Problem, fit: object, smooth: Smooth) -> Problem:
        """The problem with the columns that symmetries leave; every step is searched."""
        for title, smaller in simpler(problem, fit, smooth):  # type: ignore[arg-type]
            self.findings.append(title)
            problem = smaller if smaller.x.shape[1] else problem
            search(smaller, self.front, self.clock, self.smooth_error)
            self.clock.check()
            if self._is_done:
                break
        return problem

    def _by_networks(self) -> None:
        problem, options = self.problem, self.options
        if options.hidden is None and options.constrain is None:

            def widened(count: int) -> StackOptions:
                return replace(options, hidden=(min(2 * count + 1, MAX_WIDTH),))

            def fit(x: np.ndarray, y: np.ndarray) -> "_Smooth":
                self.clock.check()
                return _fit_smooth(x, y, widened(x.shape[1]))

            self.clock.show("symmetries of a network")
            smooth = fit(problem.x, problem.y)
            problem = self._by_symmetry(problem, fit, smooth)
            if self._is_done:
                return
        single = one_function(problem) if problem.x.shape[1] == 1 else None
        if single is not None:
            self.front.add(single)
        names = [f"x{k}" for k in range(problem.x.shape[1])]
        for hidden in HIDDEN_LAYERS if options.hidden is None else (options.hidden,):
            if self._is_done:
                return
            self.clock.show(f"a network with hidden layers {list(hidden)}")
            self.clock.check()
            stack = fit_regression(problem.x, problem.y[:, None], replace(options, hidden=hidden))
            prune_stack(stack)
            rest = formula_of_stack(stack, names, self.clock)
            if rest is not None:
                columns = dict(zip(rest.symbols, problem.columns, strict=True))
                self._add(problem, rest.expression.xreplace(columns))


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
