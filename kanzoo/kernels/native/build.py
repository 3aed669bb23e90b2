"""Build the C++ kernels at first use and keep them in the user's cache.

A binary is named by everything it depends on (sources, compiler, flags, CPU features), built
under a lock into a temporary file, renamed into place and loaded only if its checksum matches.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kanzoo.kernels.native.enumerations import macros

log = logging.getLogger("kanzoo")

SOURCES = Path(__file__).parent / "src"
COMPILERS = ("g++", "clang++", "c++")
BASE_FLAGS = (
    "-std=c++17",
    "-O3",
    "-shared",
    "-fPIC",
    "-pthread",
    "-fno-exceptions",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
)
ZIG = "ziglang"  # clang as a Python package
ZIG_FLAGS = ("-nostdlib++",)  # else it builds a standard library first, which takes a minute
GCC_FLAGS = ("-fno-unswitch-loops", "-fno-split-loops", "-fno-ipa-cp-clone")  # builds faster
TIMEOUT = 600  # seconds for one build, on a busy machine too
ORDERS = range(6)
REALS = ("float", "double")


class CompileError(RuntimeError):
    """No usable compiler; the message says what is missing."""


def cache_dir() -> Path:
    """Directory of the binaries: ``KANZOO_CACHE``, else kanzoo in the XDG cache directory."""
    if chosen := os.environ.get("KANZOO_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kanzoo"


def find_compiler() -> tuple[str, ...]:
    """The command that compiles C++: ``CXX``, or g++, clang++, c++, or that of package ziglang."""
    if os.name != "posix":
        raise CompileError("compiled kernels need Linux or macOS")
    wanted = shlex.split(os.environ.get("CXX", ""))
    commands = [wanted] if wanted else [[name] for name in COMPILERS]
    for name, *arguments in commands:
        if path := shutil.which(name):
            return path, *arguments
    if not wanted and (package := importlib.util.find_spec(ZIG)) and package.origin:
        return str(Path(package.origin).with_name("zig")), "c++"
    raise CompileError(
        f"no C++ compiler: none of {', '.join(names[0] for names in commands)} is on PATH;"
        " install g++, clang++ or the Python package ziglang, or set CXX"
    )


@functools.cache
def cpu_features() -> str:
    """The instruction sets of this CPU, as the operating system names them."""
    features = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features", "CPU part", "model"):
                features.append(value.strip())
            if not line.strip():  # one core is enough
                break
    return "\n".join(features)


def _is_zig(command: Sequence[str]) -> bool:
    return Path(command[0]).stem == "zig"


def _run(command: Sequence[str]) -> str:
    extra = {}
    if _is_zig(command):
        extra = {
            f"ZIG_{kind}_CACHE_DIR": str(_write_directory() / ZIG) for kind in ("LOCAL", "GLOBAL")
        }
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
            env=extra | dict(os.environ),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompileError(f"{command[0]} does not run: {error}") from error
    if done.returncode:
        raise CompileError(f"{' '.join(command)} failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout


def _native_flag() -> str:
    return "-march=native" if platform.machine() in ("x86_64", "AMD64", "i686") else "-mcpu=native"


@functools.cache
def _compiler_version(compiler: tuple[str, ...]) -> str:
    return _run([*compiler, "--version"])


def _key(compiler: tuple[str, ...], flags: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for source in sorted(SOURCES.glob("*.[hc]pp")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    for part in (*compiler, _compiler_version(compiler), *flags, cpu_features()):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:24]


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_intact(binary: Path) -> bool:
    """Whether the binary is there, belongs to this user and equals what was built."""
    try:
        return (
            _is_private(binary, stat.S_ISREG)
            and _checksum(binary) == binary.with_suffix(".sha256").read_text().strip()
        )
    except (OSError, UnicodeDecodeError):
        return False


def _is_private(path: Path, is_kind: Callable[[int], bool]) -> bool:
    """Whether a path is of a kind, no link, and nobody but this user may change it."""
    state = path.lstat()
    others = stat.S_IWGRP | stat.S_IWOTH
    return is_kind(state.st_mode) and state.st_uid == os.geteuid() and not state.st_mode & others


def _write_directory() -> Path:
    """The cache, or a folder of this process alone where others could put code into the cache."""
    directory = cache_dir()
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        is_private = _is_private(directory.resolve(), stat.S_ISDIR)
    except OSError:
        return _private_directory()
    if not is_private:
        _warn_shared(directory)
        return _private_directory()
    return directory if os.access(directory, os.W_OK | os.X_OK) else _private_directory()


@functools.cache
def _warn_shared(directory: Path) -> None:
    log.warning(
        "others may write into %s: kernels are built in a folder of this process instead; "
        "chmod go-w, or set KANZOO_CACHE to a folder of yours",
        directory,
    )


@functools.cache
def _private_directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="kanzoo-"))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; file systems without locks rely on the atomic rename alone."""
    import fcntl

    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _build(compiler: tuple[str, ...], flags: tuple[str, ...], source: Path, binary: Path) -> None:
    """Compile into a temporary file beside the binary, then rename it and its checksum."""
    with tempfile.TemporaryDirectory(dir=binary.parent, prefix="build-") as scratch:
        made = Path(scratch) / binary.name
        _run([*compiler, *flags, str(source), "-o", str(made), "-ldl"])
        made.chmod(0o700)  # whatever the umask
        note = made.with_suffix(".sha256")
        note.write_text(_checksum(made))
        made.replace(binary)
        note.replace(binary.with_suffix(".sha256"))


