"""Two processes do what one does: the same global batches, the same weights, one result."""

import csv
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from conftest import compose, run_script
from torch import Tensor, nn

from kanzoo.run.fit import train
from kanzoo.training.sync_norm import SyncNorms

WORDS = [
    *("model=mlp", "model.width=16", "match=none", "logger=csv", "callbacks.progress=false"),
    *("trainer.max_epochs=2", "data.limit_train=256", "data.batch_size=64"),
]
# 360 test samples, 359 validation samples: neither a multiple of the batch size, one is odd.
DDP = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "data.val_size=359"]
ONE = ["data.val_size=359"]


def run(tmp_path: Path, name: str, *words: str) -> tuple[dict, dict[str, torch.Tensor], Path]:
    """A run of two processes, or in this one."""
    words = (*WORDS, f"name={name}", *words)
    if "trainer=ddp" in words:
        done = run_script("train", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    else:
        train(compose("train", [*words, f"runs={tmp_path / 'runs'}"]))
    (result,) = (tmp_path / "runs" / name).rglob("result.json")
    folder = result.parent
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return json.loads(result.read_text()), state["state_dict"], folder


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Batch norm among what has to see all samples."""
    words = ["layers=kan", "model=resnet", "model.width=4", "optim=sgd"]
    result, weights, folder = run(tmp_path, "two", *DDP, *words)
    alone, reference, _ = run(tmp_path, "one", *ONE, *words)
    assert weights.keys() == reference.keys()
    assert any("running_var" in key for key in weights)
    for key, value in reference.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-3, atol=1e-4)
    # Every sample counted once: the accuracy is a count over the official test set.
    for split, size in (("test", 360), ("val", 359)):
        count = result[split]["accuracy"] * size
        assert count == pytest.approx(round(count), abs=1e-3)
        assert result[split]["accuracy"] == pytest.approx(alone[split]["accuracy"], abs=1.5 / size)
        assert result[split]["loss"] == pytest.approx(alone[split]["loss"], rel=1e-3)
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows if row["val/loss"]] == ["0", "1"]
    assert result["params"] == alone["params"]
    # The same command again: nothing is started anew.
    before = (folder / "result.json").stat().st_mtime_ns
    again = run_script("train", *WORDS, "name=two", *DDP, *words, cwd=tmp_path)
    assert again.returncode == 0
    assert "skipped" in again.stderr
    assert (folder / "result.json").stat().st_mtime_ns == before
    # What was trained is evaluated again where the result is gone.
    (folder / "result.json").unlink()
    resumed, other, _ = run(tmp_path, "two", *DDP, *words)
    assert (resumed["val"], resumed["test"]) == (result["val"], result["test"])
    assert all(torch.equal(weights[key], other[key]) for key in weights)


def _batches(count: int = 12) -> list[Tensor]:
    """Batches of shape (5, 3, 4), far from zero."""
    generator = torch.Generator().manual_seed(0)
    return [10 + torch.randn(5, 3, 4, generator=generator) for _ in range(count)]


def _normalising() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.BatchNorm1d(3), nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4, momentum=None), nn.Tanh()
    )


def _train(net: nn.Sequential, xs: list[Tensor]) -> None:
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for x in xs:
        optimizer.zero_grad()
        net(x).pow(3).sum().backward()
        if dist.is_initialized():
            for parameter in net.parameters():
                dist.all_reduce(parameter.grad)
        optimizer.step()


def _one_process(rank: int, store: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    net = _normalising()
    sync = SyncNorms("auto", on_gpus=False)
    sync.apply(net)
    _train(net, [x[:2] if rank else x[2:] for x in _batches()])  # 3 samples and 2
    sync.revert(net)
    assert [type(part) for part in net] == [type(part) for part in _normalising()]
    torch.save(net.state_dict(), f"{results}/{rank}.pt")
    dist.destroy_process_group()


def test_batch_norm_sees_the_batches_of_all_processes(tmp_path: Path) -> None:
    multiprocessing.start_processes(  # type: ignore[no-untyped-call]
        _one_process, args=(str(tmp_path / "store"), str(tmp_path)), nprocs=2, start_method="fork"
    )
    net = _normalising()
    _train(net, _batches())
    for rank in (0, 1):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for key, value in net.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_synchronised_is_said(caplog: pytest.LogCaptureFixture) -> None:
    class Other(nn.BatchNorm1d):
        pass

    for wanted, net in (("auto", nn.Sequential(Other(3))), (False, _normalising())):
        caplog.clear()
        assert SyncNorms(wanted, on_gpus=False).apply(net) is net
        (record,) = caplog.records
        assert "depend on their number" in record.getMessage()
        assert "\n" not in record.getMessage()
    with pytest.raises(ValueError, match="sync_batchnorm=true cannot be had for Other"):
        SyncNorms(True, on_gpus=False).apply(nn.Sequential(Other(3)))
    caplog.clear()
    SyncNorms("auto", on_gpus=False).apply(nn.Sequential(nn.LayerNorm(3)))
    assert not caplog.records


@pytest.mark.slow
def test_grids_that_move_and_are_refined(tmp_path: Path) -> None:
    """Both at the same step too; convolutions have more inputs than a sample of them holds."""
    words = [
        *("layers=kan", "basis=bspline_adaptive", "callbacks=grid", "model=convnet"),
        *("model.width=4", "callbacks.grid.update_every=2", "callbacks.grid.refine=[[1,7]]"),
        *("optim=sgd", "optim.lr=0.01"),
    ]
    result, weights, _ = run(tmp_path, "two", *DDP, *words)
    alone, reference, _ = run(tmp_path, "one", *ONE, *words)
    assert weights.keys() == reference.keys()
    for key, value in reference.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-3, atol=5e-3, msg=key)
    assert result["params"] == alone["params"]
    assert result["test"]["loss"] == pytest.approx(alone["test"]["loss"], rel=1e-3)
