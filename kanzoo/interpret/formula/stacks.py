"""Fitted stacks: pruned, and read as formulas.

Axes: N samples, C columns, O outputs.
"""

from collections.abc import Sequence
from typing import Any

from kanzoo.fit.stack import FittedStack
from kanzoo.interpret.formula.clock import Clock
from kanzoo.interpret.formula.expression import Formula
from kanzoo.interpret.formula.run import symbolic
from kanzoo.interpret.formula.search import FormulaError
from kanzoo.interpret.pruning import Pruning, prune, smallest


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
        is_common=not stack.options.is_regression,  # scores of classes are compared with each other
        **options,
    )


def formula_of_stack(stack: FittedStack, names: Sequence[str], clock: Clock) -> Formula | None:
    """The formula of a stack, or the nearest one; None where there is none."""
    try:
        return read_stack(stack, names, clock=clock)
    except FormulaError as error:
        return error.formula
