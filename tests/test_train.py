"""A run: what it leaves on disk, that it resumes exactly, and that twins are treated alike."""

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import SMALL, Run, command, compose, environment, folder_of, run_script
from fuzzing import in_process
from torch import Tensor, nn

from kanzoo.errors import Stopped
from kanzoo.run.fit import train
from kanzoo.run.load import load_run
from kanzoo.run.prepare import prepare
from kanzoo.rundir import FORMAT
from kanzoo.train import main
from kanzoo.training.interrupt import stopping_between_batches
from kanzoo.training.measure import PeakMemory, peak_step_memory
from kanzoo.training.optim import Constant, Exponential, WarmupCosine, build_optimizer, param_groups
from kanzoo.training.task import Task

RESULT_KEYS = {
    *("status", "name", "model", "layers", "basis", "data", "seed", "params", "flops"),
    *("step_time_ms", "peak_memory_mb", "train_seconds", "epochs", "val", "test", "git_sha"),
    *("versions", "config_hash"),
}


def metric_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def epochs_with(folder: Path, column: str) -> list[int]:
    return [int(row["epoch"]) for row in metric_rows(folder) if row[column]]


def history(folder: Path) -> list[tuple[str, ...]]:
    """Rows of a run that must not depend on interruptions."""
    columns = ("epoch", "step", "val/accuracy", "val/loss", "train/lr", "test/accuracy")
    return [tuple(row[c] for c in columns) for row in metric_rows(folder)]


def only_folder(root: Path, name: str = "train") -> Path:
    (found,) = (root / name).glob("*/*/seed*")
    return found


# --- what a run leaves ---------------------------------------------------------------------------


def test_files_of_a_run(train_run: Run, tmp_path: Path) -> None:
    result = train_run()
    folder = folder_of(*SMALL, f"runs={tmp_path}")
    assert folder == only_folder(tmp_path)
    assert folder.relative_to(tmp_path).parts[:2] == ("train", "digits")
    model, layers, basis, digest = folder.parent.name.split("-")
    assert (model, layers, basis, folder.name) == ("mlp", "kan", "bspline", "seed0")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "config.yaml",
        "metrics.csv",
        "result.json",
        "items.npz",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/network.json",
    }
    saved = json.loads((folder / "result.json").read_text())
    assert saved == json.loads(json.dumps(result))
    assert saved.keys() >= RESULT_KEYS
    assert saved["status"] == "finished"
    assert saved["config_hash"] == digest
    assert saved["epochs"] == 2
    assert saved["params"] > saved["twin_params"]  # match=none
    assert saved["step_time_ms"] > 0
    assert saved["train_seconds"] > 0
    # Weights, gradients and two moments at least.
    assert saved["peak_memory_mb"] > 4 * 4 * saved["params"] / 2**20
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config.pop("format") == FORMAT
    assert config == compose("train", [*SMALL, f"runs={tmp_path}"])


def test_checkpoints_hold_tensors_and_plain_values_only(train_run: Run, tmp_path: Path) -> None:
    train_run("layers=mlp")
    folder = only_folder(tmp_path)
    assert folder.parent.name.rpartition("-")[0] == "mlp-mlp"  # a basis would mean nothing
    for name in ("last", "best"):
        state = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert any(key.startswith("net.") for key in state["state_dict"])
        assert not any("_orig_mod" in key for key in state["state_dict"])


def test_metrics_have_every_epoch_once(train_run: Run, tmp_path: Path) -> None:
    train_run("trainer.max_epochs=3", "trainer.log_every_n_steps=1", "data.batch_size=32")
    folder = only_folder(tmp_path)
    assert epochs_with(folder, "val/accuracy") == [0, 1, 2]
    assert epochs_with(folder, "train/lr") == [0, 1, 2]
    assert len(epochs_with(folder, "train/loss")) == 12
    assert len(epochs_with(folder, "test/accuracy")) == 1


def test_the_folder_follows_from_what_decides_the_result(tmp_path: Path) -> None:
    base = folder_of(*SMALL)
    for same in (["callbacks.progress=true"], ["logger=wandb"], ["overwrite=true"]):
        assert folder_of(*SMALL, *same) == base
    for other in (["optim.lr=0.1"], ["data.limit_train=64"], ["basis.grid_size=4"]):
        assert folder_of(*SMALL, *other).parent != base.parent
    assert folder_of(*SMALL, "seed=1") == base.with_name("seed1")
    # The twin has no basis and nothing to match.
    twin = folder_of(*SMALL, "layers=mlp")
    assert twin == folder_of(*SMALL, "layers=mlp", "basis=rbf", "match=flops")


