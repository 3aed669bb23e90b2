"""The page that shows what a trained KAN has learned, with its pictures."""

import base64
import copy
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from kanzoo.data.base import Dataset
from kanzoo.files import write_atomic
from kanzoo.interpret import beside
from kanzoo.interpret.bands import edge_bands
from kanzoo.interpret.control import SEEDS, RandomScores, rank_correlation
from kanzoo.interpret.edges import LayerEdges, edge_functions, takes_data
from kanzoo.interpret.naming import input_names, layer_names, output_names
from kanzoo.interpret.scores import contrast
from kanzoo.layers.parameters import count_params
from kanzoo.page.html import inline, render
from kanzoo.rundir import Config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("kanzoo")


def write_page(
    folder: Path,
    net: nn.Module,
    dataset: Dataset,
    x: Tensor,
    *,
    config: Config,
    checkpoint: str,
    metric: str,
    result: Config | None,
    scores: Config,
    edges: int,
    limits: Config | None,
    num_fits: int = 0,
    curves: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    seeds: Mapping[str, np.ndarray] | None = None,
    others: Sequence[nn.Module] = (),
) -> Path:
    """Write `explain/index.html` and its pictures into the folder of a run; returns the page.

    `x` are the inputs that the network is looked at on, `scores` its values on the splits, `result`
    what the finished run says, None for an unfinished one. Of every KAN layer the strongest `edges`
    are drawn, the first `num_fits` with the best simple function; within `limits`, options of
    `read_formula`, a formula is looked for. `curves` are those of pruning, by name;
    `seeds` scores `(seeds, C, E, T)` by layer of this network and the `others`, which differ from
    it by their seed.
    """
    from kanzoo.interpret.pictures import graph, grids, lines  # which load matplotlib
    from kanzoo.page import style

    layers = edge_functions(net, x, num_edges=edges)
    bands = edge_bands(net, others, x, layers[0]) if others else None
    first = layers[0]
    takes_columns = dataset.spec.kind == "table" and takes_data(net, x, first.name, first.layer)
    target = folder / "explain"
    if target.is_symlink():  # what lies elsewhere is not ours to replace
        raise ValueError(f"{target} is a link to another folder: remove it")
    target.mkdir(exist_ok=True)
    for old in (
        *target.glob("*.png"),
        *target.glob("*.svg"),
        *target.glob("*.html"),
        *target.glob("*.json"),
    ):
        old.unlink()
    named = layer_names(dataset, layers, takes_columns)
    names = input_names(dataset, layers[0].layer.in_features)
    classes = output_names(dataset, dataset.spec.num_outputs)
    random = beside.controls(net, x)
    fits = beside.best_fits(net, x, layers, num_fits)
    tips = {
        layer.name: beside.tips(layer, it, random.get(layer.name), fits.get(layer.name, {}))
        for layer, it in zip(layers, named, strict=True)
    }
    network, reason, inputs, heat_map = None, "", [], None
    try:
        figure = graph.draw(net, x, target / "graph", names, classes, tips)
        network = _picture(target / "graph.svg", figure, "the network as a graph")
    except ValueError as error:
        reason = f"Not drawn: {error}."
    if names is not None:
        given = (random.get(first.name), (seeds or {}).get(first.name))
        inputs = beside.input_rows(layers[0], names, *given)
        if drawn := beside.draw_inputs(target / "inputs", layers[0], dataset):
            heat_map = _picture(target / "inputs.svg", drawn, "scores of the inputs")
    pictures, kernels, parts = [], [], contrast(net, x)
    for layer, it in zip(layers, named, strict=True):
        file = target / f"edges-{_plain(layer.name)}"
        figure = grids.draw(
            list(map(it.in_units, layer.edges)),
            [it.label(edge) for edge in layer.edges],
            tips=list(map(tips[layer.name], layer.edges)),
            axis_labels=list(map(it.axis, layer.edges)),
            notes=[
                beside.note(layer, edge, random.get(layer.name), fits.get(layer.name, {}))
                for edge in layer.edges
            ],
            bands=bands if layer is layers[0] else None,
        )
        style.save(figure, file)
        svg = file.with_name(f"{file.name}.svg")
        note = f"{len(layer.edges)} of {layer.scores.size} edges, the strongest first"
        pictures.append((layer.name, note, _picture(svg, figure, f"edges of {layer.name}")))
        file = target / f"kernel-{_plain(layer.name)}"
        if kernel := beside.draw_kernel(file, layer):
            svg = file.with_name(f"{file.name}.svg")
            kernels.append((layer.name, _picture(svg, kernel, f"kernel of {layer.name}")))
    profiles = None
    if seeds:
        figure = beside.draw_profiles(target / "seeds", seeds)
        profiles = _picture(target / "seeds.svg", figure, "sorted scores over seeds")
    pruning = None
    if curves:
        figure = lines.draw(curves, metric)
        style.save(figure, target / "pruning")
        pruning = _picture(target / "pruning.svg", figure, "the metric against edges kept")
    formula = None if limits is None else _formula(target, net, dataset, names, limits)
    context = {
        "title": _title(config),
        "checkpoint": f"{checkpoint}.ckpt",
        "finished": result is not None,
        "counts": _counts(net, layers, metric, scores),
        "samples": len(x),
        "network": network,
        "reason": reason,
        "inputs": inputs,
        "num_inputs": layers[0].layer.in_features,
        "input_correlation": beside.input_correlation(layers[0], random.get(layers[0].name)),
        "heat_map": heat_map,
        "kernels": kernels,
        "pruning": pruning,
        "num_seeds": len(next(iter(seeds.values()))) if seeds else 0,
        "profiles": profiles,
        "has_bands": bands is not None,
        "has_twin": len(curves or ()) > 2,
        "draws": len(SEEDS) if random else 0,
        "formula": formula,
        "metrics": _metrics(scores),
        "reference_name": dataset.reference_name,
        "deviation": _deviation(dataset),
        "layers": [
            _layer_row(layer, parts[layer.name].global_share, random.get(layer.name))
            for layer in layers
        ],
        "pictures": pictures,
        "animation": _data_url(folder / "pictures" / "edges.gif"),
        "facts": _facts(config, result),
        "command": f"python scripts/explain.py run={folder}",
    }
    template = Path(__file__).parent / "templates" / "explain.html.j2"
    write_atomic(target / "index.html", render(template, context))
    return target / "index.html"


