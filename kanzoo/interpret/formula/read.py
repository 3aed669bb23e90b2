"""The formula of a trained run: fitted to its training data, judged on its test data."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from kanzoo.data import Dataset
from kanzoo.data.formula import parse_formula
from kanzoo.fit.least_squares import rmse
from kanzoo.interpret.formula.expression import with_prior
from kanzoo.interpret.formula.run import symbolic
from kanzoo.interpret.formula.search import FormulaError


def read_formula(
    net: nn.Module, dataset: Dataset, *, names: Sequence[str] | None, **options: Any
) -> dict[str, Any]:
    """What `formula.json` holds: expression, latex, RMSE of network and formula, and every edge.

    `options` are those of `symbolic`: tolerance, max_error, time_limit. Errors are root mean
    squares over the test split, in the units of the data set's targets, as are the numbers in the
    formula. Several outputs make `expression` a list. Where no formula is
    within the tolerance, `failed` says which edge stood in the way, and the nearest formula is
    given if there is one. Of data with a `prior`, the sum of it and the network's formula is given,
    unless they were standardised: then the formula is that of the residue. Raises `ValueError` for
    data or networks that no formula can describe.
    """
    if dataset.spec.kind != "table" or dataset.spec.task != "regression":
        raise ValueError(
            f"a formula needs regression on a table of numbers, not {dataset.spec.task} on "
            f"{dataset.spec.kind} data"
        )
    dataset.load()
    splits: Any = getattr(dataset, "splits", None)
    x, y = splits["train"]
    failed = ""
    try:
        formula = symbolic(net, x, y, names=names, **options)
    except FormulaError as reason:
        failed = str(reason)
        if reason.formula is None:
            return {"expression": None, "failed": failed}
        formula = reason.formula
    x, y = splits["test"]
    truth = y.double().numpy().reshape(len(x), -1)
    with torch.no_grad():
        outputs = net.double()(x.double()).numpy()
    values = formula(x.double().numpy()).reshape(len(x), -1)
    prior = getattr(dataset, "prior", None)
    if prior is not None and getattr(dataset, "standardise", "none") == "none":
        known = parse_formula(prior, [symbol.name for symbol in formula.symbols])
        formula = with_prior(formula, [known], formula.deviation)
    error = rmse(values, truth)
    texts = [str(expression) for expression in formula.expressions]
    return {
        "expression": texts[0] if len(texts) == 1 else texts,
        "latex": formula.latex,
        "rmse_network": _finite(rmse(outputs, truth)),
        "rmse_formula": _finite(error),
        "rmse_between": _finite(rmse(values, outputs)),
        "relative_error": _finite(error / (float(truth.std()) or 1.0)),
        "prior": prior,
        "edges": formula.edges,
        "failed": failed,
    }


def _finite(error: float) -> float | None:
    """None for the error of a formula that is not defined everywhere."""
    return error if math.isfinite(error) else None
