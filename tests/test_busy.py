"""Whether a command notices that other processes slow it down."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_info, threadpool_limits

from kanzoo.benchmark.load import measure
from kanzoo.estimators import regressor
from kanzoo.estimators.regressor import KANRegressor
from kanzoo.run import busy
from kanzoo.training import waiting


def test_time_that_a_process_waited_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "schedstat"
    for text, factor in {
        "2000000000 3000000000 17": 2.5,
        "2000000000 0 17": 1.0,
        "100 300 17": 1.0,  # too short to say
        "nonsense": 1.0,
        "": 1.0,
    }.items():
        path.write_text(text)
        assert busy.slowdown(path) == factor
    assert busy.slowdown(tmp_path / "missing") == 1.0
    for factor, said in ((1.29, False), (1.31, True)):
        monkeypatch.setattr(busy, "slowdown", lambda factor=factor: factor)
        assert bool(busy.busy_line()) is said


def test_threads_wait_asleep_while_others_need_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        numbers = torch.zeros(2**16)
        with waiting.second_team():
            numbers.add_(1.0)
            began = time.process_time()
            for _ in range(20):
                numbers.add_(1.0)
                time.sleep(0.005)
            seconds = time.process_time() - began
        held: list[bool] = []
        path, entered = tmp_path / "stat", threading.Event()

        def others(path: Path, end: threading.Event, seconds: float) -> float | None:
            held.append(threading.active_count() > before + 1)
            share = next(shares, None)
            if share is None:
                entered.set()
            return share

        core = min(os.sched_getaffinity(0))
        path.write_text(f"cpu{core} 1 2 3 4 5 6 7 8 9 10\n")
        before = threading.active_count()
        shares = iter([0.1, 0.2, 0.4, 0.2, 0.1, 0.2])
        monkeypatch.setattr(waiting, "others", others)
        with waiting.sleeping_while_busy(path):
            assert entered.wait(20)
        assert held == [False, False, False, True, True, False, False]
        assert threading.active_count() == before
    finally:
        torch.set_num_threads(threads)
    if "libgomp" in Path("/proc/self/maps").read_text():
        assert seconds < 0.05  # of the processor; 0.1 and more where they spin


def test_estimators_leave_cores_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's BLAS has one thread while an estimator fits, whose threads spin at others' cost."""

    def threads() -> set[int]:
        return {
            library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
        }

    x = np.random.default_rng(0).normal(size=(50, 2))
    inside: list[set[int]] = []
    discover = regressor.discover

    def looked_at(*arguments: Any, **options: Any) -> Any:
        inside.append(threads())
        return discover(*arguments, **options)

    monkeypatch.setattr(regressor, "discover", looked_at)
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        KANRegressor(formula="auto").fit(x, x[:, 0] * x[:, 1])
        assert threads() == before
    assert inside == [{1}]
    with pytest.warns(ConvergenceWarning) as said:
        KANRegressor(formula="auto").fit(x[:5], x[:5, 0] * x[:5, 1] + np.sin(9 * x[:5, 0]))
    assert said[0].filename == __file__  # the line that fits, not one in between


def test_what_other_processes_take_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cores = tmp_path / "stat", sorted(os.sched_getaffinity(0))

    class Wait(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            now[0] += 1.0
            write(120)
            return False

    def write(ticks: int) -> None:
        path.write_text("".join(f"cpu{core} {ticks} 0 0 9 9 0 0 0 9 9\n" for core in cores))

    now = [5.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "process_time", lambda: now[0] / 10)
    write(50)
    share = waiting.others(path, Wait(), 1.0)
    ticks = os.sysconf("SC_CLK_TCK")
    assert share == pytest.approx(70 / ticks - 0.1 / len(cores))
    assert waiting.others(tmp_path / "missing", Wait(), 1.0) is None


@pytest.mark.slow
def test_steps_are_timed_alone_and_beside_others() -> None:
    rows = list(measure(1, 0.1, {"as it is": {}}))
    assert [row.net for row in rows] == ["MLP", "KAN", "formula"]
    for row in rows:
        assert row.alone_ms > 0
        assert row.idle_cost == 1.0
        assert row.beside_fair == pytest.approx(row.beside_ms / row.alone_ms / 2)
