"""Where a run lives: a folder that follows from its configuration, and what is written there."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout

from kanzoo.errors import DIVERGED, BusyError
from kanzoo.files import read_json, read_yaml, write_arrays, write_atomic

Config = dict[str, Any]  # plain values, as YAML and JSON hold them

# What does not change the result of a run: these keys name, place or show it.
VOLATILE = (
    "name", "runs", "seed", "overwrite", "choices", "logger", "data.root", "data.download",
    "callbacks.progress", "callbacks.pictures", "callbacks.checkpoint_minutes",
    # Where and by how many devices it is computed, which rounding alone tells apart.
    "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy",
    "trainer.resident_data", "trainer.compile", "trainer.cuda_graph",
)  # fmt: skip
FORMAT = 2  # of what a run and a study write; class paths were part of the identity in 1


@dataclass(frozen=True)
class RunDir:
    """The folder `RUNS/NAME/DATA/MODEL-LAYERS[-BASIS]-HASH/seedS` of a configuration."""

    path: Path
    config: dict[str, Any]
    config_hash: str

    @classmethod
    def of(cls, config: dict[str, Any]) -> "RunDir":
        if not re.fullmatch(r"[A-Za-z0-9_][\w.+-]{0,199}", config["name"]):
            raise ValueError(
                f"name must be a plain folder name of at most 200 letters, digits and _ . + -, "
                f"got {config['name']!r}"
            )
        choices = config["choices"]
        digest = hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()
        parts = [choices["model"], choices["layers"]]
        if is_kan(config):
            parts.append(choices["basis"])
        path = Path(config["runs"]) / config["name"] / choices["data"]
        path = path / "-".join([*parts, digest[:8]]) / f"seed{config['seed']}"
        return cls(path, config, digest[:8])

    @property
    def last_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def previous_checkpoint(self) -> Path:
        """The one before the last, while the run is not finished."""
        return self.path / "checkpoints" / "previous.ckpt"

    @property
    def identity(self) -> str:
        """What tells this run from any other, wherever its folder is."""
        return f"{self.config_hash}-seed{self.config['seed']}"

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run, None for a missing or unfinished one."""
        try:
            result = read_json(self.path / "result.json")
        except (FileNotFoundError, ValueError):
            return None
        is_finished = isinstance(result, dict) and result.get("status") == "finished"
        return result if is_finished else None

    @property
    def failure(self) -> str:
        """Why a study counts this run as failed or diverged, empty where it does not."""
        path = self.path / "failure.txt"
        return path.read_text(encoding="utf-8").strip() if path.is_file() else ""

    @property
    def has_ended(self) -> bool:
        """Whether a study has nothing to run here: it has finished or diverged."""
        return self.result() is not None or self.failure.startswith(DIVERGED)

    def check_config(self) -> None:
        """Raise a `ValueError` that names the keys in which the saved configuration differs."""
        path = self.path / "config.yaml"
        if not path.is_file():
            return
        content = read_config(path)
        try:
            saved = flatten(identity(content))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is damaged: choose another name or set overwrite=true"
            ) from error
        new = flatten(identity(self.config))
        keys = sorted(k for k in saved.keys() | new.keys() if saved.get(k) != new.get(k))
        if keys:
            raise ValueError(
                f"{self.path} holds a run of another configuration; these keys differ: "
                f"{', '.join(keys)}; choose another name or set overwrite=true"
            )

    @property
    def _lock_file(self) -> Path:
        return self.path / "checkpoints" / ".lock"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold this run; `BusyError` where another process does. The end of a process frees it."""
        self._lock_file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._lock_file)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise BusyError(f"{self.path} is being trained by another process") from None
        try:
            yield
        finally:
            if self.result() is not None:  # whoever waits for this very file finds the result
                self._lock_file.unlink(missing_ok=True)
            lock.release()

    def tidy(self) -> None:
        """Remove what a process left of a finished run that was killed before it could."""
        with contextlib.suppress(BusyError, OSError):
            SeedsDir.of_runs([self]).remove_checkpoints()
            if self._lock_file.is_file():
                with self.lock():
                    pass

    def is_locked(self) -> bool:
        """Whether a process is training this run."""
        if not self._lock_file.is_file():
            return False
        try:
            with self.lock():
                return False
        except BusyError:
            return True

    def clear(self) -> None:
        """Forget an earlier run in this folder."""
        for name in ("result.json", "items.npz", "config.yaml", "metrics.csv", "failure.txt"):
            (self.path / name).unlink(missing_ok=True)
        checkpoints = self.path / "checkpoints"
        if checkpoints.is_symlink():  # what lies elsewhere is not ours to remove
            raise ValueError(f"{checkpoints} is a link to another folder: remove it")
        for file in (*checkpoints.glob("*.ckpt"), *checkpoints.glob("*.json")):
            file.unlink()
        for name in ("pictures", "explain"):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def write_config(self) -> None:
        """Write `config.yaml`, the resolved configuration."""
        self.path.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, **self.config}
        write_atomic(self.path / "config.yaml", yaml.safe_dump(content, sort_keys=False))

    def write_items(self, items: Mapping[str, np.ndarray]) -> None:
        """Write `items.npz`, what is kept of every test sample, in one step."""
        write_arrays(self.path / "items.npz", items)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write `result.json` in one step: whoever sees the file sees a whole result."""
        write_atomic(self.path / "result.json", json.dumps(result, indent=2) + "\n")

    def write_failure(self, reason: str) -> None:
        """Leave the reason why there is no result, for the report."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path / "failure.txt", reason + "\n")


@dataclass(frozen=True)
class SeedsDir(RunDir):
    """Where runs that are trained together keep the state of their training, until they end.

    That is the folder of the first of them.
    """

    seeds: tuple[int, ...]

    @classmethod
    def of_runs(cls, folders: Sequence[RunDir]) -> "SeedsDir":
        first = folders[0]
        seeds = tuple(folder.config["seed"] for folder in folders)
        return cls(first.path, first.config, first.config_hash, seeds)

    @property
    def last_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "seeds.ckpt"

    @property
    def previous_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "seeds_previous.ckpt"

    @property
    def identity(self) -> str:
        return f"{self.config_hash}-seeds{','.join(map(str, self.seeds))}"

    @property
    def checkpoints(self) -> list[Path]:
        """What is there to go on from, the last one first."""
        return [p for p in (self.last_checkpoint, self.previous_checkpoint) if p.is_file()]

    def remove_checkpoints(self) -> None:
        """Remove what nobody goes on from any more."""
        for path in self.checkpoints:
            path.unlink(missing_ok=True)


def is_first_process() -> bool:
    """False in the processes that a multi-process trainer starts beside the first."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def read_config(path: Path) -> dict[str, Any]:
    """The content of a file that a run or a study wrote; `ValueError` for one of another format."""
    content = read_yaml(path)
    stored = content.pop("format", 1)
    if stored != FORMAT:
        raise ValueError(
            f"{path} is of format {stored}, this version of kanzoo reads and writes {FORMAT}: "
            "choose another name or set overwrite=true"
        )
    return content


