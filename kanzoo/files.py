"""Files that are never half, whatever ends the process, and that show when they were damaged."""

import contextlib
import hashlib
import io
import json
import os
import platform
import stat
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

if TYPE_CHECKING:
    import pandas as pd

LABEL = b"sha256:"
LENGTH = struct.pack("<H", len(LABEL) + 64)  # of the comment that ends a sealed archive
FORMULA_SIGNS = tuple("=+-@")
NO_COMMENT = struct.pack("<H", 0)
MAX_TEXT = 2**24  # bytes of a file of values
MAX_YAML, MAX_VALUES = 2**20, 100_000  # bytes, and values, of a configuration
MAX_ARRAYS = 2**32  # bytes of the arrays in a file


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


def read_file(path: Path, most: float = MAX_TEXT) -> bytes:
    """The content of an ordinary file of at most so many bytes; `ValueError` for any other.

    A pipe would be waited for, and a device has no end.
    """
    at_once = getattr(os, "O_NONBLOCK", 0)
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | at_once)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is not an ordinary file")
        if status.st_size > most:
            raise ValueError(f"{path} is larger than the {most:,} bytes that such a file may have")
        return file.read()


def read_json(path: Path) -> Any:
    """The values of a JSON file; `ValueError` for anything else."""
    try:
        return json.loads(read_file(path).decode("utf-8-sig"))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error


class _Plain(yaml.SafeLoader):
    """Reads no merged mappings (`<<`), of which a few lines can describe more than memory holds."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None: ...


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of plain values; a file that is none is a `ValueError`."""
    try:
        content = yaml.load(read_file(path, MAX_YAML).decode(), _Plain)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{path} is not readable YAML: {text}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no configuration")
    waiting: list[dict[Any, Any] | list[Any]] = [content]
    count = 0
    while waiting:  # names of values can stand for values again, for itself too
        node = waiting.pop()
        inner = [*node.values()] if isinstance(node, dict) else node
        count += len(inner)
        if count > MAX_VALUES:
            raise ValueError(f"{path} holds more than {MAX_VALUES:,} values")
        waiting += [value for value in inner if isinstance(value, dict | list)]
    return content


def read_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file, or those of the names; `ValueError` for anything else."""
    content = io.BytesIO(read_file(path, MAX_ARRAYS))
    try:
        with zipfile.ZipFile(content) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_ARRAYS:
                raise ValueError(f"it unpacks to more than {MAX_ARRAYS:,} bytes")
        with np.load(content, allow_pickle=False) as file:
            return {name: np.asarray(file[name]) for name in names or file.files}
    except Exception as error:  # whatever unpacking says to a file that is none
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from error


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
