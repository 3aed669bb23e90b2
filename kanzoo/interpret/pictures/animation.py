"""Edge functions during training: frames in the run's folder, at the end an animated GIF."""

import io
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from kanzoo.files import read_arrays, write_arrays, write_atomic
from kanzoo.fit.chain import is_kan, kan_layers
from kanzoo.interpret.edges import Edge, edge_functions
from kanzoo.settings import PicturesConfig

log = logging.getLogger("kanzoo")

MOST_LAYERS = 4  # that are followed, the first and the last among them
MOST_EDGES = 128  # of a layer that are kept in every frame; the strongest at the end are shown
MOST_FRAMES = 80
POINTS = 41
MILLISECONDS = 120  # a frame; the last one stays
DPI = 80


def make_pictures(options: PicturesConfig, folder: Path, net: nn.Module) -> list[Callback]:
    """The callback of `callbacks.pictures`, if it is asked for and there is anything to see."""
    if not options.every:
        return []
    if not any(map(is_kan, net.modules())):
        log.warning("callbacks.pictures has no effect: the network has no KAN layers")
        return []
    return [TrainingPictures(folder, **vars(options))]


class TrainingPictures(Callback):
    """Keeps edge functions before training and every `every` epochs, and animates them at the end.

    Writes `frames/epochNNNN.npz` and `edges.gif` into `folder`, so that a resumed run has all
    frames. Looks at the first batch of the validation data, in evaluation mode and without random
    numbers: training goes on as it would have. With `wandb`, every frame is also an image there.
    """

    def __init__(self, folder: Path, *, every: int, edges: int = 12, wandb: bool = False) -> None:
        self.folder = folder
        self.every = every
        self.edges = edges
        self.wandb = wandb
        self._sample: Tensor | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 0 and batch_idx == 0:
            self._keep(trainer, pl_module, batch[0], 0)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any,
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if batch_idx == 0:
            self._sample = batch[0]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sample, self._sample = self._sample, None
        epochs = trainer.current_epoch + 1
        due = epochs % self.every == 0 or epochs == trainer.max_epochs
        if sample is not None and due and trainer.state.fn == TrainerFn.FITTING:
            self._keep(trainer, pl_module, sample, epochs)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            animate(self.folder, self.edges)

    def _keep(self, trainer: Trainer, module: LightningModule, sample: Tensor, epochs: int) -> None:
        if not trainer.is_global_zero:
            return
        net = module.net
        assert isinstance(net, nn.Module)
        layers = kan_layers(net)
        names = list(layers)
        picked = np.linspace(0, len(names) - 1, min(MOST_LAYERS, len(names))).round().astype(int)
        layers = {names[i]: layers[names[i]] for i in picked}
        sizes = {n: layer.by_function()[0].numel() for n, layer in layers.items()}
        chosen = {
            n: np.linspace(0, size - 1, min(MOST_EDGES, size)).round().astype(int).tolist()
            for n, size in sizes.items()
        }
        try:
            with torch.no_grad(), trainer.precision_plugin.val_step_context():
                layers_drawn = edge_functions(
                    net, sample, num_points=POINTS, chosen=chosen, layers=layers
                )
        except ValueError as error:  # training that diverges has its own way to end
            log.warning("no picture of epoch %d: %s", epochs, error)
            return
        frame = [(layer.name, edge) for layer in layers_drawn for edge in layer.edges]
        write_frame(self.folder / "frames" / f"epoch{epochs:04d}.npz", frame)
        if self.wandb:
            self._log_image(trainer, frame, epochs)

    def _log_image(self, trainer: Trainer, frame: list[tuple[str, Edge]], epochs: int) -> None:
        from kanzoo.interpret.pictures import grids

        best = strongest(frame, self.edges)
        labels = [f"{frame[i][0]}  {frame[i][1].label}" for i in best]
        figure = grids.draw([frame[i][1] for i in best], labels, f"epoch {epochs}")
        for logger in trainer.loggers:
            if logger.name == "W&B":
                logger.log_image("edges", [_image(figure)])  # type: ignore[attr-defined]


