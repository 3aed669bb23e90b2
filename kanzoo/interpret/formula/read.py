"""The formula of a trained run, in the units of its data: fitted to its training data."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kanzoo.data import Dataset
from kanzoo.data.formula import parse_formula
from kanzoo.data.functions import Regression
from kanzoo.fit.least_squares import rmse
from kanzoo.fit.stack import StackOptions
from kanzoo.interpret.formula.clock import Clock
from kanzoo.interpret.formula.expression import Formula, evaluate, with_prior
from kanzoo.interpret.formula.finish import finish
from kanzoo.interpret.formula.names import make_symbols
from kanzoo.interpret.formula.output import OutputSearch
from kanzoo.interpret.formula.run import symbolic
from kanzoo.interpret.formula.search import FormulaError
from kanzoo.training.waiting import sharing_cores

AS_GOOD = 1.05  # factor of the network's error within which a formula of the data stands for it

Data = tuple[np.ndarray, np.ndarray]


@sharing_cores()
def read_formula(
    net: nn.Module,
    dataset: Dataset,
    *,
    names: Sequence[str] | None,
    time_limit: float | None = 180.0,
    **options: Any,
) -> dict[str, Any]:
    """What `formula.json` holds: expression, code, errors of network and formula, and every edge.

    A formula is looked for in the training data first; where none predicts validation data as well
    as the network does, the network is read. `options` are those of `symbolic`: tolerance,
    max_error, functions.
    All numbers are in the units of the data as the user has them, whatever was standardised, and
    errors are root mean squares over the test split. Several outputs make `expression` a list.
    Where no formula is within the tolerance, `failed` says which edge stood in the way, and the
    nearest formula is given if there is one. Of data with a `prior`, the sum of it and the formula
    of the residue is given. Raises `ValueError` for data or networks that no formula can describe.
    """
    if dataset.spec.kind != "table" or dataset.spec.task != "regression":
        raise ValueError(
            f"a formula needs regression on a table of numbers, not {dataset.spec.task} on "
            f"{dataset.spec.kind} data"
        )
    dataset.load()
    splits: Any = getattr(dataset, "splits", None)
    inputs, outputs = _pairs(dataset, splits["train"])
    data = _in_units(dataset, inputs, outputs)
    predicted = {part: _outputs(net, split[0], outputs) for part, split in splits.items()}
    x, truth = data["test"]
    columns = list(names or [f"x_{k + 1}" for k in range(x.shape[1])])
    failed = ""
    with Clock(time_limit) as clock:
        formula, is_as_good = None, False
        if options.get("functions") is None:
            formula, is_as_good = _of_data(data, columns, predicted, clock)
        if not is_as_good:
            try:
                z, targets = splits["train"]
                pairs: Any = {"inputs": inputs, "outputs": outputs}
                formula = symbolic(net, z, targets, names=columns, clock=clock, **pairs, **options)
            except FormulaError as reason:
                failed, formula = str(reason), reason.formula or formula
            except ValueError as reason:  # of networks that are not chains of edges
                if formula is None:
                    raise
                failed = f"the formula misses what the network predicts, and {reason}"
    if formula is None:
        return {"expression": None, "failed": failed}
    prior = getattr(dataset, "prior", None)
    values = evaluate(formula.expressions, formula.symbols, x)
    if prior is not None:
        formula = with_prior(formula, [parse_formula(prior, columns)], formula.deviations)
    network = predicted["test"]
    relative = [rmse(values[:, k], t) / (float(t.std()) or 1.0) for k, t in enumerate(truth.T)]
    texts = [str(expression) for expression in formula.expressions]
    return {
        **formula.summary(),
        "expression": texts[0] if len(texts) == 1 else texts,
        "rmse_network": _finite(rmse(network, truth)),
        "rmse_formula": _finite(rmse(values, truth)),
        "rmse_between": _finite(rmse(values, network)),
        "relative_error": _finite(max(relative)),
        "relative_errors": [_finite(error) for error in relative],
        "prior": prior,
        "failed": failed,
    }


def _of_data(
    data: dict[str, Data], names: list[str], network: dict[str, np.ndarray], clock: Clock
) -> tuple[Formula, bool]:
    """A formula of the data, and whether it is as good on validation data as the network is."""
    symbols = make_symbols(names)
    (x, y), (held_x, held_y) = data["train"], data["val"] if len(data["val"][1]) else data["train"]
    predicted = network["val"] if len(network["val"]) else network["train"]
    searches, is_as_good = [], True
    for k in range(y.shape[1]):
        # Half of the time is the network's, should it be needed.
        search = OutputSearch(x, y[:, k], symbols, names, StackOptions(), clock.part(2))
        search.run(networks=False)
        values = evaluate([search.front.choose().expression], symbols, held_x)[:, 0]
        limit = AS_GOOD * rmse(predicted[:, k], held_y[:, k])
        is_as_good &= search.front.is_exact or rmse(values, held_y[:, k]) <= limit
        searches.append(search)
    return finish(searches, names, symbols, x, y, network["train"], clock), is_as_good


def _in_units(dataset: Dataset, inputs: list[Any], outputs: list[Any]) -> dict[str, Data]:
    """Inputs `(N, C)` and targets `(N, O)` of the splits, in the user's units and in float64."""
    if isinstance(dataset, Regression):  # read again, so that nothing of the numbers is lost
        dataset = copy.copy(dataset)
        dataset.standardise, dataset.dtype, dataset.splits = "none", "float64", None
        dataset.load()
        inputs = outputs = []
    splits: Any = getattr(dataset, "splits", None)
    return {part: (_unscaled(x, inputs), _unscaled(y, outputs)) for part, (x, y) in splits.items()}


def _pairs(dataset: Any, train: Any) -> tuple[list[Any], list[Any]]:
    """Shift and scale of every input and every output, from the user's units to the network's."""
    moments = getattr(dataset, "moments", {})
    pairs = []
    for what, values in zip(("inputs", "targets"), train, strict=True):
        count = values.reshape(len(values), -1).shape[1]
        mean, deviation = moments.get(what, (torch.zeros(count), torch.ones(count)))
        flat = (mean.flatten().tolist(), deviation.flatten().tolist())
        pairs.append(list(zip(*flat, strict=True)))
    return pairs[0], pairs[1]


def _unscaled(values: Tensor, pairs: list[Any]) -> np.ndarray:
    """Values `(N, C)` with the scale and shift of each column put back, if there are such."""
    flat = values.double().numpy().reshape(len(values), -1)
    if not pairs:
        return flat
    shift, scale = np.array(pairs, np.float64).T
    return np.asarray(flat * scale + shift)


def _outputs(net: nn.Module, x: Tensor, outputs: list[Any]) -> np.ndarray:
    with torch.no_grad():
        return _unscaled(net.double()(x.double()), outputs)


def _finite(error: float) -> float | None:
    """None for the error of a formula that is not defined everywhere."""
    return error if math.isfinite(error) else None