def is_kan(config: dict[str, Any]) -> bool:
    """Whether any layer of the model is KAN, so that its basis matters."""
    return bool(config["layers"]["kan_roles"])


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that decides the result, the seed aside.

    A class stands there by the name that was chosen for it, so that it may move to another module.
    """
    kept = {
        group: (
            {k: v for k, v in content.items() if f"{group}.{k}" not in VOLATILE and k != "_target_"}
            if isinstance(content, dict)
            else content
        )
        for group, content in config.items()
        if group not in VOLATILE
    }
    chosen = {
        group: config["choices"][group]
        for group, content in config.items()
        if isinstance(content, dict) and "_target_" in content and group in config["choices"]
    }
    if kept["callbacks"].get("starts", 1) == 1:  # then nothing is chosen
        unused = ("starts", "start_epochs")
        kept["callbacks"] = {k: v for k, v in kept["callbacks"].items() if k not in unused}
    kept["choices"] = {group: name for group, name in chosen.items() if group in kept}
    if not is_kan(config):
        del kept["basis"]
        kept["choices"].pop("basis", None)
        if kept.get("budget") is None:
            del kept["match"]
        kept["layers"] = {
            k: v for k, v in config["layers"].items() if k not in ("residual", "squash", "backend")
        }
        if "grid" in kept["callbacks"]:
            kept["callbacks"] = {**kept["callbacks"], "grid": None}  # there is none
    if not is_kan(config) or not config["layers"].get("edge_scale"):  # then there is none
        kept["layers"] = {k: v for k, v in kept["layers"].items() if k != "edge_scale"}
    if not is_kan(config) or config["match"] in ("width", "none"):  # then nothing is solved
        kept = {k: v for k, v in kept.items() if k not in ("match_scope", "match_by")}
    return kept


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@cache
def git_sha() -> str | None:
    """Commit of the checkout that this package runs from, None for an installed package."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        folder = Path(__file__).resolve().parents[1]
        if (folder / ".git").exists():
            command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
            return subprocess.run(
                command, check=True, capture_output=True, text=True
            ).stdout.strip()
    return None
