"""What may come from strangers: run folders, caches and values of the environment."""

import copy
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import run_script
from fuzzing import in_process

from kanzoo.kernels.native import build
from kanzoo.run.config import compose
from kanzoo.run.load import load_run
from kanzoo.rundir import RunDir
from kanzoo.train import main

FOREIGN = (
    "lightning.pytorch.Trainer",  # of a library that is there
    "torch.nn.Linear",
    "kanzoo.study.engines.local.LocalEngine",  # of another group
    "os.system",
    None,
    ["kanzoo"],
)
WRONG = (None, 3, -1, "x", [], {}, [1], 1e300, True)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    from kanzoo.run.fit import train

    words = ["model.width=4", "match=none", "logger=csv", "callbacks.progress=false"]
    words += ["trainer.max_epochs=1", "data.limit_train=64"]
    runs = tmp_path_factory.mktemp("runs")
    train(compose("train", [*words, f"runs={runs}"]))
    (folder,) = runs.glob("*/*/*/seed0")
    return folder


def keys(node: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in node.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from keys(value, (*above, key))


def use(folder: Path, config: dict[str, Any]) -> None:
    """What evaluate, explain and the next training do with a run folder."""
    RunDir(folder, config, "").result()
    RunDir(folder, config, "").check_config()
    load_run(folder).validation_sample()


def test_a_class_must_be_one_that_its_group_names(run_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run_folder, tmp_path / "run")
    content = yaml.safe_load((folder / "config.yaml").read_text())
    for group in ("model", "basis", "data", "task", "sched", "optim", "layers"):
        for target in FOREIGN:
            evil = {**content, group: {**content[group], "_target_": target}}
            (folder / "config.yaml").write_text(yaml.safe_dump(evil))
            with pytest.raises(ValueError, match=rf"{group}\._target_ .*not allowed.*kanzoo|torch"):
                load_run(folder)


def test_damaged_configurations_end_in_one_line(run_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run_folder, tmp_path / "run")
    content = yaml.safe_load((folder / "config.yaml").read_text())
    config = {key: value for key, value in content.items() if key != "format"}
    refused = 0
    for number, path in enumerate(keys(content)):
        for value in (..., WRONG[number % len(WRONG)], WRONG[(4 * number + 3) % len(WRONG)]):
            damaged = copy.deepcopy(content)
            node = damaged
            for key in path[:-1]:
                node = node[key]
            if value is ...:
                del node[path[-1]]
            else:
                node[path[-1]] = value
            (folder / "config.yaml").write_text(yaml.safe_dump(damaged))
            refused += ends_in_one_line(folder, config)
    assert refused > 150


def test_damaged_files_end_in_one_line(run_folder: Path, tmp_path: Path) -> None:
    content = yaml.safe_load((run_folder / "config.yaml").read_text())
    config = {key: value for key, value in content.items() if key != "format"}
    rng = random.Random(0)
    for file in (p.relative_to(run_folder) for p in run_folder.rglob("*") if p.is_file()):
        good = (run_folder / file).read_bytes()
        flipped = bytearray(good)
        for _ in range(20 if good else 0):
            flipped[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        for data in (b"", good[: len(good) // 2], bytes(flipped), b"\x80\x02hello", None):
            folder = shutil.copytree(run_folder, tmp_path / "run", dirs_exist_ok=True)
            (folder / file).unlink() if data is None else (folder / file).write_bytes(data)
            ends_in_one_line(folder, config)


def ends_in_one_line(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a folder is refused; anything but a `ValueError` of one line fails the test."""
    line = None
    try:
        use(folder, config)
    except ValueError as error:
        line = str(error)
    assert "\n" not in (line or "")
    return line is not None


def test_values_of_the_environment_are_not_saved() -> None:
    for word in (
        "logger.wandb.group=${oc.env:HOME}",
        "name=${oc.env:HOME}",
        "logger.wandb.tags=[a,'${oc.env:HOME}']",
        'logger.wandb.group="${oc.decode:${oc.env:HOME}}"',
    ):
        with pytest.raises(ValueError, match="environment"):
            compose("train", ["logger=wandb", word])
    assert compose("train", ["data=mnist", "data.root=${oc.env:HOME}"])["data"]["root"]
    assert compose("train", ["name=a", "logger=wandb", "logger.wandb.group=${name}"])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("KANZOO_CACHE", str(folder))
    return folder


def test_a_cache_that_others_may_write_is_not_used(cache: Path) -> None:
    assert build._write_directory() == cache
    for mode in (0o770, 0o777, 0o702):
        cache.chmod(mode)
        private = build._write_directory()
        assert private != cache
        assert private.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(build.unavailable_reason() is not None, reason="no compiler")
def test_a_binary_of_somebody_else_is_built_again(cache: Path) -> None:
    before = os.umask(0o002)
    try:
        binary = build.build("functions", None, "float")
    finally:
        os.umask(before)
    assert build.is_intact(binary)
    binary.chmod(0o722)
    assert not build.is_intact(binary)
    binary.chmod(0o700)
    elsewhere = binary.rename(cache / "elsewhere.so")
    binary.symlink_to(elsewhere)
    assert not build.is_intact(binary)


def test_locks_follow_no_links(cache: Path) -> None:
    victim = cache / "victim"
    victim.write_text("precious")
    (cache / "a.lock").symlink_to(victim)
    with pytest.raises(OSError, match=r"a\.lock"), build._locked(cache / "a.lock"):
        pass
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["++trainer=cpu"], "chosen without +: trainer=cpu"),
        (["name=a(b"], "'name=a(b' cannot be read: it must be KEY=VALUE"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["-cn", "other"], "the root file is fixed"),
        (["-cd", "missing"], "missing is not a folder"),
        (["runs=/proc/nowhere", "logger=csv", "trainer.max_epochs=1"], "/proc/nowhere"),
    ],
)
def test_one_line_for_what_the_command_line_cannot_be(
    words: list[str], line: str, tmp_path: Path
) -> None:
    outcome = in_process(main, words, tmp_path)
    assert outcome.code in (1, 2)
    assert line in outcome.error
    assert outcome.error.count("\n") == 1
    assert not outcome.files


def test_a_folder_of_configuration_files(tmp_path: Path) -> None:
    """Flags of Hydra work in any place; files of a folder are choices as those of `conf/` are."""
    (tmp_path / "mine" / "basis").mkdir(parents=True)
    (tmp_path / "mine" / "study").mkdir()
    options = "grid_size: 4\nspline_order: 2\ngrid_range: [-2, 2]\ngrid: uniform\n"
    basis = f"_target_: kanzoo.bases.spline.BSpline\n{options}extrapolation: linear\n"
    (tmp_path / "mine" / "basis" / "mine.yaml").write_text(basis)
    study = (Path(__file__).parents[1] / "conf" / "study" / "demo.yaml").read_text()
    study = study.replace("name: demo", "name: mine").replace("basis=rbf", "basis=mine")
    (tmp_path / "mine" / "study" / "mine.yaml").write_text(study)
    done = run_script("train", "-c", "job", "-cd", "mine", "basis=mine", "seed=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["basis"]["spline_order"] == 2
    search = f"hydra.searchpath=[file://{tmp_path}/mine]"
    done = run_script("compare", "study=mine", search, "-c", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "basis=mine" in yaml.safe_load(done.stdout)["study"]["arms"]["kan-rbf"]
