"""A trained network from its run: the one that was trained, in its dtype, and without running code.

What resumes and what is evaluated in 64-bit floats is what an undisturbed training gives, bit for
bit.
"""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, compose, folder_of
from torch import Tensor

import kanzoo
from kanzoo.files import seal
from kanzoo.interpret.pruning import prune
from kanzoo.run.fit import train
from kanzoo.run.load import load_run
from kanzoo.training.task import Task

FLOAT64 = (
    *("data=functions", "data.function=exp_sin", "data.n_train=200", "data.batch_size=200"),
    *("data.dtype=float64", "trainer.precision=64-true", "model=mlp", "model.width=5"),
    *("model.norm=none", "match=none", "logger=csv", "callbacks.progress=false"),
)
GRIDS = (
    *("callbacks=grid", "callbacks.grid.update_every=2", "callbacks.grid.update_until=3"),
    "callbacks.grid.refine=[[3,7],[5,12]]",
)
RUNS = {
    "lbfgs": (*FLOAT64, *GRIDS, "optim=lbfgs", "trainer.max_epochs=8"),
    "adam": (*FLOAT64, *GRIDS, "optim=adam", "trainer.max_epochs=8", "data.batch_size=50"),
}


def run(tmp_path: Path, *words: str) -> tuple[dict[str, Any], Path]:
    words = (*words, f"runs={tmp_path}")
    return train(compose("train", list(words))), folder_of(*words)


def weights(folder: Path, name: str = "last") -> dict[str, Tensor]:
    state = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
    return {k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")}


class Stop(Exception):
    """Stands for a power failure."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "epoch"), list(zip(RUNS, (2, 6), strict=True)))
def test_a_killed_64_bit_run_resumes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, epoch: int
) -> None:
    """Before and after grids are refined: weights and figures are those of a run left alone."""
    alone, whole = run(tmp_path / "alone", *RUNS[name])
    plain = Task.training_step

    def stops(self: Task, batch: Any, index: int) -> Tensor:
        if self.current_epoch == epoch:
            raise Stop
        return plain(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Task, "training_step", stops)
        with pytest.raises(Stop):
            run(tmp_path / "killed", *RUNS[name])
    resumed, folder = run(tmp_path / "killed", *RUNS[name])
    assert (resumed["val"], resumed["test"]) == (alone["val"], alone["test"])
    for kind in ("best", "last"):
        first, second = weights(folder, kind), weights(whole, kind)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert {v.dtype for v in first.values() if v.is_floating_point()} == {torch.float64}


def test_a_64_bit_network_is_loaded_and_evaluated_as_it_was_trained(tmp_path: Path) -> None:
    result, folder = run(tmp_path, *RUNS["lbfgs"])
    for split in ("val", "test"):
        assert load_run(folder).evaluate(split) == result[split]
    for checkpoint in ("best", "last"):
        net = kanzoo.load(folder, checkpoint=checkpoint)
        assert not any(module.training for module in net.modules())
        state = weights(folder, checkpoint)
        assert net.state_dict().keys() == state.keys()
        assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
        assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert net.stem.expansion.basis.grid_size == 12
    # Beside the checkpoints, so that no budget is solved: the network of another size than planned.
    x, y = next(iter(load_run(folder).dataset.loaders(seed=0, device=torch.device("cpu")).test))
    net = kanzoo.load(str(folder))
    with torch.no_grad():
        rmse = float((net(x) - y).square().mean().sqrt())
    assert rmse == pytest.approx(result["test"]["rmse"], rel=0.5)


def test_a_loaded_network_can_be_pruned_saved_and_trained_on(tmp_path: Path) -> None:
    _, folder = run(tmp_path, *RUNS["lbfgs"])
    net: Any = kanzoo.load(folder)
    x = torch.rand(50, 2, dtype=torch.float64)
    prune(net, x, threshold=0.1)
    kanzoo.save(net, tmp_path / "pruned")
    again = kanzoo.load(tmp_path / "pruned")
    assert torch.equal(net(x), again(x))
    again.train()(x).sum().backward()
    assert all(p.grad is not None for p in again.parameters())


def test_loading_solves_no_budget(
    train_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = train_run("match=params", "trainer.max_epochs=1")
    (folder,) = tmp_path.glob("train/*/*/seed0")
    monkeypatch.setattr("kanzoo.models.solve.match_budget", None)
    monkeypatch.setattr("kanzoo.models.build.plan_model", None)
    assert load_run(folder).evaluate("test") == result["test"]


def test_files_of_a_run_run_no_code(train_run: Run, tmp_path: Path) -> None:
    train_run("trainer.max_epochs=1")
    (folder,) = tmp_path.glob("train/*/*/seed0")
    recipe, checkpoint = folder / "checkpoints" / "network.json", folder / "checkpoints/best.ckpt"
    bait = tmp_path / "bait"
    good = json.loads(recipe.read_text())
    recipe.write_text(json.dumps({**good, "model": {"_target_": "os.system", "command": "true"}}))
    with pytest.raises(ValueError, match="not a class of kanzoo"):
        kanzoo.load(folder)
    recipe.write_text(json.dumps(good))

    class Bait:
        def __reduce__(self) -> Any:
            return (Path.touch, (bait,))

    archive = io.BytesIO()
    torch.save({"state_dict": Bait()}, archive)
    unsealed = pickle.dumps({"state_dict": Bait()}, protocol=2)
    for content in (seal(archive.getvalue()), unsealed, b"", b"PK\x03\x04"):
        checkpoint.write_bytes(content)
        with pytest.raises(ValueError, match=r"best\.ckpt is damaged") as refusal:
            kanzoo.load(folder)
        assert "\n" not in str(refusal.value)
    torch.save({"state_dict": {"net.x": Bait()}}, checkpoint)
    with pytest.raises(ValueError, match=r"best\.ckpt is damaged"):
        kanzoo.load(folder)
    with pytest.raises(ValueError, match=r"'bets'.*did you mean 'best'"):
        kanzoo.load(folder, checkpoint="bets")
    with pytest.raises(ValueError, match=r"holds no config\.yaml"):
        kanzoo.load(tmp_path)
    assert not bait.exists()
