"""How steps run on an accelerator, on the CPU by force: what is read, sent, captured, compiled."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import SHORT, Run, compose
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kanzoo.checks import build
from kanzoo.data.loader import MemoryLoader, Sending
from kanzoo.run.prepare import check_machine, describe_data
from kanzoo.settings import RunConfig
from kanzoo.training import cards, measure, optim
from kanzoo.training.compiled import CompiledNet
from kanzoo.training.graph import GraphedStep, capture_cuda
from kanzoo.training.loop import EpochLoop
from kanzoo.training.measure import StepTimer
from kanzoo.training.optim import build_optimizer

# Operators and methods after which the host knows numbers of the device, for which it has to wait.
READS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero")
COPIES = ("cpu", "numpy", "tolist", "__array__")
TASKS = {
    "classification": ["model=convnet", "model.width=4", "data.augment=true"],
    "regression": ["data=diabetes", "model=mlp", "model.width=8", "data.limit_train=null"],
    "language": [
        *("data=python_docs", "model=gpt", "model.depth=1", "model.width=16", "model.heads=2"),
        *("data.block_size=16", "data.batch_size=16", "data.limit_train=64"),
    ],
    "segmentation": ["data=digits_segment", "model=unet", "model.width=4"],
    "denoise": ["data=digits_denoise", "model=unet", "model.width=4"],
    "mlp": ["model=mlp", "model.width=8", "layers=mlp", "model.dropout=0.1"],
}


class Reads(TorchDispatchMode):
    """Notes operators that read numbers."""

    sees_tensors_only = True

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in READS:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(task, marks=pytest.mark.slow if index > 1 else ())
        for index, task in enumerate(TASKS)
    ],
)
def test_steps_read_nothing_between_logged_ones(
    task: str, train_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optim, "FUSED", ("cpu",))
    steps: list[list[str]] = []
    plain = EpochLoop.advance

    def copying(name: str, reads: Reads) -> Callable[..., Any]:
        method = getattr(Tensor, name)

        def noted(self: Tensor, *args: Any) -> Any:
            reads.names.append(name)
            return method(self, *args)

        return noted

    def watched(self: EpochLoop, fetcher: Any) -> None:
        with Reads() as reads, monkeypatch.context() as patch:
            for name in COPIES:
                patch.setattr(Tensor, name, copying(name, reads))
            plain(self, fetcher)
        if not self.trainer.is_last_batch:
            steps.append(reads.names)

    monkeypatch.setattr(EpochLoop, "advance", watched)
    words = ["trainer.max_epochs=1", "data.batch_size=16", "layers.backend=dense"]
    train_run("layers=kan", *words, *TASKS[task])
    assert len(steps) >= 3
    assert not any(names for index, names in enumerate(steps, start=1) if index % 10)


def described(*words: str) -> Any:
    dataset, _ = describe_data(build(RunConfig, compose("train", [*SHORT, *words])))
    dataset.load()
    return dataset


@pytest.mark.parametrize(
    "words",
    [
        ["data=digits", "data.augment=true"],
        ["data=digits_denoise"],
        ["data=python_docs", "data.limit_train=64", "data.block_size=16"],
        ["data=digits", "training_set.label_noise=0.3", "training_set.fraction=0.5"],
    ],
)
def test_batches_that_are_sent_equal_those_of_the_device(words: list[str]) -> None:
    one, other = described(*words), described(*words, "trainer.resident_data=false")
    for rank in (0, 1):
        where = {"seed": 3, "device": torch.device("cpu"), "rank": rank, "world_size": 2}
        for resident, sent in zip(one.loaders(**where), other.loaders(**where), strict=True):
            assert isinstance(sent, MemoryLoader)
            assert sent.sending is None  # on the CPU nothing has to be sent
            sent.sending = Sending(torch.device("cpu"))
            for epoch in (0, 1):
                for loader in (resident, sent):
                    loader.sampler.set_epoch(epoch)
                pairs = list(zip(resident, sent, strict=True))
                assert pairs
                for (x, y), (x_sent, y_sent) in pairs:
                    assert torch.equal(x, x_sent)
                    assert torch.equal(y, y_sent)


def test_data_that_do_not_fit_stay_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = described("data=digits")
    size = sum(t.nbytes for split in dataset.loaded.values() for t in split)
    meta = torch.device("meta")
    for free, resident in ((2 * size, True), (2 * size - 2, False)):
        monkeypatch.setattr("kanzoo.data.memory.free_memory", lambda _, free=free: free)
        loader = dataset.loaders(seed=0, device=meta).train
        assert loader.x.is_meta == resident
        assert (loader.sending is None) == resident
    x, y = next(iter(loader))
    assert (x.device, y.device) == (meta, meta)


def net_and_batches(seed: int = 0) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    from kanzoo.layers import KANLinear

    torch.manual_seed(seed)
    net = nn.Sequential(KANLinear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), KANLinear(8, 3))
    return net, [(torch.randn(6, 5), torch.randint(3, (6,))) for _ in range(6)]


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "torch.optim.AdamW", "lr": 0.01, "weight_decay": 0.1},
        {"_target_": "torch.optim.SGD", "lr": 0.05, "momentum": 0.9, "nesterov": True},
    ],
)
@pytest.mark.parametrize("begun", [0, 2])
def test_a_captured_step_is_the_step(node: dict[str, Any], begun: int) -> None:
    """Rehearsals leave no trace, also where training goes on; rates follow the schedule."""
    ends = []
    for graphed in (False, True):
        net, batches = net_and_batches()
        optimizer = build_optimizer(node, net, fused=True)

        def step(
            batch: tuple[Tensor, Tensor], net: nn.Module = net, optimizer: Any = optimizer
        ) -> Tensor:
            loss = nn.functional.cross_entropy(net(batch[0]), batch[1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.detach()

        def rehearsed(run: Callable[[], Tensor]) -> Callable[[], object]:
            for _ in range(3):
                run()
            return run

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 / (n + 1))
        torch.manual_seed(1)
        call: Callable[..., Tensor] = step
        losses = []
        for index, batch in enumerate(batches):
            if graphed and index == begun:
                call = GraphedStep(step, net, optimizer, rehearsed)
            losses.append(float(call(batch)))
            if index >= begun and graphed:
                assert [float(r) for r in call.rates] == pytest.approx(
                    [g["lr"] for g in optimizer.param_groups]
                )
            schedule.step()
        ends.append([torch.tensor(losses), *net.state_dict().values()])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_steps_that_cannot_be_captured_run_one_by_one(
    train_run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(step: Callable[[], Tensor]) -> Callable[[], object]:
        step()
        raise RuntimeError("operation not permitted when stream is\ncapturing")

    words = ["data.batch_size=32", "optim=sgd"]
    usual = train_run(*words, "name=usual")
    monkeypatch.setattr("kanzoo.training.graph.capture_cuda", refuse)
    monkeypatch.setattr("kanzoo.run.fit.check_machine", lambda _: None)
    accelerated = "trainer.accelerator=auto"
    found = train_run(*words, "name=graphed", accelerated, "trainer.cuda_graph=true")
    assert found["val"] == pytest.approx(usual["val"])
    (said,) = [r.getMessage() for r in caplog.records if "cuda_graph" in r.getMessage()]
    assert said.endswith("operation not permitted when stream is capturing")


def test_a_capture_that_breaks_off_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the stream as before, with random numbers that no graph holds."""
    current, random = object(), object()
    calls: list[tuple[str, object]] = []
    generator = SimpleNamespace(
        clone_state=lambda: random,
        graphsafe_set_state=lambda state: calls.append(("random", state)),
    )

    @contextmanager
    def inside(*_: object, **__: object) -> Iterator[None]:
        yield

    fake = SimpleNamespace(
        current_stream=lambda: current,
        set_stream=lambda stream: calls.append(("stream", stream)),
        Stream=lambda: SimpleNamespace(wait_stream=lambda _: None),
        default_generators=[generator],
        current_device=lambda: 0,
        CUDAGraph=lambda: SimpleNamespace(replay=None),
        stream=inside,
        graph=inside,
    )
    monkeypatch.setattr("kanzoo.training.graph.torch.cuda", fake)

    def step() -> Tensor:
        raise RuntimeError("operation not permitted")

    with pytest.raises(RuntimeError, match="not permitted"):
        capture_cuda(step)
    assert calls == [("stream", current), ("random", random)]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "trainer.accelerator=cpu"),
        (["trainer=gpu", "trainer.devices=2"], "several processes"),
        (["trainer=gpu", "trainer.accumulate_grad_batches=2"], "accumulate_grad_batches"),
        (["trainer=gpu", "callbacks=grid"], "callbacks.grid"),
        (["trainer=gpu", "trainer.precision=16-mixed"], "16-mixed"),
    ],
)
def test_what_no_graph_can_hold_is_refused(words: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match="cuda_graph=true cannot be had with") as refusal:
        build(RunConfig, compose("train", ["trainer.cuda_graph=true", *words]))
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    ("node", "fits"),
    [
        ({"_target_": "torch.optim.Adam"}, True),
        ({"_target_": "torch.optim.SGD", "momentum": 0.9}, True),
        ({"_target_": "torch.optim.SGD", "dampening": 0.1}, False),
        ({"_target_": "torch.optim.Adagrad"}, False),  # counts its steps on the host
        ({"_target_": "torch.optim.NAdam"}, False),  # begins with a product of one
    ],
)
def test_optimisers_of_graphs(node: dict[str, Any], fits: bool) -> None:
    expected = nullcontext() if fits else pytest.raises(ValueError, match="needs optim=adam")
    with expected:
        optim.check_graphed(node)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_graphs_need_a_gpu_of_nvidia() -> None:
    config = build(RunConfig, compose("train", ["trainer=ddp", "trainer.devices=1"]))
    options = {**vars(config.trainer), "strategy": "auto", "cuda_graph": True}
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        check_machine(type(config.trainer)(**options))


