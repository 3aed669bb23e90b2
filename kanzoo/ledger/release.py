"""Trained members of the zoo from the runs of ledgers: weights, recipes, and a card each.

Of the runs of a task and an arm the best by its validation data is released; test data decide
nothing.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from pathlib import Path
from typing import Any

import pandas as pd

from kanzoo import zoo
from kanzoo.files import read_json, write_atomic
from kanzoo.ledger.store import Ledger, read_ledger, seeds_of
from kanzoo.models.weights import load, save
from kanzoo.page.html import render
from kanzoo.study.controls import control_arms
from kanzoo.study.pairs import SCORED
from kanzoo.study.plan import active_axes

TEMPLATE = Path(__file__).parent / "templates" / "member.md.j2"
# Controls that are models by themselves; the others only take differences apart.
MODELS = ("mlp-swiglu", "linear", "nlinear", "dlinear")
UCI = "CC BY 4.0, UCI Machine Learning Repository"
COMPUTED = "none needed: the data are computed"
LICENCES = {
    "digits": f"{UCI} (optical recognition of handwritten digits, as scikit-learn ships it)",
    "breast_cancer": f"{UCI} (breast cancer Wisconsin, diagnostic, as scikit-learn ships it)",
    "wine": f"{UCI} (wine, as scikit-learn ships it)",
    "diabetes": "none stated: Efron et al. (2004), as scikit-learn ships it (BSD-3-Clause)",
    "mnist": "CC BY-SA 3.0, Yann LeCun and Corinna Cortes",
    "cifar10": "none stated: Krizhevsky (2009), for research",
    "etth1": "CC BY-ND 4.0, ETDataset (2012.07436)",
    "shakespeare": "public domain",
    **dict.fromkeys(("functions", "five_peaks", "poisson", "helmholtz", "burgers"), COMPUTED),
    **dict.fromkeys(("allen_cahn", "strogatz"), COMPUTED),
    "graph_atlas": "as NetworkX ships it (BSD-3-Clause)",
}
VIEWS = ("_rows", "_pixels", "_graph", "_denoise", "_segment")  # of the same data


def release(ledgers: list[Path], runs: Path, folder: Path) -> int:
    """Release the best network of every task and arm of ledgers from their runs; their number.

    `runs` holds the folders of the studies, with checkpoints. Members of other studies stay, and so
    do those whose run is still the best. Raises `ValueError` for a run without checkpoint, one
    whose score is not the ledger's, and members that are too large together.
    """
    index = folder / zoo.INDEX
    cards = read_json(index) if index.is_file() else {}
    count = 0
    for path in ledgers:
        ledger = read_ledger(path)
        for name, row in best_runs(ledger).items():
            old = cards.get(name, {})
            if any(old.get(k) != row[k] for k in ("config_hash", "seed")):
                old = _write_network(name, row, runs / ledger.study.name, folder)
            cards[name] = card_of(ledger, row, old, path.name)
            write_atomic(folder / f"{name}.md", render(TEMPLATE, {"name": name, **cards[name]}))
            count += 1
    size = sum(card["bytes"] for card in cards.values())
    if size > zoo.MAX_BYTES:
        raise ValueError(f"the members have {size:,} bytes, more than {zoo.MAX_BYTES:,}")
    write_atomic(index, json.dumps(dict(sorted(cards.items())), indent=1) + "\n")
    return count


def best_runs(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """The row of the best finished run by validation data, by the name of the member."""
    study = ledger.study
    skipped = {*control_arms(study)} - {*MODELS}
    parts = ["data", "model", "arm", *active_axes(study)]
    parts += ["match"] if len(study.match) > 1 else []
    runs = ledger.runs[ledger.runs["status"].eq("finished") & ~ledger.runs["arm"].isin(skipped)]
    best: dict[str, dict[str, Any]] = {}
    for row in runs.sort_values("seed", kind="stable").to_dict("records"):
        name = "-".join(str(row[part]) for part in parts if str(row[part]))
        sign = -1 if row["mode"] == "min" else 1
        if name not in best or sign * row["val"] > sign * best[name]["val"]:
            best[name] = {str(key): value for key, value in row.items()}
    return best


def card_of(
    ledger: Ledger, row: dict[str, Any], network: dict[str, Any], study: str
) -> dict[str, Any]:
    """What is known of a member; `network` has what does not stand in the ledger."""
    seeds = seeds_of(ledger, row)
    scores = pd.to_numeric(seeds["test"][seeds["status"].isin(SCORED)]).tolist()
    data = row["data"]
    source = next((data.removesuffix(v) for v in VIEWS if data.endswith(v)), data)
    if source not in LICENCES:
        raise ValueError(f"the licence of data={data} is not known: add it to {__name__}")
    texts = ("data", "model", "arm", "layers", "basis", "sizes", "metric", "mode", "command")
    counts = ("params", "seed", "epochs", "n_train", "n_val", "n_test")
    return {
        "study": study, **{key: str(row[key]) for key in texts},
        **{key: int(row[key]) for key in counts}, "config_hash": row["config_hash"],
        "test": float(row["test"]), "val": float(row["val"]),
        "mean": statistics.fmean(scores), "n": len(scores),
        "std": statistics.stdev(scores) if len(scores) > 1 else 0.0,
        "licence": LICENCES[source], "versions": json.loads(row["result"])["versions"],
        **{key: network[key] for key in ("in_shape", "num_outputs", "bytes", "sha256")},
    }  # fmt: skip


def _write_network(name: str, row: dict[str, Any], study: Path, folder: Path) -> dict[str, Any]:
    """Write weights and recipe of a run; what they are."""
    found = sorted(study.glob(f"*/*-{row['config_hash']}/seed{row['seed']}"))
    if not found or not (found[0] / "checkpoints" / "best.ckpt").is_file():
        raise ValueError(f"{study} has no checkpoint of {name}: train it by {row['command']}")
    result = read_json(found[0] / "result.json")
    if result["test"][row["metric"]] != row["test"]:
        raise ValueError(f"{found[0]} has another score than the ledger's row of {name}")
    net = load(found[0])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}{zoo.SUFFIX}"
    save(net, file)
    assert net.recipe is not None
    content = file.read_bytes()
    return {
        "in_shape": list(net.recipe["in_shape"]), "num_outputs": net.recipe["num_outputs"],
        "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
