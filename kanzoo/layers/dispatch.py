"""The one place that chooses which code computes a KAN layer.

All paths compute the same function, at different speed and memory. The first one by rank that can
serves a request; `backend` restricts the choice:

- "auto": the fastest that can be had for the basis, the device and the size;
- "dense": all features at once, then their product; autograd keeps what it needs;
- "blocked": features are computed again in the backward, and only inputs are kept; "dense" where
  that cannot be;
- "compiled": kernels in C++, on the CPU;
- "triton": kernels in Triton, on GPUs.

A new path is a class with a rank, made known by `add_path`; its `backends` become names too.
"""

from collections.abc import Sequence

from torch import Tensor

from kanzoo.checks import check_name
from kanzoo.layers.paths.base import Path, Request
from kanzoo.layers.paths.dense import Dense, Plain
from kanzoo.layers.paths.families import FamiliesConv, FamiliesLinear
from kanzoo.layers.paths.generic import (
    GenericConv,
    GenericLinear,
    ProductLinear,
    Traced,
)
from kanzoo.layers.paths.gpu import TritonConv, TritonLinear, TritonRational
from kanzoo.layers.paths.native import Direct, OperatorConv, OperatorLinear, Rational

BACKENDS = ["auto", "dense", "blocked", "compiled", "triton"]
NUM_BACKENDS = len(BACKENDS)  # those of other modules follow
PATHS: list[Path] = []  # by rank
_choices: dict[tuple[str, str], tuple[Path, ...]] = {}  # by operator and backend


def add_path(path: Path) -> None:
    """Let a path take part in the choice, at its rank."""
    _set_paths([*PATHS, path])


def remove_path(path: Path) -> None:
    """The way back."""
    _set_paths([other for other in PATHS if other is not path])


def _set_paths(paths: Sequence[Path]) -> None:
    PATHS[:] = sorted(paths, key=lambda path: path.rank)
    named = {name: None for path in PATHS for name in path.backends}
    BACKENDS[NUM_BACKENDS:] = [name for name in named if name not in BACKENDS[:NUM_BACKENDS]]
    _choices.clear()
    for operator in {operator for path in PATHS for operator in path.operators}:
        able = [path for path in PATHS if operator in path.operators]
        for name in BACKENDS:
            _choices[operator, name] = tuple(
                p for p in able if name == "auto" or not p.backends or name in p.backends
            )


_set_paths(
    [
        Plain(),
        Direct(),
        OperatorLinear(),
        OperatorConv(),
        Rational(),
        FamiliesLinear(),
        FamiliesConv(),
        TritonLinear(),
        TritonConv(),
        TritonRational(),
        GenericLinear(),
        ProductLinear(),
        GenericConv(),
        Traced(),
        Dense(),
    ]
)


def choose(request: Request) -> Path:
    """The path that computes a request; `ValueError` if its backend has none."""
    allowed = _choices.get((request.operator, request.backend), ())
    for path in allowed:
        if path.can(request) is None:
            return path
    check_name("backend", request.backend, BACKENDS)
    reasons = "; ".join(f"{path.name}: {path.can(request)}" for path in allowed)
    raise ValueError(f"backend {request.backend!r} cannot compute this layer: {reasons}")


def compute(request: Request) -> Tensor:
    """What a request asks for, by the first path that can."""
    return choose(request).run(request)


def explain(request: Request) -> str:
    """One line: the path that computes a request, and why the others do not."""
    chosen = choose(request)
    allowed = _choices[request.operator, request.backend]
    parts = [chosen.name]
    for path in PATHS:
        if request.operator in path.operators and path is not chosen:
            reason = path.can(request) or "ranked below"
            reason = reason if path in allowed else f"backend is {request.backend!r}"
            parts.append(f"not {path.name}: {reason}")
    values = request.expansion.values_request(request.x) if chosen.uses_values else None
    if values is not None:
        parts.append(f"values of the functions: {choose(values).name}")
    return "; ".join(parts)
