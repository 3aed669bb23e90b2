"""Whether a command notices that other processes slow it down."""

from pathlib import Path

import pytest

from kanzoo.benchmark.load import measure
from kanzoo.run import busy


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


@pytest.mark.slow
def test_steps_are_timed_alone_and_beside_others() -> None:
    (mlp, kan) = measure(1, 0.1, {"as it is": {}})
    for row in (mlp, kan):
        assert row.alone_ms > 0
        assert row.idle_cost == 1.0
        assert row.beside_fair == pytest.approx(row.beside_ms / row.alone_ms / 2)
