"""Kills commands as they write, and says whether the same command then ends as if left alone.

    python tests/crash.py train|sweep|seeds|tune|study|explain [--points 50]
    python tests/crash.py random [--points 20]
    python tests/crash.py train|study --full [--points 10]

Everything that reaches a file is a point: a new, renamed or removed file, a folder, a sync, and
every write, half of which is there when the process is killed. Processes are forked from one that
has imported all that they need, so that a point costs little more than the command itself.
"""

import argparse
import contextlib
import copy
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crash_points import Points

from kanzoo import registry

STUDY = """
name: crash
title: Does it go on?
question: Does a study that was killed end as one that was left alone?
data: [functions]
models: {mlp: [model.width=3]}
arms: {mlp: [layers=mlp], kan: [layers=kan_activated, basis=bspline]}
baseline: mlp
match: [params]
controls: false
first_seed: 0
seeds: 2
looks: [2]
margin: 0.01
alpha: 0.05
tune: {trials: TRIALS, finalist_seeds: 1}
overrides: [data.n_train=64, data.n_test=64, data.batch_size=32, trainer.max_epochs=2, logger=csv,
  callbacks.progress=false]
"""
RUN = (
    *("logger=csv", "callbacks.progress=false", "data=functions", "data.function=exp_sin"),
    *("data.n_train=96", "data.n_test=64", "data.batch_size=32", "model=mlp", "match=none"),
)
TRAIN = (
    *(*RUN, "model.width=2", "model.depth=1", "trainer.max_epochs=3", "callbacks.pictures.every=2"),
    *("callbacks.checkpoint_minutes=1e-9", "callbacks.grid={refine: [[1, 7]]}"),
)
SIZES = {  # eight architectures, as small as they come
    "mlp": ("data=digits", "model.width=8", "model.dropout=0.2"),
    "resmlp": ("data=digits", "model.width=8"),
    "convnet": ("data=digits", "model.width=2"),
    "resnet": ("data=digits", "model.width=2"),
    "vit": ("data=digits", "model.width=8", "model.depth=1", "model.heads=2"),
    "mixer": ("data=digits", "model.width=8", "model.depth=1"),
    "rnn": ("data=digits_rows", "model.width=8"),
    "unet": ("data=digits_denoise", "model.width=2"),
}
KINDS = ("train", "sweep", "seeds", "tune", "study", "explain")
TIMES = ("step_time_ms", "train_seconds", "samples_per_second", "machine", "git_sha")
DATED = (".html", ".log", ".md", ".tex", ".json.gz")  # hold times of day, or how long cells took


# --- what is run ---------------------------------------------------------------------------------


def run_here(words: Sequence[str]) -> None:
    """Run a command in this process; a study in it too, cell after cell."""
    import kanzoo.page.style

    kanzoo.page.style.pdf_of = lambda figure: b"%PDF-"  # takes half the time of a report
    command, *rest = words
    if command == "seeds":
        from kanzoo.run.config import compose
        from kanzoo.run.seeds import train_seeds

        config = compose("train", rest)
        ends = train_seeds([{**config, "seed": seed} for seed in range(3)])
        assert ends == [None] * 3, ends
        return
    sys.argv = [command, *rest]
    module = importlib.import_module(f"kanzoo.{command}")
    if command == "compare":
        module.build_engine = lambda config: inline_engine()
    module.main()


def inline_engine() -> Any:
    from kanzoo.study.engines.base import Engine, Session
    from kanzoo.study.engines.cell import run_cell

    class InlineSession(Session):
        def __init__(self, train: Any) -> None:
            super().__init__(0)
            self.train, self.waiting = train, []  # type: ignore[var-annotated]

        def start(self, cells: Any) -> None:
            self.waiting.extend(cells)

        def ended(self) -> Any:
            cell = self.waiting.pop(0)
            return [(cell, run_cell(cell, self.train))]

    class Inline(Engine):
        is_local = True

        def check(self, cells: Any) -> None: ...

        def describe(self, count: int) -> str:
            return "in this process"

        @contextmanager
        def session(self, count: int, folder: Path, train: Any) -> Iterator[Session]:
            yield InlineSession(train)

    return Inline()


class Composed:
    """Composes configurations once: what one fork has composed is there for the following ones."""

    def __init__(self) -> None:
        from kanzoo.run import config

        self.compose, config._compose = config._compose, self  # type: ignore[assignment]
        self.known: dict[tuple[str, ...], Any] = {}

    def __call__(self, config_name: str, overrides: list[str]) -> Any:
        key = (config_name, *overrides)
        if key not in self.known:
            self.known[key] = self.compose(config_name, overrides)
        return copy.deepcopy(self.known[key])


