"""What a trained network is shown beside: rankings at random weights, an MLP, other seeds."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from kanzoo.run.load import Trained, load_run

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

log = logging.getLogger("kanzoo")


def pruning_curves(
    run: Trained, x: "Tensor", y: "Tensor", twin: Path | None, root: str | None
) -> dict[str, list[tuple[float, float]]]:
    """What pruning costs the network by two rankings, and the MLP that it is compared with.

    By the curve's name, as `score_curve`; `twin` is the folder of the MLP's run. Raises
    `ValueError` for a twin of other data, and one that is no MLP.
    """
    from kanzoo.interpret.control import fewer
    from kanzoo.interpret.curves import magnitude_curve, score_curve

    if run.objective.needs_net:  # its output needs derivatives
        return {}

    x = fewer(x)
    y = y[: len(x)]

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
        pairs = other.validation_pairs()
        curves["MLP, ranked by magnitude"] = magnitude_curve(
            other.net, lambda net: other.monitored(net, *pairs)
        )
    return curves


def seed_folders(folder: Path) -> list[Path]:
    """The folder of a run itself, or the runs `seedN` in it that have a checkpoint, by seed."""
    runs = [
        path
        for path in folder.glob("seed*")
        if path.name[4:].isdigit() and any((path / "checkpoints").glob("*.ckpt"))
    ]
    if (folder / "config.yaml").is_file() or not runs:
        return [folder]
    return sorted(runs, key=lambda path: int(path.name[4:]))


def seed_networks(run: Trained, folders: list[Path], checkpoint: str) -> "list[Trained]":
    """A run, and those of other folders.

    The last checkpoint stands for one that a run has not; the data are where the first run's are.
    """
    root = run.config.data.get("root")
    values = [run]
    for folder in folders:
        is_there = (folder / "checkpoints" / f"{checkpoint}.ckpt").is_file()
        values.append(load_run(folder, checkpoint if is_there else "last", root))
    return values


def seed_scores(runs: list[Trained]) -> "dict[str, np.ndarray]":
    """Scores of all edges by layer, `(seeds, C, E, T)`, each on its run's validation data.

    Layers whose shape differs between runs are left out.
    """
    import numpy as np

    from kanzoo.interpret.edges import edge_functions

    scores: dict[str, list[np.ndarray]] = {}
    for run in runs:
        for layer in edge_functions(run.net, run.validation_sample(), num_edges=0):
            scores.setdefault(layer.name, []).append(layer.scores)
    return {
        name: np.stack(values)
        for name, values in scores.items()
        if len({each.shape for each in values}) == 1
    }
