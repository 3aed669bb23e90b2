"""Files of downloaded data sets: whether they are whole, how they arrive and are read."""

import getpass
import hashlib
import os
import pickle
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class File(NamedTuple):
    """What is known of a file: its size in bytes and its checksums, None where unknown."""

    size: int | None = None
    md5: str | None = None
    sha256: str | None = None


def missing(folder: Path, files: Mapping[str, File]) -> list[str]:
    """Return the names of the files that are not in `folder`."""
    return [name for name in files if not (folder / name).is_file()]


def check_sizes(folder: Path, files: Mapping[str, File]) -> None:
    """Raise `ValueError` for the first file whose size is wrong; files that are not there pass."""
    for name, known in files.items():
        path = folder / name
        if known.size is not None and path.is_file() and path.stat().st_size != known.size:
            raise ValueError(
                f"{path} is corrupt: it has {path.stat().st_size} bytes instead of {known.size}; "
                "delete it and fetch it again"
            )


def check_content(folder: Path, files: Mapping[str, File]) -> None:
    """Raise `ValueError` for the first file whose checksum is wrong."""
    for name, known in files.items():
        for kind, expected in (("md5", known.md5), ("sha256", known.sha256)):
            if expected is None:
                continue
            algorithm = partial(hashlib.new, kind, usedforsecurity=False)
            with open(folder / name, "rb") as file:
                digest = hashlib.file_digest(file, algorithm)
            if digest.hexdigest() != expected:
                raise ValueError(
                    f"{folder / name} is corrupt: its {kind} checksum is {digest.hexdigest()} "
                    f"instead of {expected}; delete it and fetch it again"
                )


def existing(folder: Path) -> Path:
    """Return `folder`, or the nearest of its parents that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def writable(folder: Path) -> bool:
    """Tell whether `folder`, or the nearest parent that exists, can be written to."""
    folder = existing(folder)
    # The superuser may write anywhere, yet a folder marked read-only is meant to stay as it is.
    marked = folder.is_dir() and folder.stat().st_mode & 0o222
    return bool(marked) and os.access(folder, os.W_OK)


def download(
    root: Path, folder: str, files: Mapping[str, File], fetch: Callable[[Path], object]
) -> None:
    """Let `fetch` fill an empty directory laid out as `root`, then move what is missing.

    Several processes may ask at once: one downloads, the others wait. Files appear whole in
    `root / folder`, and a failure leaves nothing behind. Raises `OSError` or `RuntimeError` then.
    """
    from filelock import FileLock

    target = root / folder
    key = hashlib.sha256(f"{getpass.getuser()} {target.resolve()}".encode()).hexdigest()[:16]
    with FileLock(Path(gettempdir()) / f"kanzoo-{key}.lock"):
        if not missing(target, files):
            return
        # Beside the target, since only inside one file system is moving a file atomic.
        with TemporaryDirectory(dir=existing(target), prefix=".download-") as scratch:
            fetch(Path(scratch))
            target.mkdir(parents=True, exist_ok=True)
            for name in missing(target, files):
                os.replace(Path(scratch) / folder / name, target / name)


def read_idx(path: Path) -> Tensor:
    """Read a file of unsigned bytes in MNIST's IDX format.

    The format: two zero bytes, type 8, rank, a big-endian size per axis, then the values.
    """
    content = path.read_bytes()
    try:
        if content[:3] != b"\0\0\x08":
            raise ValueError("no IDX header")
        shape = tuple(np.frombuffer(content, ">u4", count=content[3], offset=4).tolist())
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path} is corrupt ({error}); delete it and fetch it again") from error
    return torch.from_numpy(values.copy())


def read_cifar(path: Path, label_key: str) -> tuple[Tensor, Tensor]:
    """Read a pickled CIFAR batch: images `(N, 3, 32, 32)` uint8 and labels `(N,)` int64.

    Unpickling can run code: call this only for a file whose checksum has been verified.
    """
    with open(path, "rb") as file:
        batch = pickle.load(file, encoding="latin1")
    images = torch.from_numpy(np.asarray(batch["data"], dtype=np.uint8)).reshape(-1, 3, 32, 32)
    return images, torch.tensor(batch[label_key])