def build(library: str, order: int | None, real: str) -> Path:
    """Path of an intact binary of ``LIBRARIES``, built if need be; order: of splines, or None."""
    if order is not None and order not in ORDERS:
        raise ValueError(f"order must be 0 to 5, got {order}")
    if real not in REALS:
        raise ValueError(f"real must be one of {REALS}, got {real!r}")
    compiler = find_compiler()
    extra: tuple[str, ...] = (
        GCC_FLAGS if "Free Software Foundation" in _compiler_version(compiler) else ()
    )
    extra = ZIG_FLAGS if _is_zig(compiler) else extra
    flags = (*BASE_FLAGS, *extra, _native_flag(), *macros(), f"-DREAL={real}")
    kind = real
    if order is not None:
        flags, kind = (*flags, f"-DORDER={order}"), f"{real}-{order}"
    binary = _write_directory() / f"{library}-{kind}-{_key(compiler, flags)}.so"
    if not is_intact(binary):
        with _locked(binary.with_suffix(".lock")):
            if not is_intact(binary):
                _build(compiler, flags, SOURCES / f"{library}.cpp", binary)
    return binary


@functools.cache
def _outcome(library: str, order: int | None, real: str) -> ctypes.CDLL | str:
    """The loaded library, or why there is none."""
    try:
        loaded = ctypes.CDLL(str(build(library, order, real)))
    except (CompileError, OSError) as error:
        return str(error)
    pointer, sizes = ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64)
    for name, pointers in LIBRARIES[library].items():
        function = getattr(loaded, name)
        function.argtypes = [pointer] * pointers + [sizes]
        function.restype = ctypes.c_int64
    return loaded


LIBRARIES = {  # the C functions of each, with their numbers of tensors; built one by one
    "linear": {
        "kanzoo_linear_forward": 6,
        "kanzoo_linear_backward": 7,
        "kanzoo_linear_order": 0,
    },
    "conv": {"kanzoo_conv_forward": 5, "kanzoo_conv_backward": 8},
    "functions": {
        "kanzoo_functions": 7,
        "kanzoo_rational_forward": 5,
        "kanzoo_rational_backward": 8,
    },
}


@functools.cache
def load(name: str, order: int | None, real: str) -> Any:
    """A C function for a spline order (0 to 5, or None) and ``float`` or ``double``.

    Raises ``CompileError`` with what is missing.
    """
    library = next(library for library, names in LIBRARIES.items() if name in names)
    outcome = _outcome(library, order, real)
    if isinstance(outcome, str):
        raise CompileError(f"backend 'compiled' is not available: {outcome}")
    return getattr(outcome, name)


def unavailable_reason(
    library: str = "linear", order: int | None = 3, real: str = "float"
) -> str | None:
    """Why a library cannot be used, or None if it can; builds it at the first call."""
    outcome = _outcome(library, order, real)
    return outcome if isinstance(outcome, str) else None


def is_available(library: str = "linear", order: int | None = 3, real: str = "float") -> bool:
    """Whether a library can be used; builds it at the first call."""
    return unavailable_reason(library, order, real) is None