def test_a_finished_run_is_skipped(
    train_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train_run()
    folder = only_folder(tmp_path)
    times = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    monkeypatch.setattr("kanzoo.run.fit.prepare", None)  # nothing is even checked anew
    again = train_run()
    assert again == json.loads(json.dumps(first))
    assert times == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_a_skip_imports_nothing_heavy(train_run: Run, tmp_path: Path) -> None:
    train_run()
    words = [*SMALL, f"runs={tmp_path}"]
    code = (
        f"import sys; sys.argv = ['train.py', *{words!r}]\n"
        "from kanzoo.train import main\nmain()\n"
        "heavy = {'torch', 'lightning'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run(
        [command("train")[0], "-c", code], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "skipped" in done.stderr


def test_overwrite_runs_again(train_run: Run, tmp_path: Path) -> None:
    first = train_run()
    before = (only_folder(tmp_path) / "result.json").stat().st_mtime_ns
    again = train_run("overwrite=true")
    folder = only_folder(tmp_path)
    assert (folder / "result.json").stat().st_mtime_ns > before
    assert again["test"] == first["test"]
    assert epochs_with(folder, "val/accuracy") == [0, 1]


def test_a_run_of_another_configuration_is_refused(train_run: Run, tmp_path: Path) -> None:
    train_run()
    folder = only_folder(tmp_path)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["optim"]["lr"] = 0.5
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    before = (folder / "result.json").read_bytes()
    with pytest.raises(ValueError, match=r"these keys differ: optim\.lr;"):
        train_run()
    (folder / "config.yaml").write_text("{not yaml")
    with pytest.raises(ValueError, match=r"config\.yaml is not readable"):
        train_run()
    assert (folder / "result.json").read_bytes() == before


def test_a_torn_result_counts_as_unfinished(train_run: Run, tmp_path: Path) -> None:
    first = train_run()
    path = only_folder(tmp_path) / "result.json"
    path.write_text(path.read_text()[:40])
    assert train_run()["test"] == first["test"]


# --- what decides a result -----------------------------------------------------------------------


def test_the_seed_decides_and_nothing_else(train_run: Run) -> None:
    first = train_run("model.dropout=0.3")
    torch.manual_seed(77)
    torch.rand(9)
    again = train_run("model.dropout=0.3", "name=again")
    other = train_run("model.dropout=0.3", "seed=1")
    assert (first["val"], first["test"]) == (again["val"], again["test"])
    assert first["test"]["loss"] != other["test"]["loss"]


def test_twins_see_the_same_batches(train_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, tuple[int, ...]]] = []
    plain = Task.training_step

    def recorded(self: Task, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        seen.append((float(x.double().pow(3).sum()), tuple(y.tolist())))
        return plain(self, batch, index)

    monkeypatch.setattr(Task, "training_step", recorded)
    orders = []
    for words in (["layers=mlp"], ["layers=kan"], ["layers=kan", "basis=rbf", "model.dropout=0.2"]):
        seen.clear()
        train_run("data.batch_size=32", "data.augment=true", *words)
        orders.append(list(seen))
    assert len(orders[0]) == 8
    assert orders[0] == orders[1] == orders[2]
    assert orders[0][:4] != orders[0][4:]  # another order in the next epoch
    seen.clear()
    train_run("data.batch_size=32", "data.augment=true", "layers=mlp", "seed=1")
    assert seen != orders[0]


def test_validation_selects_the_epoch(
    train_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learning rate that destroys the network late: the tested weights are the early ones."""
    plain = WarmupCosine.factor
    monkeypatch.setattr(
        WarmupCosine,
        "factor",
        lambda self, step, total: 1e4 if step >= 12 else plain(self, step, total),
    )
    words = ["trainer.max_epochs=4", "data.batch_size=32", "trainer.gradient_clip_val=null"]
    result = train_run(*words)
    folder = only_folder(tmp_path)
    rows = [row for row in metric_rows(folder) if row["val/accuracy"]]
    scores = [float(row["val/accuracy"]) for row in rows]
    best = scores.index(max(scores))
    assert best < 3
    assert scores[3] < max(scores)
    assert result["val"]["accuracy"] == pytest.approx(max(scores), abs=1e-6)
    assert result["val"]["loss"] == pytest.approx(float(rows[best]["val/loss"]), rel=1e-5)
    checkpoint = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["epoch"] == best


def test_patience_stops_early(train_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WarmupCosine, "factor", lambda self, step, total: 0.0)
    result = train_run("callbacks.patience=2", "trainer.max_epochs=9")
    assert result["epochs"] == 3


def test_training_time_is_that_of_all_epochs(
    train_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WarmupCosine, "factor", lambda self, step, total: 0.0)
    result = train_run("trainer.max_epochs=4")
    seconds = {}
    for name in ("best", "last"):
        path = only_folder(tmp_path) / "checkpoints" / f"{name}.ckpt"
        state = torch.load(path, weights_only=True)
        seconds[state["epoch"]] = state["callbacks"]["StepTimer"]["seconds"]
    assert set(seconds) == {0, 3}  # no epoch is better than the first
    assert seconds[0] < seconds[3] <= result["train_seconds"]


def test_evaluate_repeats_the_result(train_run: Run, tmp_path: Path) -> None:
    for words in (["model=mlp"], ["model=resnet", "model.width=4"]):
        result = train_run(*words)
        folder = folder_of(*SMALL, f"runs={tmp_path}", *words)
        for split in ("val", "test"):
            assert load_run(folder).evaluate(split) == result[split]


def test_a_foreign_configuration_runs_no_code(train_run: Run, tmp_path: Path) -> None:
    train_run()
    folder = only_folder(tmp_path)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    number = config.pop("format")
    for group in ("model", "basis", "data", "task", "sched", "optim", "layers"):
        evil = {**config, group: {**config[group], "_target_": "os.system"}}
        with pytest.raises(ValueError, match=r"'os\.system' is not allowed"):
            prepare(evil)
        if group in ("data", "task"):
            (folder / "config.yaml").write_text(yaml.safe_dump({"format": number, **evil}))
            with pytest.raises(ValueError, match=r"'os\.system' is not allowed"):
                load_run(folder)


# --- interruptions -------------------------------------------------------------------------------

INTERRUPTED = ["model.dropout=0.2", "data.batch_size=32", "trainer.max_epochs=4"]


class Stop(Exception):
    """Stands for a power failure: nothing that could save state is run on purpose."""


@pytest.mark.parametrize(("step", "layers"), [(2, "kan"), (13, "kan")])
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    train_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, layers: str
) -> None:
    words = [*INTERRUPTED, f"layers={layers}"]
    whole = train_run(*words, "name=whole")
    plain = Task.training_step

    def stops(self: Task, batch: Any, index: int) -> Tensor:
        if self.global_step == step:
            raise Stop
        return plain(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Task, "training_step", stops)
        with pytest.raises(Stop):
            train_run(*words)
    assert not (only_folder(tmp_path) / "result.json").exists()
    last = only_folder(tmp_path) / "checkpoints" / "last.ckpt"
    assert last.exists() == (step > 4)
    assert step < 4 or torch.load(last, weights_only=True)["epoch"] == step // 4 - 1
    torch.manual_seed(99)  # the next process starts with another state
    resumed = train_run(*words)
    assert (resumed["val"], resumed["test"]) == (whole["val"], whole["test"])
    assert history(only_folder(tmp_path)) == history(only_folder(tmp_path, "whole"))
    assert same_weights(only_folder(tmp_path), only_folder(tmp_path, "whole"))


def test_a_run_that_lacks_only_its_result_is_completed(train_run: Run, tmp_path: Path) -> None:
    whole = train_run(*INTERRUPTED)
    folder = only_folder(tmp_path)
    (folder / "result.json").unlink()
    again = train_run(*INTERRUPTED)
    assert (again["val"], again["test"]) == (whole["val"], whole["test"])
    assert again["epochs"] == whole["epochs"] == 4
    assert epochs_with(folder, "val/accuracy") == [0, 1, 2, 3]
    assert len(epochs_with(folder, "test/accuracy")) == 1


def same_weights(first: Path, second: Path) -> bool:
    states = [
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (first, second)
    ]
    return all(torch.equal(states[0][key], states[1][key]) for key in states[1])


LONG = [*SMALL, "model.dropout=0.2", "data.batch_size=32", "trainer.max_epochs=60"]


def interrupted(tmp_path: Path, number: int) -> tuple[int, str]:
    """Start a long run, send a signal after some epochs, return exit code and message."""
    process = subprocess.Popen(
        command("train", *LONG),
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        (path, *_) = [*tmp_path.glob("runs/train/digits/*/seed0/metrics.csv"), None]
        if path is not None and path.read_text().count("\n") > 12:
            break
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    return process.returncode, error.strip()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing stopped."""
    runs = tmp_path_factory.mktemp("undisturbed")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as commands have in tests
    train(compose("train", [*LONG, f"runs={runs}"]))
    torch.set_num_threads(threads)
    return only_folder(runs)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_command_resumes(tmp_path: Path, undisturbed: Path, number: int) -> None:
    code, error = interrupted(tmp_path, number)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    folder = only_folder(tmp_path / "runs")
    assert not (folder / "result.json").exists()
    assert (folder / "checkpoints" / "last.ckpt").exists()
    if number != signal.SIGKILL:
        line = r"kanzoo: stopped by SIG(INT|TERM) in epoch \d+, step \d+, which is saved; the same"
        assert re.match(line, error.splitlines()[-1])
        assert len(error.splitlines()) == 1
    done = run_script("train", *LONG, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stderr
    resumed = json.loads((folder / "result.json").read_text())
    whole = json.loads((undisturbed / "result.json").read_text())
    assert (resumed["val"], resumed["test"]) == (whole["val"], whole["test"])
    assert epochs_with(folder, "val/accuracy") == list(range(60))
    assert history(folder) == history(undisturbed)
    assert same_weights(folder, undisturbed)


def test_an_interrupt_that_python_drops_still_stops_the_run(
    train_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Task.training_step

    def swallows(self: Task, batch: Any, index: int) -> Tensor:
        if self.global_step == 6:
            with contextlib.suppress(KeyboardInterrupt):  # as a destructor does
                signal.raise_signal(signal.SIGINT)
        assert self.global_step < 7
        return plain(self, batch, index)

    monkeypatch.setattr(Task, "training_step", swallows)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as end:
        train_run(*INTERRUPTED)
    assert end.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before is signal.default_int_handler
    assert (only_folder(tmp_path) / "checkpoints" / "last.ckpt").exists()
    assert not (only_folder(tmp_path) / "result.json").exists()


def test_a_second_interrupt_does_not_wait() -> None:
    with stopping_between_batches():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping_between_batches():  # the process leaves it to its parent
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_run_that_diverges_does_not_end_a_sweep(tmp_path: Path) -> None:
    words = [*SMALL[1:], "trainer.max_epochs=1", "data.limit_train=64", "optim.lr=1e30,0.01"]
    outcome = in_process(main, ["-m", *words, "model=glob(ml*)"], tmp_path)
    assert outcome.code == 1
    (line,) = outcome.error.splitlines()
    assert line.startswith("kanzoo: diverged: ")
    assert len(list(tmp_path.rglob("config.yaml"))) == 2
    assert len(list(tmp_path.rglob("result.json"))) == 1


# --- W&B -----------------------------------------------------------------------------------------


def wandb_records(folder: Path) -> list[dict[str, Any]]:
    """All records of an offline run, read by W&B's own reader."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    reader = [sys.executable, "-m", "wandb", "leet", "inspect"]
    if subprocess.run([*reader, "--help"], capture_output=True).returncode:
        pytest.skip("this version of W&B has no reader of offline runs")
    done = subprocess.run([*reader, "--json", path], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_the_offline_run_of_wandb_is_a_mirror(
    train_run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = dict(os.environ)
    result = train_run("logger=wandb", "trainer.log_every_n_steps=1", "data.batch_size=32")
    assert "wandb:" not in capfd.readouterr().err, "nothing to warn of"
    assert os.environ.get("WANDB_MODE") == before.get("WANDB_MODE")
    folder = only_folder(tmp_path)
    records = wandb_records(folder)
    (config,) = [r["run"]["config"]["update"] for r in records if r["type"] == "run"]
    rows = [r["history"]["item"] for r in records if r["type"] == "history"]
    assert config["params"] == result["params"]
    assert config["flops"] == result["flops"]
    assert config["optim"]["lr"] == 0.003
    assert config["choices"]["basis"] == "bspline"
    for column in ("train/loss", "val/accuracy", "test/accuracy"):
        mirrored = [row[column] for row in rows if column in row]
        recorded = [float(row[column]) for row in metric_rows(folder) if row[column]]
        assert mirrored == pytest.approx(recorded)
    import wandb

    assert wandb.run is None  # closed: the next run gets one of its own


# --- parts ---------------------------------------------------------------------------------------


def test_weight_decay_is_for_the_weights_of_layers() -> None:
    from kanzoo import create_model
    from kanzoo.layers import KANLayer

    for name, options in (("mlp", {}), ("resnet", {"width": 4}), ("vit", {"patch_size": 2})):
        net = create_model(name, basis="rational", in_shape=(1, 8, 8), **options)
        decayed, rest = param_groups(net, 0.3)
        assert (decayed["weight_decay"], rest["weight_decay"]) == (0.3, 0.0)
        names = {id(p): key for key, p in net.named_parameters()}
        weights = {f"{k}.weight" for k, m in net.named_modules() if isinstance(m, KANLayer)}
        assert {names[id(p)] for p in decayed["params"]} == weights
        assert {names[id(p)] for p in rest["params"]} == set(names.values()) - weights
        assert any("expansion" in key for key in set(names.values()) - weights)
    plain = nn.Sequential(nn.Linear(2, 3), nn.Conv1d(1, 1, 1), nn.LayerNorm(3))
    decayed, rest = param_groups(plain, 0.1)
    assert [p.shape for p in decayed["params"]] == [(3, 2), (1, 1, 1)]
    assert len(rest["params"]) == 4


def test_undecayed_parameters_stay_where_they_are() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    node = {"_target_": "torch.optim.AdamW", "lr": 0.1, "weight_decay": 0.5}
    optimizer = build_optimizer(node, net)
    before = [p.detach().clone() for p in net.parameters()]
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    weight, *others = zip(before, net.parameters(), strict=True)
    torch.testing.assert_close(weight[1], weight[0] * (1 - 0.1 * 0.5))
    assert all(torch.equal(p, q) for p, q in others)


def test_warmup_and_cosine() -> None:
    schedule = WarmupCosine(warmup_fraction=0.1, final_ratio=0.2)
    factors = [schedule.factor(step, 100) for step in range(101)]
    assert factors[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.6)  # half way between 1 and 0.2
    assert factors[100] == pytest.approx(0.2)
    assert all(a >= b for a, b in pairwise(factors[10:]))
    assert WarmupCosine(warmup_fraction=0.0).factor(0, 10) == 1.0
    assert WarmupCosine().factor(0, 1) > 0
    stairs = Exponential(gamma=0.5, periods=4)
    factors = [stairs.factor(step, 100) for step in (0, 24, 25, 50, 75, 99, 100)]
    assert factors == [1.0, 1.0, 0.5, 0.25, 0.125, 0.125, 0.125]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3.0)
    Constant()(optimizer, 10)
    assert optimizer.param_groups[0]["lr"] == 3.0


def test_peak_memory_counts_a_known_program() -> None:
    """float32: a, b 400 B each; c 400; a goes; d 800: at the end b, c and d."""
    with PeakMemory() as memory:
        a = torch.zeros(100)
        b = torch.ones(100)
        c = a + b
        assert memory.live == memory.peak == 1200
        del a
        assert memory.live == 800
        d = torch.empty(200)
        assert memory.live == memory.peak == 1600
        view = d.view(2, 100)[0]
        d.add_(1)
        assert memory.peak == 1600
        del d
        assert memory.live == 1600  # the view keeps it
        del view
        assert memory.live == 800
        (c * b).sum()
    assert memory.peak == 1600


def test_peak_memory_of_a_step_is_that_of_its_tensors() -> None:
    """Weights, gradients and momentum are 4 MB each; a gradient may exist twice for a moment."""
    net = nn.Linear(1000, 1000, bias=False)
    before = [p.detach().clone() for p in net.parameters()]
    state = torch.get_rng_state()

    def momentum(module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, foreach=False)

    batch = (torch.randn(1, 1000), torch.zeros(1, dtype=torch.long))
    state = torch.get_rng_state()
    peak = peak_step_memory(net, nn.functional.cross_entropy, momentum, batch)
    assert 3 * 4_000_000 <= peak <= 4 * 4_000_000 + 50_000
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    assert all(p.grad is None for p in net.parameters())


def test_prepared_runs_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="heads"):
        train(compose("train", ["model=vit", "model.heads=5", f"runs={tmp_path / 'runs'}"]))
    assert not list(tmp_path.iterdir())
