"""The moments at which a process may be killed: everything that it does to files below a folder."""

import builtins
import errno
import io
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any


class Points:
    """Counts what a process does to files below a folder, and keeps what is there at some points.

    A process that is killed leaves what the operating system was given: a copy of the folder.
    """

    def __init__(
        self, folder: Path, states: Path, places: Collection[int], full_from: int | None
    ) -> None:
        self.folder = str(folder.resolve())
        self.states = states
        self.places = places
        self.full_from = full_from
        self.count = 0

    def holds(self, path: object) -> bool:
        is_path = isinstance(path, str | os.PathLike)
        return is_path and os.path.abspath(os.fspath(path)).startswith(self.folder)  # type: ignore[arg-type]

    def reach(self, path: object = None, *, takes_space: bool = True) -> None:
        if self.count in self.places:
            shutil.copytree(self.folder, self.states / str(self.count))
        self.count += 1
        if takes_space and self.full_from is not None and self.count > self.full_from:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def install(self) -> None:
        for name in ("replace", "rename", "unlink", "remove", "mkdir", "rmdir"):
            setattr(os, name, self._watched(getattr(os, name), takes_space=name == "mkdir"))
        sync = os.fsync

        def fsync(file: int) -> None:
            self.reach()
            sync(file)

        os.fsync = fsync
        builtins.open = io.open = self._opened(io.open)

    def _watched(self, plain: Callable[..., Any], *, takes_space: bool) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **options: Any) -> Any:
            if self.holds(path):
                self.reach(path, takes_space=takes_space)
            return plain(path, *args, **options)

        return call

    def _opened(self, plain: Callable[..., Any]) -> Any:
        points = self

        class Torn(io.FileIO):
            def write(self, data: Any) -> int:
                view = memoryview(data).cast("B")
                half = super().write(view[: len(view) // 2])
                points.reach()
                return half + super().write(view[half:])

        def opened(
            file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None,
            errors: str | None = None, newline: str | None = None, *args: Any, **options: Any,
        ) -> Any:  # fmt: skip
            if not set(mode) & set("wax") or "+" in mode or not points.holds(file):
                return plain(file, mode, buffering, encoding, errors, newline, *args, **options)
            points.reach(file)
            raw = Torn(file, mode.replace("b", "").replace("t", ""))
            binary = io.BufferedWriter(raw)
            return binary if "b" in mode else io.TextIOWrapper(binary, encoding, errors, newline)

        return opened