def _formula(
    target: Path, net: Any, dataset: Any, names: Sequence[str] | None, limits: dict[str, Any]
) -> dict[str, Any]:
    """What `formula.json` now holds; the page is written too where there is no formula."""
    from kanzoo.interpret.formula.read import read_formula

    try:
        formula = read_formula(copy.deepcopy(net), dataset, names=names, **limits)
    except ValueError as error:
        formula = {"expression": None, "failed": str(error)}
    except Exception as error:  # the page shows the rest in any case
        log.exception("the search for a formula failed")
        formula = {"expression": None, "failed": f"{type(error).__name__}: {error}"}
    if formula["failed"]:
        log.warning("no formula within the tolerance: %s", formula["failed"])
    else:
        log.info("formula: %s", formula["expression"])
    write_atomic(target / "formula.json", json.dumps(formula, indent=1) + "\n")
    return formula


def _deviation(dataset: Any) -> str:
    """What 1 in standardised targets is in the units of the data, if that is known."""
    known = getattr(dataset, "moments", {}).get("targets")
    deviations = [] if known is None else known[1].flatten().tolist()
    return ", ".join([f"{d:.4g}" for d in deviations[:5]] + [".."] * (len(deviations) > 5))


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name) or "network"


def _title(config: Config) -> str:
    choices = config["choices"]
    words = [str(choices[key]) for key in ("model", "layers", "basis")]
    return f"{' · '.join(words)} on {choices['data']}, seed {config['seed']}"


def _counts(
    net: Any, layers: Sequence["LayerEdges"], metric: str, scores: dict[str, Any]
) -> list[tuple[str, str]]:
    split = "test" if scores["test"] else "val"
    label = {"test": "test", "val": "validation"}[split]
    return [
        (f"{count_params(net):,}", "parameters"),
        (str(len(layers)), "KAN layers"),
        (f"{sum(layer.scores.size for layer in layers):,}", "edge functions"),
        (f"{scores[split][metric]:.4g}", f"{label} {metric}"),
    ]


def _metrics(scores: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of validation and test values, and of what a prediction that learns nothing reaches."""
    both = {**scores["val"], **(scores["test"] or {})}
    names = [name for name, value in both.items() if isinstance(value, (int, float))]
    return [
        {
            "name": name,
            **{
                split: f"{scores[split][name]:.4g}" if name in (scores[split] or ()) else "–"  # noqa: RUF001
                for split in ("val", "test")
            },
            "reference": f"{value:.4g}"
            if (value := scores["reference"].get("test", {}).get(name)) is not None
            else "",
        }
        for name in names
    ]


def _layer_row(
    edges: "LayerEdges", global_share: float, random: RandomScores | None
) -> dict[str, Any]:
    """A row of the table of layers."""
    layer, scores = edges.layer, np.sort(edges.scores.ravel())[::-1]
    shape = f"{layer.in_features} → {layer.out_features}"
    kernel = getattr(layer, "kernel_size", None)
    if kernel is not None:
        shape += f", kernel {' × '.join(map(str, kernel))}"  # noqa: RUF001
    if (groups := getattr(layer, "groups", 1)) > 1:
        shape += f", {groups} groups"
    power = np.cumsum(scores**2)
    few = int(np.searchsorted(power, 0.9 * power[-1])) + 1 if power[-1] > 0 else 0
    grid = getattr(layer.expansion.basis, "grid_size", None)
    return {
        "name": edges.name,
        "kind": type(layer).__name__,
        "shape": shape,
        "basis": layer.expansion.factory.name + (f", grid {grid}" if grid else ""),
        "functions": layer.expansion.num_functions,
        "edges": f"{scores.size:,}",
        "params": f"{layer.num_params:,}",
        "global": f"{100 * global_share:.0f} %",
        "strongest": f"{scores[0]:.3g}",
        "median": f"{np.median(scores):.3g}",
        "random": beside.span(*random.strongest) if random else "",
        "correlation": beside.number(rank_correlation(edges.scores, random.draws))
        if random
        else "",
        "few": f"{few:,} ({100 * few / scores.size:.0f} %)",
    }


def _facts(config: Config, result: dict[str, Any] | None) -> list[tuple[str, str]]:
    facts = {key: value for key, value in config["choices"].items()}
    if result is not None:
        facts |= {"epochs": result["epochs"], "commit": result["git_sha"], **result["versions"]}
    return [(key, str(value)) for key, value in facts.items() if value is not None]


def _picture(path: Path, figure: "Figure", label: str) -> dict[str, Any]:
    """A picture for the page, with how wide it may become in pixels."""

    pixels = 96 * figure.get_figwidth()
    svg = inline(path.read_text(encoding="utf-8"), label)
    return {"svg": svg, "least": round(0.75 * pixels), "most": round(1.25 * pixels)}


def _data_url(path: Path) -> str | None:
    if not path.is_file():
        return None
    return f"data:image/gif;base64,{base64.b64encode(path.read_bytes()).decode()}"
