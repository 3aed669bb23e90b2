"""Tasks: metrics against plain formulas over a whole split, and one module that trains them all."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import compose
from lightning.pytorch import Trainer
from torch import Tensor, nn

from kanzoo import registry
from kanzoo.data.base import KINDS
from kanzoo.run.config import check_overrides
from kanzoo.run.prepare import prepare
from kanzoo.training.data import DataModule
from kanzoo.training.measure import peak_step_memory
from kanzoo.training.objective import Objective
from kanzoo.training.optim import Constant
from kanzoo.training.task import Task

TASKS = registry.names("task")


def objective(name: str) -> Objective:
    found = registry.instantiate(registry.options("task", name))
    assert isinstance(found, Objective)
    return found


def metrics_of(name: str, num_outputs: int, parts: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    metrics = objective(name).metrics(num_outputs)
    for output, target in parts:
        metrics.update(output, target)
    return {key: float(value) for key, value in metrics.compute().items()}


def uneven(output: Tensor, target: Tensor) -> list[tuple[Tensor, Tensor]]:
    """A split as batches of 7, 1 and the rest, whose plain mean would be another."""
    sizes = [7, 1, len(output) - 8]
    return list(zip(output.split(sizes), target.split(sizes), strict=True))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# ---------------------------------------------------------------- metrics


@pytest.mark.parametrize("name", TASKS)
def test_every_task_names_what_it_measures(name: str) -> None:
    found = objective(name)
    assert found.task == name
    assert found.further is not None
    assert {found.monitor, *found.further} == set(found.metrics(4))
    assert found.mode in ("min", "max")


def test_a_uniform_model_needs_the_logarithm_of_the_vocabulary() -> None:
    target = torch.randint(0, 65, (20, 16))
    scores = metrics_of("language", 65, uneven(torch.zeros(20, 16, 65), target))
    assert scores["bits_per_char"] == pytest.approx(math.log2(65), rel=1e-6)
    assert scores["perplexity"] == pytest.approx(65, rel=1e-5)


def test_language_metrics_come_from_the_mean_over_positions(generator: torch.Generator) -> None:
    output = 3 * torch.randn(20, 16, 9, generator=generator)
    target = torch.randint(0, 9, (20, 16), generator=generator)
    target[-1, 5:] = -100  # a window that is not full
    scores = metrics_of("language", 9, uneven(output, target))
    counted = target != -100
    nats = -output.double().log_softmax(-1)[counted].gather(1, target[counted][:, None]).mean()
    assert scores["bits_per_char"] == pytest.approx(float(nats) / math.log(2), rel=1e-5)
    assert scores["perplexity"] == pytest.approx(math.exp(nats), rel=1e-5)
    means = [F.cross_entropy(o.flatten(0, 1), t.flatten()).exp() for o, t in uneven(output, target)]
    assert abs(float(torch.stack(means).mean()) - scores["perplexity"]) > 0.1
    found = objective("language")
    parts = uneven(output, target)
    weights = torch.tensor([float(found.weight(t)) for _, t in parts])
    losses = torch.stack([found.loss(o, t) for o, t in parts])
    assert float((losses * weights).sum() / weights.sum()) == pytest.approx(float(nats), rel=1e-5)


def test_a_confident_wrong_model_scores_finitely() -> None:
    output = torch.zeros(2, 3, 5)
    output[..., 0] = 300.0
    scores = metrics_of("language", 5, [(output, torch.ones(2, 3, dtype=torch.int64))])
    assert scores["bits_per_char"] == pytest.approx(300 / math.log(2), rel=1e-5)


def test_regression_and_forecast_metrics_equal_numpy(generator: torch.Generator) -> None:
    target = 3 * torch.randn(40, 1, generator=generator)
    output = target + torch.linspace(0, 2, 40)[:, None]
    error = (output - target).double().numpy()
    scores = metrics_of("regression", 1, uneven(output, target))
    assert scores["rmse"] == pytest.approx(math.sqrt((error**2).mean()), rel=1e-5)
    spread = ((target - target.mean()) ** 2).sum()
    assert scores["r2"] == pytest.approx(1 - float((error**2).sum() / spread), rel=1e-4)
    several = (torch.randn(40, 6, generator=generator), torch.randn(40, 6, generator=generator))
    error = (several[0] - several[1]).numpy()
    scores = metrics_of("forecast", 6, uneven(*several))
    assert scores["mse"] == pytest.approx((error**2).mean(), rel=1e-5)
    assert scores["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)


def test_psnr_is_the_mean_of_the_images_ratios(generator: torch.Generator) -> None:
    clean = torch.rand(30, 2, 16, 16, generator=generator)
    std = torch.linspace(0.05, 0.5, 30)
    noisy = clean + std[:, None, None, None] * torch.randn(clean.shape, generator=generator)
    found = metrics_of("denoise", 2, uneven(noisy, clean))["psnr"]
    assert found == pytest.approx(float((-20 * std.log10()).mean()), abs=0.1)
    mse = ((noisy - clean) ** 2).double().flatten(1).mean(1)
    assert found == pytest.approx(float((-10 * mse.log10()).mean()), rel=1e-5)


def test_mean_iou_counts_pixels_of_the_split(generator: torch.Generator) -> None:
    output = torch.randn(25, 4, 6, 6, generator=generator)
    target = torch.randint(0, 3, (25, 6, 6), generator=generator)
    output[:, 3] = -100  # class 3 is neither there nor predicted
    chosen = output.argmax(1)
    ious = [
        float(((chosen == c) & (target == c)).sum() / ((chosen == c) | (target == c)).sum())
        for c in range(3)
    ]
    scores = metrics_of("segmentation", 4, uneven(output, target))
    assert scores["mean_iou"] == pytest.approx(np.mean(ious), rel=1e-5)
    assert scores["accuracy"] == pytest.approx(float((chosen == target).float().mean()), rel=1e-5)


# ---------------------------------------------------------------- training


class Pointwise(nn.Module):
    """The smallest network for a kind of data: linear in the sample, the position or the pixel."""

    def __init__(self, in_shape: tuple[int, ...], num_outputs: int, kind: str) -> None:
        super().__init__()
        self.net: nn.Module
        if kind == "tokens":
            self.net = nn.Embedding(num_outputs, num_outputs)
        elif kind == "dense":
            self.net = nn.Conv2d(in_shape[0], num_outputs, 3, padding=1)
        else:
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(in_shape), num_outputs))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(x)
        return result


LEARNS = {
    "digits_rows": ["data.limit_train=512"],
    "wine": [],
    "diabetes": [],
    "python_docs": ["data.limit_train=512"],
    "digits_denoise": [],
    "digits_segment": [],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LEARNS)
def test_one_module_trains_every_kind(name: str, tmp_path: Path) -> None:
    config = compose("train", [f"data={name}", "data.batch_size=16", *LEARNS[name]])
    dataset = registry.instantiate(config["data"])
    goal = registry.instantiate(config["task"])
    spec = dataset.spec
    torch.manual_seed(0)
    net = Pointwise(spec.in_shape, spec.num_outputs, spec.kind)

    def optimizer(module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(module.parameters(), lr=0.02)

    task = Task(net, goal, spec.num_outputs, optimizer, Constant(), seed=0)
    trainer = Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
    )
    data = DataModule(dataset, seed=0)
    trainer.fit(task, data)
    (scores,) = trainer.test(task, data, verbose=False)
    reached = scores[f"test/{goal.monitor}"]
    nothing = dataset.reference()["test"][goal.monitor]
    assert (reached > nothing) if goal.mode == "max" else (reached < nothing)
    # The loss and the metrics tell the same story.
    if goal.task == "language":
        assert scores["test/loss"] == pytest.approx(reached * math.log(2), rel=1e-5)
    elif goal.task == "regression":
        assert scores["test/loss"] == pytest.approx(reached**2, rel=1e-5)
    batch = next(iter(data.train_dataloader()))
    assert peak_step_memory(net, goal.loss, optimizer, batch) > 0


# ---------------------------------------------------------------- choice of task and model


def refusal(*words: str) -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        prepare(compose("train", list(words)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_command_line_has_the_last_word_on_the_task() -> None:
    assert compose("train", ["data=digits_denoise"])["choices"]["task"] == "denoise"
    assert compose("train", ["data=digits"])["choices"]["task"] == "classification"
    words = ["data=digits_denoise", "task=segmentation"]
    config = compose("train", words)
    assert config["choices"]["task"] == "segmentation"
    assert config["task"]["_target_"].endswith("Segmentation")
    message = refusal("data=diabetes", "task=classification")
    assert "'regression'" in message
    assert "'classification'" in message
    check_overrides("train", ["data=digits,diabetes,python_docs"], multirun=True)
    message_of_a_typo = ["data=diabetes", "task.label_smoothing=0.1"]
    with pytest.raises(ValueError, match=r"task\.label_smoothing"):
        compose("train", message_of_a_typo)


@pytest.mark.parametrize(
    ("data", "model"), [("python_docs", "mlp"), ("digits_denoise", "mlp"), ("wine", "vit")]
)
def test_a_model_of_another_kind_is_refused_by_name(data: str, model: str) -> None:
    message = refusal(f"data={data}", f"model={model}", "layers=mlp")
    kind = registry.instantiate(compose("train", [f"data={data}"])["data"]).spec.kind
    assert f"'{kind}'" in message
    listed = message.rpartition(" are ")[2].split(", ")
    able = {name for name in registry.names("model") if kind in model_class(name).kinds}
    assert set(listed) == (able or {"none"})
    assert model not in able


@pytest.mark.parametrize("name", registry.names("model"))
def test_models_declare_known_kinds(name: str) -> None:
    assert set(model_class(name).kinds) <= set(KINDS)


def model_class(name: str) -> Any:
    return registry.locate(registry.options("model", name)["_target_"])
