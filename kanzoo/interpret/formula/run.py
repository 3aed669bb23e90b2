"""From a stack of KAN layers to a formula: edge by edge, the surest first, the rest fitted again.

Axes: N samples, C inputs, O outputs.
"""

import copy
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor, nn

from kanzoo.checks import check_keywords
from kanzoo.fit.chain import chain, check_finite
from kanzoo.fit.least_squares import network_rmse, rmse
from kanzoo.interpret.formula.clock import Clock
from kanzoo.interpret.formula.constants import tidy
from kanzoo.interpret.formula.expression import Formula, edge_record, evaluate
from kanzoo.interpret.formula.library import EdgeFit
from kanzoo.interpret.formula.names import make_symbols
from kanzoo.interpret.formula.search import FormulaError, Nodes, edge_name, simplest

__all__ = ["FormulaError", "symbolic"]

log = logging.getLogger("kanzoo")

TIME_LIMIT = 180.0  # seconds
ROWS = 2000  # samples that the parameters are fitted to


@check_keywords
def symbolic(
    net: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    tolerance: float = 0.01,
    max_error: float | None = None,
    time_limit: float | None = TIME_LIMIT,
    names: Sequence[str] | None = None,
    functions: Iterable[str] | None = None,
    inputs: Sequence[Any] | None = None,
    outputs: Any = None,
    clock: Clock | None = None,
    is_common: bool = False,
) -> Formula:
    """The formula of a stack of `KANLinear`, fitted to y, or to the network's own outputs.

    Shapes: x `(N, C)`, y `(N, O)`. The formula's error may exceed the network's by `tolerance`
    standard deviations of y at most, for every output in its own (of all outputs together where
    they share one unit and `is_common` says so), and be at most `max_error` of them if that is
    given;
    `FormulaError` says otherwise which edge failed, or that `time_limit` seconds were not enough
    (None for no limit; a `clock` that runs already counts instead). `names` are
    those of the inputs, x_1, x_2, ... unless given; `functions` restrict the library. `inputs` and
    `outputs` serve networks on scaled data: pairs (shift, scale) of the columns, z = (x - shift) /
    scale, so that the formula speaks of the data before scaling.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be between 0 and 1, got {tolerance}")
    if not (max_error is None or max_error > 0) or not (time_limit is None or time_limit > 0):
        raise ValueError("max_error and time_limit must be positive, or None")
    x = x.double().flatten(1)
    net = copy.deepcopy(net).double().eval()
    layers: list[Nodes] = []
    for stage in chain(net, x):
        stage.layer.backend = "dense"
        layers.append(Nodes(stage.layer, stage.products))
    with torch.no_grad():
        predicted = net(x)
    target = predicted if y is None else y.double().reshape(len(x), -1)
    check_finite(target, "the targets")
    if target.shape != predicted.shape:
        raise ValueError(
            f"the network has {predicted.shape[1]} outputs, the targets {target.shape[1]}"
        )
    rows = torch.arange(min(len(x), ROWS)) * len(x) // min(len(x), ROWS)
    deviation = float(target.std(correction=0)) or 1.0
    limit = network_rmse(nn.Sequential(*layers), x[rows], target[rows]) + tolerance * deviation
    if max_error is not None:
        limit = min(limit, max_error * deviation)
        error = rmse(predicted.numpy(), target.numpy())
        if error > max_error * deviation:
            raise FormulaError(
                f"the network itself misses the data by {error / deviation:.3g} of their "
                f"deviations, more than max_error={max_error:g}: fit it better first"
            )
    if clock is None:
        clock = Clock(time_limit)
    with clock:
        stack, fits = simplest(layers, x[rows], target[rows], limit, functions, clock)
    fits = _given(stack) | fits
    pairs = inputs if inputs is not None else [(0.0, 1.0)] * x.shape[1]
    output_pairs = outputs if outputs is not None else [(0.0, 1.0)] * predicted.shape[1]
    symbols = make_symbols(names or [f"x_{k + 1}" for k in range(x.shape[1])])
    scaled = [
        (symbol - shift) / scale for symbol, (shift, scale) in zip(symbols, pairs, strict=True)
    ]
    raw = [
        shift + scale * e
        for e, (shift, scale) in zip(_expressions(stack, scaled), output_pairs, strict=True)
    ]
    shifts, scales = np.array(pairs, np.float64).T
    points = x.numpy() * scales + shifts
    heights, widths = np.array(output_pairs, np.float64).T
    truth, predictions = target.numpy() * widths + heights, predicted.numpy() * widths + heights
    index = rows.numpy()[:: max(1, len(rows) // 500)]
    clock.show("constants of the formula")
    tidied = [
        tidy(e, symbols, points[index], truth[index, k], clock) if e.free_symbols else e
        for k, e in enumerate(raw)
    ]
    edges = [edge_record(*edge, fit) for edge, fit in sorted(fits.items(), key=lambda e: e[0])]
    columns = [symbol.name for symbol in symbols] if names is None else [str(n) for n in names]
    limits = (tolerance, max_error, None if is_common else 0)
    return _judge([tidied, raw], symbols, columns, points, truth, predictions, edges, *limits)


def _judge(
    choices: list[list[sympy.Expr]],
    symbols: list[sympy.Symbol],
    names: list[str],
    x: np.ndarray,
    y: np.ndarray,
    network: np.ndarray,
    edges: list[dict[str, Any]],
    tolerance: float,
    max_error: float | None,
    axis: int | None,
) -> Formula:
    """The first choice that is within the tolerance on all data; `FormulaError` if none is.

    Errors are means over an axis: over samples (0), or over samples and outputs (None).
    """
    deviations, scale = y.std(0), np.atleast_1d(y.std(axis))
    scale = np.where(scale > 0, scale, 1.0)
    network_errors = np.atleast_1d(np.sqrt(np.square(network - y).mean(axis)))
    allowed = network_errors + tolerance * scale
    if max_error is not None:
        allowed = np.minimum(allowed, max_error * scale)
    for expressions in choices:
        values = evaluate(expressions, symbols, x)
        formula = Formula(
            expressions,
            symbols,
            [rmse(values[:, k], y[:, k]) for k in range(y.shape[1])],
            [float(d) for d in deviations],
            rmse(network, y),
            rmse(values, network),
            edges,
            names,
        )
        errors = np.atleast_1d(np.sqrt(np.square(values - y).mean(axis)))
        errors = np.nan_to_num(errors, nan=np.inf)
        if (errors <= allowed).all():
            log.info("formula %s", formula)
            return formula
    worst_output = int(np.argmax(errors / allowed))
    text = (
        f"the formula misses the data by {errors[worst_output]:.3g}, "
        f"the network by {network_errors[worst_output]:.3g}"
    )
    if len(errors) > 1:
        text = f"output {worst_output}: {text}"
    if edges:
        worst = min(edges, key=lambda e: e["r2"])
        text += f"; the least sure edge is {edge_name(worst['layer'], worst['i'], worst['o'])}"
    raise FormulaError(text, formula)


def _given(stack: nn.Sequential) -> dict[tuple[int, int, int], EdgeFit]:
    """The functions that the edges of a stack have in the end, those of them given by hand too."""
    fits = {}
    for index, nodes in enumerate(stack):
        layer = nodes.layer
        for edge in layer.given:  # type: ignore[union-attr]
            a, b, c, d = layer.given_affine[:, edge.column].tolist()  # type: ignore[union-attr, index]
            fits[index, edge.i, edge.o] = EdgeFit(edge.function, a, b, c, d, 1.0)
    return fits


def _expressions(stack: nn.Sequential, symbols: Sequence[sympy.Expr]) -> list[sympy.Expr]:
    """The expressions of a stack without splines, constants as they are."""
    values = list(symbols)
    for nodes in stack:
        assert isinstance(nodes, Nodes)
        layer, bias = nodes.layer, nodes.layer.bias
        affine = [] if layer.given_affine is None else layer.given_affine.tolist()
        sums: list[Any] = [
            sympy.Float(bias[o].item(), 17) if bias is not None else sympy.Integer(0)
            for o in range(layer.out_features)
        ]
        for edge in layer.given:
            a, b, c, d = (sympy.Float(row[edge.column], 17) for row in affine)
            sums[edge.o] += c * edge.function.symbol(a * values[edge.i] + b) + d
        pairs = sums[len(sums) - 2 * nodes.products :]
        rest = sums[: len(sums) - 2 * nodes.products]
        values = [*rest, *(a * b for a, b in zip(pairs[::2], pairs[1::2], strict=True))]
    return values