class Bench:
    """Forks commands below a folder; each says what to import and compose for the others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.states = folder / "states"
        self.log = folder / "log.txt"
        self.composed = Composed()

    def fork(
        self,
        words: Sequence[str],
        *,
        places: Collection[int] = (),
        after: float | None = None,
        full_from: int | None = None,
    ) -> int | None:
        """Run a command; how many points it had, or None where it was killed `after` seconds.

        What the folder held at the points in `places` is left below `states`. From the point
        `full_from` on the disk is full: None too, and `SystemExit` if more than a line says so.
        """
        child = os.fork()
        if child == 0:
            self._child(words, places, full_from)
        if after is not None:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return None
        if full_from is not None and os.waitstatus_to_exitcode(status) == 2:
            said = self.log.read_text().splitlines()
            if said[-1].startswith("kanzoo: No space left on device") and "Traceback" not in said:
                return None
        if status != 0:
            raise SystemExit(f"{' '.join(words)} failed:\n{self.log.read_text()[-3000:]}")
        facts = json.loads((self.folder / "facts.json").read_text())
        for name in facts["modules"]:
            if name not in sys.modules:
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
        for path in facts["folders"]:
            registry.add_conf_dir(Path(path))
        for name, *overrides in facts["composed"]:
            self.composed(name, overrides)
        return int(facts["points"])

    def _child(self, words: Sequence[str], places: Collection[int], full_from: int | None) -> None:
        code = 1
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        try:
            os.chdir(self.work)
            points = Points(self.work, self.states, places, full_from)
            points.install()
            try:
                run_here(words)
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            facts = {
                "points": points.count,
                "modules": sorted(sys.modules),
                "folders": [str(path) for path in registry.conf_dirs()],
                "composed": list(self.composed.known),
            }
            (self.folder / "facts.json").write_text(json.dumps(facts))
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def put(self, state: Path | None = None) -> None:
        """Let the working folder be what a point left, or a new one."""
        shutil.rmtree(self.work, ignore_errors=True)
        if state is None:
            self.work.mkdir()
        else:
            shutil.copytree(state, self.work)


# --- what is compared ----------------------------------------------------------------------------


def content_of(path: Path) -> Any:
    """What must not depend on interruptions of a file."""
    import numpy as np
    import pandas as pd
    import torch

    if path.suffix == ".ckpt":
        state = torch.load(path, weights_only=True)["state_dict"]
        return {name: (str(v.dtype), v.tolist()) for name, v in state.items()}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name].tolist() for name in arrays.files}
    if path.name == "result.json":
        return {k: v for k, v in json.loads(path.read_text()).items() if k not in TIMES}
    if path.suffix in DATED or "report" in path.parts:
        if path.suffix != ".csv":
            return path.stat().st_size > 0
        table = pd.read_csv(path)
        timed = [c for c in table if "time" in c or "second" in c or "machine" in c]
        return table.drop(columns=timed).to_csv()
    return path.read_bytes()


def tree(folder: Path) -> dict[str, Any]:
    """All files below a folder by their names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): content_of(path) for path in files}


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    missing = [f"{name} is there once only" for name in one.keys() ^ other.keys()]
    wrong = [name for name in one.keys() & other.keys() if repr(one[name]) != repr(other[name])]
    return missing + [f"{name} differs{_where(one[name], other[name])}" for name in wrong]


def _where(one: Any, other: Any) -> str:
    if not isinstance(one, dict):
        return ""
    keys = [key for key in one.keys() | other.keys() if repr(one.get(key)) != repr(other.get(key))]
    return f" in {', '.join(sorted(keys))}"


# --- campaigns -----------------------------------------------------------------------------------


def kill_everywhere(bench: Bench, name: str, most: int) -> str:
    """Kill a command at `most` of its points, evenly spread; raises `SystemExit` for a difference.

    Points that leave the same files are one kill. Returns a line on what was done.
    """
    bench.put()
    before, words = commands(bench, name)
    bench.put()
    for command in before:
        bench.fork(command)
    start = bench.folder / "start"
    shutil.copytree(bench.work, start)
    count = bench.fork(words)
    assert count
    reference = tree(bench.work)
    most = min(most, count)
    places = {int((i + 0.5) * count / most) for i in range(most)}
    began = time.process_time(), sum(os.times()[2:4])
    bench.put(start)
    bench.fork(words, places=places)
    seen: set[str] = set()
    for state in (None, *sorted(bench.states.iterdir(), key=lambda path: int(path.name))):
        if state is not None:
            if (digest := digest_of(state)) in seen:
                continue
            seen.add(digest)
            bench.put(state)
            bench.fork(words)
        if wrong := differences(reference, tree(bench.work)):
            when = f"killed at point {state.name} of {count}" if state else "left alone again"
            raise SystemExit(f"{name}, {when}: {', '.join(wrong)}")
    seconds = time.process_time() - began[0] + sum(os.times()[2:4]) - began[1]
    return (
        f"{name}: {len(places)} of {count} points, {len(seen)} of them differ, "
        f"{len(reference)} files, {seconds:.0f} s of the processor"
    )


