"""A trained network from the folder of its run."""

from pathlib import Path
from typing import Any

from kanzoo import registry
from kanzoo.rundir import read_config


def find_checkpoint(folder: Path, name: str) -> tuple[Path, Path]:
    """The folder of a run and one of its checkpoints; `ValueError` where there is none."""
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is not the folder of a run: it holds no config.yaml")
    names = sorted(path.stem for path in (folder / "checkpoints").glob("*.ckpt"))
    registry.check_name("checkpoint", name, names)
    return folder, folder / "checkpoints" / f"{name}.ckpt"


def load_net(folder: Path, checkpoint: Path, root: str | None = None) -> tuple[Any, Any]:
    """The trained network of a run on the CPU, and how it was prepared (`train.Prepared`).

    `root` is where the data are now, None for where they were in training.
    """
    import torch

    from kanzoo.run.prepare import prepare

    config = read_config(folder / "config.yaml")
    if root is not None:
        registry.check_name("data key", "root", config["data"])
        config["data"]["root"] = root
    prepared = prepare(config)
    net = prepared.plan.build()
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    own = {k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")}
    net.load_state_dict(own)
    return net.eval(), prepared
