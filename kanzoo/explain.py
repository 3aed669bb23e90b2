"""What a trained KAN has learned, as pictures and one page, and the command that draws them."""

import base64
import copy
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanzoo.checks import check_name
from kanzoo.run.config import run_command, user_errors
from kanzoo.run.load import load_run
from kanzoo.rundir import Config, RunDir, is_kan, read_config, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kanzoo.interpret.edges import LayerEdges

log = logging.getLogger("kanzoo")

MOST_INPUTS = 40  # whose scores are listed


def main() -> None:
    """Entry of `scripts/explain.py`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run_command("explain", _job)


def _job(config: Config) -> None:
    with user_errors():
        page = explain(
            Path(config["run"]),
            checkpoint=config["checkpoint"],
            edges=config["edges"],
            root=config["root"],
            symbolic=config["symbolic"],
            tolerance=config["tolerance"],
            max_error=config["max_error"],
            time_limit=config["time_limit"],
        )
    log.info("written: %s", page)


def explain(
    folder: Path,
    *,
    checkpoint: str = "best",
    edges: int = 12,
    root: str | None = None,
    symbolic: bool = False,
    tolerance: float = 0.01,
    max_error: float | None = None,
    time_limit: float | None = 180.0,
) -> Path:
    """Write `explain/index.html` and its pictures into the folder of a run; returns the page.

    Shows the checkpoint `best`, or `last`, which every run has that has trained for an epoch. Of
    every KAN layer the strongest `edges` are drawn. With `symbolic`, a formula is looked for and
    written to `explain/formula.json`; its error may exceed the network's by `tolerance` standard
    deviations of the targets, and be `max_error` of them in all; the search may take `time_limit`
    seconds. Raises `ValueError` for a folder without checkpoints and for a run
    without KAN layers.
    """
    from kanzoo.fit.chain import is_kan
    from kanzoo.interpret.edges import edge_functions
    from kanzoo.interpret.pictures import graph, grids
    from kanzoo.interpret.scores import contrast
    from kanzoo.page import style
    from kanzoo.page.html import render

    if edges < 1:
        raise ValueError(f"edges must be at least 1, got {edges}")
    config, checkpoint = _checked(folder, checkpoint)
    run = load_run(folder, checkpoint, root)
    net, dataset = run.net, run.dataset
    if not any(map(is_kan, net.modules())):
        basis = config["choices"]["basis"]
        raise ValueError(f"basis={basis} has no edge functions that are learned, none to explain")
    x = run.validation_sample()
    layers = edge_functions(net, x, num_edges=edges)
    target = folder / "explain"
    target.mkdir(exist_ok=True)
    for old in (
        *target.glob("*.png"),
        *target.glob("*.svg"),
        *target.glob("*.html"),
        *target.glob("*.json"),
    ):
        old.unlink()
    names = _names(dataset, "columns", layers[0].layer.in_features)
    classes = _names(dataset.spec, "class_names", dataset.spec.num_outputs)
    network, reason, inputs = None, "", []
    try:
        figure = graph.draw(net, x, target / "graph", names, classes)
        network = _picture(target / "graph.svg", figure, "the network as a graph")
        inputs = _input_scores(layers[0], names)
    except ValueError as error:
        reason = f"Not drawn: {error}."
    pictures, parts = [], contrast(net, x)
    for layer in layers:
        file = target / f"edges-{_plain(layer.name)}"
        figure = grids.draw(layer.edges)
        style.save(figure, file)
        svg = file.with_name(f"{file.name}.svg")
        note = f"{len(layer.edges)} of {layer.scores.size} edges, the strongest first"
        pictures.append((layer.name, note, _picture(svg, figure, f"edges of {layer.name}")))
    limits = {"tolerance": tolerance, "max_error": max_error, "time_limit": time_limit}
    formula = _formula(target, net, dataset, names, limits) if symbolic else None
    result = RunDir(folder, config, "").result() if checkpoint == "best" else None
    scores = result or {"val": run.evaluate("val"), "test": {}, "reference": {}}
    context = {
        "title": _title(config),
        "checkpoint": f"{checkpoint}.ckpt",
        "finished": result is not None,
        "counts": _counts(net, layers, run.objective.monitor, scores),
        "samples": len(x),
        "network": network,
        "reason": reason,
        "inputs": inputs,
        "formula": formula,
        "metrics": _metrics(scores),
        "reference_name": dataset.reference_name,
        "layers": [_layer_row(layer, parts[layer.name].global_share) for layer in layers],
        "pictures": pictures,
        "animation": _data_url(folder / "pictures" / "edges.gif"),
        "facts": _facts(config, result),
        "command": f"python scripts/explain.py run={folder}",
    }
    template = Path(__file__).parent / "interpret" / "templates" / "explain.html.j2"
    write_atomic(target / "index.html", render(template, context))
    return target / "index.html"


def _formula(
    target: Path, net: Any, dataset: Any, names: Sequence[str] | None, limits: dict[str, Any]
) -> dict[str, Any]:
    """What `formula.json` now holds; the page is written too where there is no formula."""
    from kanzoo.interpret.formula.read import read_formula

    try:
        found = read_formula(copy.deepcopy(net), dataset, names=names, **limits)
    except ValueError as error:
        found = {"expression": None, "failed": str(error)}
    if found["failed"]:
        log.warning("no formula within the tolerance: %s", found["failed"])
    else:
        log.info("formula: %s", found["expression"])
    write_atomic(target / "formula.json", json.dumps(found, indent=1) + "\n")
    return found


def _checked(folder: Path, checkpoint: str) -> tuple[Config, str]:
    """The configuration of a run that has KAN layers, and the checkpoint to show."""
    check_name("checkpoint", checkpoint, ("best", "last"))
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is not the folder of a run: it holds no config.yaml")
    config = read_config(folder / "config.yaml")
    if not is_kan(config):
        raise ValueError(f"layers={config['choices']['layers']} has no KAN layers to explain")
    names = {path.stem for path in (folder / "checkpoints").glob("*.ckpt")}
    if not names:
        raise ValueError(f"{folder} has no checkpoint: its training has not finished an epoch yet")
    if checkpoint not in names and "last" in names:
        log.warning("%s has no checkpoint %s: its last one is shown", folder, checkpoint)
        checkpoint = "last"
    return config, checkpoint


def _names(holder: Any, attribute: str, count: int) -> list[str] | None:
    """Names that a data set has for its columns or classes, where they are as many as nodes."""
    names = [str(name) for name in getattr(holder, attribute, None) or ()]
    return names if len(names) == count else None


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name) or "network"


def _title(config: Config) -> str:
    choices = config["choices"]
    words = [str(choices[key]) for key in ("model", "layers", "basis")]
    return f"{' · '.join(words)} on {choices['data']}, seed {config['seed']}"


def _counts(
    net: Any, layers: Sequence["LayerEdges"], metric: str, scores: dict[str, Any]
) -> list[tuple[str, str]]:
    from kanzoo.layers.parameters import count_params

    split = "test" if scores["test"] else "val"
    said = {"test": "test", "val": "validation"}[split]
    return [
        (f"{count_params(net):,}", "parameters"),
        (str(len(layers)), "KAN layers"),
        (f"{sum(layer.scores.size for layer in layers):,}", "edge functions"),
        (f"{scores[split][metric]:.4g}", f"{said} {metric}"),
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
            "reference": f"{found:.4g}"
            if (found := scores["reference"].get("test", {}).get(name)) is not None
            else "",
        }
        for name in names
    ]


def _layer_row(found: "LayerEdges", global_share: float) -> dict[str, Any]:
    """A row of the table of layers."""
    import numpy as np

    layer, scores = found.layer, np.sort(found.scores.ravel())[::-1]
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
        "name": found.name,
        "kind": type(layer).__name__,
        "shape": shape,
        "basis": layer.expansion.factory.name + (f", grid {grid}" if grid else ""),
        "functions": layer.expansion.num_functions,
        "edges": f"{scores.size:,}",
        "params": f"{layer.num_params:,}",
        "global": f"{100 * global_share:.0f} %",
        "strongest": f"{scores[0]:.3g}",
        "median": f"{np.median(scores):.3g}",
        "few": f"{few:,} ({100 * few / scores.size:.0f} %)",
    }


def _input_scores(first: "LayerEdges", names: Sequence[str] | None) -> list[dict[str, Any]]:
    """The inputs of a fully connected network, the strongest first, with bars in per cent."""
    import numpy as np

    scores = np.sqrt((first.scores**2).sum((1, 2)))
    labels = names or [f"x{i + 1}" for i in range(len(scores))]
    top = float(scores.max()) or 1.0
    return [
        {"name": labels[i], "score": f"{scores[i]:.3g}", "bar": f"{100 * scores[i] / top:.1f}"}
        for i in np.argsort(-scores, kind="stable")[:MOST_INPUTS]
    ]


def _facts(config: Config, result: dict[str, Any] | None) -> list[tuple[str, str]]:
    facts = {key: value for key, value in config["choices"].items()}
    if result is not None:
        facts |= {"epochs": result["epochs"], "commit": result["git_sha"], **result["versions"]}
    return [(key, str(value)) for key, value in facts.items() if value is not None]


def _picture(path: Path, figure: "Figure", label: str) -> dict[str, Any]:
    """A picture for the page, with how wide it may become in pixels."""
    from kanzoo.page.html import inline

    pixels = 96 * figure.get_figwidth()
    svg = inline(path.read_text(encoding="utf-8"), label)
    return {"svg": svg, "least": round(0.75 * pixels), "most": round(1.25 * pixels)}


def _data_url(path: Path) -> str | None:
    if not path.is_file():
        return None
    return f"data:image/gif;base64,{base64.b64encode(path.read_bytes()).decode()}"
