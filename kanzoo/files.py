"""Files that are never half, whatever ends the process, and that show when they were damaged."""

import contextlib
import hashlib
import io
import os
import platform
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

LABEL = b"sha256:"
LENGTH = struct.pack("<H", len(LABEL) + 64)  # of the comment that ends a sealed archive
FORMULA_SIGNS = tuple("=+-@")
NO_COMMENT = struct.pack("<H", 0)


def write_atomic(path: Path, content: str | bytes, *, sync: bool = True) -> None:
    """Write a file so that it is either the old or the new one, never half of it.

    It is written beside its path, so that both are on one file system. With `sync` it is on the
    disk before it takes its name, and outlasts a loss of power too.
    """
    _remove_left_over(path)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an `.npz` file as `write_atomic` writes texts."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomic(path, buffer.getvalue())


def csv_of(table: "pd.DataFrame") -> str:
    """A table as CSV, in which no cell is a formula that a spreadsheet would execute.

    Texts that begin like one have a quote before them, by which spreadsheets know texts.
    """

    def as_text(value: object) -> object:
        if not isinstance(value, str):
            return value
        text = value.replace("\r", " ")  # which would begin a row for some that read it
        is_formula = text.lstrip()[:1] in FORMULA_SIGNS and not is_number(text)
        return f"'{text}" if is_formula else text

    def is_number(text: str) -> bool:
        try:
            float(text)
        except ValueError:
            return False
        return True

    texts = table.select_dtypes(exclude="number")
    safe = table.assign(**{str(name): texts[name].map(as_text) for name in texts})
    return str(safe.to_csv(index=False))


def _remove_left_over(path: Path) -> None:
    """Remove what processes of this machine left beside a file that were killed as they wrote."""
    start = f".{path.name}.{platform.node()}."
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            if name.startswith(start) and name.endswith(".tmp"):
                number = name.removeprefix(start).removesuffix(".tmp")
                if number.isdecimal() and not _is_running(int(number)):
                    path.with_name(name).unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def seal(archive: bytes) -> bytes:
    """Put the checksum of a zip archive without comment, as PyTorch writes them, into its comment.

    Whatever reads zip archives reads it as before.
    """
    assert archive.endswith(NO_COMMENT)
    digest = hashlib.sha256(archive).hexdigest().encode()
    return archive.removesuffix(NO_COMMENT) + LENGTH + LABEL + digest


def unseal(content: bytes) -> bytes:
    """The archive that was sealed; `ValueError` if anything in it has changed since."""
    if not content:
        raise ValueError("it is empty")
    at = len(content) - struct.unpack("<H", LENGTH)[0]
    if content[at - 2 : at] != LENGTH or content[at : at + len(LABEL)] != LABEL:
        raise ValueError("it was cut or is no checkpoint of kanzoo")
    archive = content[: at - 2] + NO_COMMENT
    if hashlib.sha256(archive).hexdigest().encode() != content[at + len(LABEL) :]:
        raise ValueError("its checksum differs")
    return archive