def write_frame(path: Path, frame: list[tuple[str, Edge]]) -> None:
    """Write a frame whole or not at all, as arrays that need no pickle to be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {"layer": np.array([name for name, _ in frame])}
    fields = [asdict(edge) for _, edge in frame]
    for key in ("source", "target", "score"):
        columns[key] = np.array([field[key] for field in fields])
    taps = [field["tap"] or () for field in fields]
    dims = max(map(len, taps))
    columns["tap"] = np.array([[*tap, *[-1] * (dims - len(tap))] for tap in taps], int)
    for key in ("x", "y", "density"):
        columns[key] = np.stack([field[key] for field in fields]).astype(np.float32)
    write_arrays(path, columns)


def read_frame(path: Path) -> list[tuple[str, Edge]]:
    """What `write_frame` wrote."""
    columns = read_arrays(path)
    return [
        (
            str(columns["layer"][i]),
            Edge(
                int(columns["source"][i]),
                int(columns["target"][i]),
                tuple(int(index) for index in columns["tap"][i] if index >= 0) or None,
                float(columns["score"][i]),
                *(columns[key][i].astype(float) for key in ("x", "y", "density")),
            ),
        )
        for i in range(len(columns["layer"]))
    ]


def strongest(frame: list[tuple[str, Edge]], count: int) -> list[int]:
    """Places of the strongest edges, equally many of every layer as far as it has them."""
    names = list(dict.fromkeys(name for name, _ in frame))
    share = max(1, count // len(names))
    best = []
    for name in names:
        indices = [i for i, (layer, _) in enumerate(frame) if layer == name]
        best += sorted(indices, key=lambda i: -frame[i][1].score)[:share]
    return best


def animate(folder: Path, edges: int) -> Path | None:
    """Write `edges.gif` from all frames, the edges that are strongest in the last one."""
    from kanzoo.interpret.pictures import grids
    from kanzoo.page import style

    paths = sorted((folder / "frames").glob("epoch*.npz"))
    if not paths:
        return None
    picked = np.linspace(0, len(paths) - 1, min(MOST_FRAMES, len(paths))).round().astype(int)
    paths = [paths[i] for i in picked]
    best = strongest(read_frame(paths[-1]), edges)
    frames = [[frame[i] for i in best] for frame in map(read_frame, paths)]
    labels = [f"{name}  {edge.label}" for name, edge in frames[-1]]
    images = []
    with style.style():
        figure, plots = grids.layout(labels, " ")
        spans = [[frame[i][1] for frame in frames] for i in range(len(best))]
        heights = [np.array([(e.y.min(), e.y.max()) for e in span]) for span in spans]
        half = max(0.56 * max(float(h[:, 1].max() - h[:, 0].min()) for h in heights), 1e-6)
        for axes, span, height in zip(plots, spans, heights, strict=True):
            middle = (height[:, 0].min() + height[:, 1].max()) / 2
            axes.set_xlim(min(edge.x[0] for edge in span), max(edge.x[-1] for edge in span))
            axes.set_ylim(middle - half, middle + half)
        for path, frame in zip(paths, frames, strict=True):
            figure.texts[0].set_text(f"epoch {int(path.stem.removeprefix('epoch'))}")
            drawn = [
                artist
                for axes, (_, edge) in zip(plots, frame, strict=True)
                for artist in grids.plot(axes, edge)
            ]
            images.append(_image(figure))
            for artist in drawn:
                artist.remove()
    from PIL import Image

    palette = images[-1].quantize(64)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    times = [MILLISECONDS] * (len(images) - 1) + [20 * MILLISECONDS]
    target = folder / "edges.gif"
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=times, loop=0)
    write_atomic(target, file.getvalue())
    return target


def _image(figure: Any) -> Any:
    """The figure as an RGB image of pillow."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
