"""The Ray engine on real clusters: one of its own, and one of two nodes that loses a node."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine_study
import pytest

from kanzoo.run.config import compose
from kanzoo.study.comparison import build_engine, plan
from kanzoo.study.plan import Cell

pytestmark = [pytest.mark.engines]
SABOTAGE = Path(__file__).parent / "sabotage"


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without room for cells, and two nodes with room for one each."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    path = [str(engine_study.ROOT), str(Path(__file__).parent)]
    monkeypatch.setenv("PYTHONPATH", ":".join(path))  # workers find what a session is given
    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    yield cluster, lambda: cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    cluster.shutdown()


def slow_start(config: dict[str, Any]) -> dict[str, Any]:
    """Notes the attempt and the node, and takes two seconds."""
    import ray

    from kanzoo.rundir import RunDir

    folder = RunDir.of(config)
    with folder.lock():
        node = ray.get_runtime_context().get_node_id()
        (folder.path / f"tried-{time.time_ns()}").write_text(node)
        time.sleep(2)
        folder.write_result({"status": "finished"})
    return {}


def test_cells_of_a_node_that_dies_run_elsewhere(tmp_path: Path, two_nodes: Any) -> None:
    cluster, add_node = two_nodes
    nodes = [add_node(), add_node()]
    words = ("engine=ray", f"engine.address={cluster.address}", "engine.max_retries=1")
    config = engine_study.configured(tmp_path / "runs", *words, seeds=4)
    cells = plan(config)
    engine = build_engine(config)
    engine.check(cells)
    ends: list[tuple[Cell, str]] = []

    def kill_a_node() -> None:
        while not list(tmp_path.rglob("tried-*")):
            time.sleep(0.1)
        (first,) = list(tmp_path.rglob("tried-*"))[:1]
        victim = next(node for node in nodes if node.node_id == first.read_text())
        cluster.remove_node(victim, allow_graceful=False)

    killer = threading.Thread(target=kill_a_node)
    killer.start()
    with engine.session(len(cells), tmp_path, slow_start) as session:
        session.run(cells, lambda cell, reason: ends.append((cell, reason)))
    killer.join()
    assert {reason for _, reason in ends} == {""}
    assert len(ends) == len(cells) == 8
    tries = {cell.folder.path: list(cell.folder.path.glob("tried-*")) for cell in cells}
    assert sorted(len(paths) for paths in tries.values()) == [1] * 7 + [2]
    (twice,) = (paths for paths in tries.values() if len(paths) == 2)
    assert len({path.read_text() for path in twice}) == 2  # on another node


def test_a_study_equals_the_local_one(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    local = tmp_path / "local"
    engine_study.train_here(local, 2)
    # The second time nothing goes wrong any more.
    harm = {
        "SABOTAGE": json.dumps({"0 kan": "segfault", "1 kan": "hang", "1 mlp": "nan"}),
        "SABOTAGE_LOG": str(tmp_path / "log"),
        "PYTHONPATH": str(SABOTAGE),
    }
    words = ("engine=ray", "engine.cell_timeout=20", "engine.max_retries=0")
    runs = tmp_path / "runs"
    code, said = engine_study.finish(runs, 2, *words, **harm)
    assert code == 1, said
    assert "Traceback" not in said
    reasons = {(r["seed"], r["arm"]): r["reason"] for r in engine_study.results(runs)}
    assert reasons == {
        ("0", "kan"): "the worker or its node died",
        ("0", "mlp"): "",
        ("1", "kan"): "took longer than cell_timeout=20 s",
        ("1", "mlp"): "diverged: the loss became nan in epoch 0, by step 2",
    }
    code, said = engine_study.finish(runs, 2, *words)
    assert code == 0, said
    assert "2 of 4 cells to run" in said  # that which diverged is an outcome
    both = [engine_study.results(folder) for folder in (runs, local)]
    ours, alone = [[r for r in rows if (r["seed"], r["arm"]) != ("1", "mlp")] for rows in both]
    assert ours == alone


def test_addresses_without_a_cluster_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ("engine=ray", f"engine.address=127.0.0.1:{port}")
    code, said = engine_study.finish(tmp_path / "runs", 2, *words)
    assert code == 2
    assert said.count("\n") == 1
    assert "no Ray cluster answers" in said
    assert not list(tmp_path.iterdir())
    with socket.socket() as other:  # something answers, but it is no Ray cluster
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ValueError, match="no Ray cluster answers"):
            build_engine(compose("compare", ["engine=ray", f"engine.address={address}"])).check([])
    with pytest.raises(ValueError, match="no Ray cluster answers"):
        build_engine(compose("compare", ["engine=ray", "engine.address=auto"])).check([])


def test_cells_that_ray_cannot_place_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("ray")

    def check(engine_words: list[str], *words: str) -> None:
        cells = plan(
            engine_study.configured(tmp_path / "runs", overrides=[*engine_study.SHORT, *words])
        )
        build_engine(compose("compare", ["engine=ray", *engine_words])).check(cells)

    check([])
    check(["engine.gpus_per_cell=0.25"], "trainer=gpu")
    with pytest.raises(ValueError, match="gpus_per_cell=0"):
        check([], "trainer=gpu")
    with pytest.raises(ValueError, match="devices=2"):
        check(
            ["engine.gpus_per_cell=1"], "trainer=gpu", "trainer.devices=2", "trainer.strategy=ddp"
        )
    with pytest.raises(ValueError, match="num_nodes"):
        check([], "trainer.num_nodes=2")
    with pytest.raises(ValueError, match="this machine has"):
        check(["engine.cpus_per_cell=100000"])
