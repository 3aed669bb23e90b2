"""What a trained network is shown beside: rankings at random weights, an MLP, other seeds."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from kanzoo.run.load import Trained, load_run

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger("kanzoo")


def pruning_curves(
    run: Trained, x: "Tensor", y: "Tensor", twin: Path | None, root: str | None
) -> dict[str, list[tuple[float, float]]]:
    """What pruning costs the network by two rankings, and the MLP that it is compared with.

    By the curve's name, as `score_curve`; `twin` is the folder of the MLP's run. Raises
    `ValueError` for a twin of other data, and one that is no MLP.
    """
    from kanzoo.interpret.curves import magnitude_curve, score_curve

    if run.objective.needs_net:  # its output needs derivatives
        return {}

    def metric(net: "nn.Module") -> float:
        return run.monitored(net, x, y)

    curves = {}
    try:
        curves["ranked by scores"] = score_curve(run.net, x, metric)
        curves["ranked at random weights"] = score_curve(run.net, x, metric, seed=0)
    except ValueError as error:
        log.warning("no pruning curve: %s", error)
    if twin is not None:
        other = load_run(twin, root=root)
        pair = [each.config.choices["data"] for each in (run, other)]
        if pair[0] != pair[1]:
            raise ValueError(f"twin must be of data={pair[0]} as the run, not {pair[1]}")
        own = other.validation_pairs()
        curves["MLP, ranked by magnitude"] = magnitude_curve(
            other.net, lambda net: other.monitored(net, *own)
        )
    return curves