def test_compiled_training_is_the_same_training(
    train_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with an incomplete last batch of validation, and compiled once."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(
        "kanzoo.training.compiled.torch.compile",
        lambda net, backend: torch._dynamo.optimize(counter)(net),
    )
    words = ["data.batch_size=48", "layers=kan", "layers.backend=dense"]
    usual = train_run(*words, "name=usual")
    found = train_run(*words, "name=compiled", "trainer.compile=true")
    assert counter.frame_count == 1
    for split in ("val", "test"):
        assert found[split] == pytest.approx(usual[split], rel=1e-4)


def test_a_network_that_cannot_be_compiled_is_trained(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler")

    net, batches = net_and_batches()
    net.eval()
    compiled = CompiledNet(net, backend=broken)  # type: ignore[arg-type]
    for x, _ in batches[:2]:
        assert torch.equal(compiled(x), net(x))
    (said,) = [r.getMessage() for r in caplog.records if r.name == "kanzoo"]
    assert "trained as it is" in said
    assert "no compiler" in said
    assert "\n" not in said


@pytest.mark.slow
def test_inductor_compiles_a_run(train_run: Run, caplog: pytest.LogCaptureFixture) -> None:
    words = ["data.batch_size=48", "layers=kan"]
    usual = train_run(*words, "name=usual")
    found = train_run(*words, "name=compiled", "trainer.compile=true")
    assert found["val"] == pytest.approx(usual["val"], rel=1e-3)
    assert "not compiled" not in caplog.text


class FakeEvent:
    """An event of a device that notes itself a millisecond after the one before."""

    noted = 0

    def __init__(self, device: object, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        FakeEvent.noted += 1
        self.time = float(FakeEvent.noted)

    def elapsed_time(self, other: "FakeEvent") -> float:
        return other.time - self.time

    def synchronize(self) -> None:
        FakeEvent.waits += 1

    waits = 0


def test_the_timer_waits_for_no_device_until_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure.torch, "Event", FakeEvent)
    timer, module = StepTimer(), SimpleNamespace(device=torch.device("meta"))
    arguments: Any = (None, module, None, 0)
    for _ in range(60):
        timer.on_train_batch_start(*arguments)
        timer.on_train_batch_end(*arguments[:2], None, *arguments[2:])
    assert FakeEvent.waits == 0
    assert timer.steps == [0.001] * 51
    assert timer.step_ms() == 1.0
    assert FakeEvent.waits == 1


def test_utilisation_is_of_the_cards_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    cuda = torch.device("cuda")
    # 10^12 forward, 3 x 10^12 in 10 ms: 300 TFLOP/s.
    assert cards.utilisation(10, 10**12, "bf16-mixed", cuda) == pytest.approx(300 / 989)
    assert cards.utilisation(10, 10**12, "tf32", cuda, devices=2) == pytest.approx(150 / 495)
    assert cards.utilisation(10, 10**12, "64-true", cuda) is None
    assert cards.utilisation(10, 10**12, "tf32", torch.device("cpu")) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Voodoo 2")
    assert cards.utilisation(10, 10**12, "tf32", cuda) is None


def test_tf32_lasts_as_long_as_the_run(train_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from kanzoo.training.task import Task

    seen = set()
    plain = Task.training_step

    def noted(self: Task, *args: Any) -> Tensor:
        seen.add(torch.get_float32_matmul_precision())
        return plain(self, *args)

    monkeypatch.setattr(Task, "training_step", noted)
    before = torch.get_float32_matmul_precision()
    train_run("trainer.precision=tf32", "trainer.max_epochs=1")
    assert seen == {"high"}
    assert torch.get_float32_matmul_precision() == before


def test_optimisers_keep_how_they_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that was saved on another device brings its numbers, not its implementation."""
    net, _ = net_and_batches()
    node = {"_target_": "torch.optim.AdamW", "lr": 0.01}
    plain = build_optimizer(node, net)
    assert plain.param_groups[0]["fused"] is None
    saved = build_optimizer({**node, "lr": 0.5}, net, fused=True).state_dict()
    plain.load_state_dict(saved)
    assert plain.param_groups[0]["fused"] is None
    assert plain.param_groups[0]["lr"] == 0.5
    monkeypatch.setattr(optim, "FUSED", ("cpu",))
    assert build_optimizer(node, net).param_groups[0]["fused"]
    assert not build_optimizer(node, net, fused=False).param_groups[0]["fused"]