def fill_everywhere(bench: Bench, name: str, most: int) -> str:
    """Let the disk be full from `most` points of a command on, and give it again with space."""
    bench.put()
    _, words = commands(bench, name)
    count = bench.fork(words)
    assert count
    reference = tree(bench.work)
    ends = 0
    for place in sorted({int((i + 0.5) * count / most) for i in range(most)}):
        bench.put()
        ends += bench.fork(words, full_from=place) is None
        left = [path for path in bench.work.rglob("*.tmp") if path.stat().st_size]
        bench.fork(words)
        if left or (wrong := differences(reference, tree(bench.work))):
            what = ", ".join(map(str, left) if left else wrong)
            raise SystemExit(f"{name}, disk full from point {place} of {count}: {what}")
    return f"{name}: full from {most} of {count} points, {ends} of them end in one line"


def digest_of(folder: Path) -> str:
    """What tells the files below a folder from others, the numbers of processes aside."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = re.sub(r"\.\d+\.tmp$", ".tmp", str(path.relative_to(folder)))
        digest.update(name.encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
    return digest.hexdigest()


def commands(bench: Bench, name: str) -> tuple[list[list[str]], list[str]]:
    """What is run first, and what is killed."""
    if name == "train":
        return [], ["train", *TRAIN]
    if name == "sweep":
        words = [*RUN, "model.width=2", "trainer.max_epochs=1", "layers=kan_activated"]
        return [], ["train", "-m", *words, "seed=0,1"]
    if name == "seeds":
        words = [*RUN, "model.width=2", "trainer.max_epochs=2", "layers=kan_activated"]
        return [], ["seeds", *words, "callbacks.checkpoint_minutes=1e-9"]
    if name == "explain":
        train = ["train", *RUN, "model.width=3", "trainer.max_epochs=1", "name=seen"]
        bench.fork(train)
        (run,) = (p.parent.relative_to(bench.work) for p in bench.work.rglob("result.json"))
        return [train], ["explain", f"run={run}", "edges=4"]
    conf = bench.folder / "conf" / "study"
    conf.mkdir(parents=True, exist_ok=True)
    trials = {"tune": "2", "study": "0"}[name]
    (conf / "crash.yaml").write_text(STUDY.replace("TRIALS", trials))
    return [], ["compare", "--config-dir", str(conf.parent), "study=crash"]


def kill_at_random(bench: Bench, most: int, seed: int) -> str:
    """Kill training of eight architectures at random times."""
    draw = random.Random(seed)
    kills = 0
    for index, (model, sizes) in enumerate(SIZES.items()):
        words = [
            *("train", f"model={model}", *sizes, "logger=csv", "callbacks.progress=false"),
            *("data.limit_train=128", "data.batch_size=32", "trainer.max_epochs=4"),
            *("match=none", "callbacks.checkpoint_minutes=1e-9"),
        ]
        bench.put()
        bench.fork(words)  # imports and kernels
        bench.put()
        began = time.monotonic()
        bench.fork(words)
        seconds = time.monotonic() - began
        reference = tree(bench.work)
        for _ in range(most * (index + 1) // len(SIZES) - most * index // len(SIZES)):
            bench.put()
            while bench.fork(words, after=seconds * draw.uniform(0.2, 0.95)) is not None:
                bench.put()  # it was faster
            kills += 1
            bench.fork(words)
            if wrong := differences(reference, tree(bench.work)):
                raise SystemExit(f"{model}, killed at random: {', '.join(wrong)}")
    return f"random: {kills} kills of {len(SIZES)} architectures, all ends identical"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=[*KINDS, "random"])
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--full", action="store_true", help="the disk is full from there on")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # threads do not outlast a fork
    from kanzoo.run.config import compose

    compose("train", [])  # what this keeps serves all forks
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder).resolve())
        if chosen.name == "random":
            print(kill_at_random(bench, chosen.points, chosen.seed))
        else:
            campaign = fill_everywhere if chosen.full else kill_everywhere
            print(campaign(bench, chosen.name, chosen.points))


if __name__ == "__main__":
    main()
