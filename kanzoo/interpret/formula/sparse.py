"""Sums of few terms that equal given values: orthogonal least squares with a beam.

Axes: N samples, F terms.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kanzoo.interpret.formula.front import DOUBTFUL, NOISY
from kanzoo.interpret.formula.terms import Library

BEAM = 12  # sums that are carried from one size to the next
DEPENDENT = 1e-9  # share of a term that others do not explain from which it may be added


@dataclass(frozen=True)
class Sum:
    """Numbers of terms, coefficients with the constant last, and the error in deviations."""

    support: tuple[int, ...]
    coefficients: np.ndarray
    error: float


@dataclass
class _State:
    support: tuple[int, ...]
    basis: np.ndarray
    residual: np.ndarray
    energy: np.ndarray


def sums(
    library: Library,
    y: np.ndarray,
    max_size: int,
    beam: int = BEAM,
    weights: np.ndarray | None = None,
) -> Iterator[Sum]:
    """The best sum of 1, 2, .. terms and a constant for y `(N,)`; ends where one is exact.

    `weights` `(N,)` are those of errors.
    """
    if weights is None:
        matrix, centred = library.scaled[0], y - y.mean()
    else:
        one = weights / np.linalg.norm(weights)
        matrix, centred = library.values * weights[:, None], y * weights
        matrix, centred = matrix - np.outer(one, one @ matrix), centred - one * (one @ centred)
        matrix = matrix / np.maximum(np.linalg.norm(matrix, axis=0), 1e-300)
    scale = float(np.linalg.norm(centred))
    if not scale or not matrix.shape[1]:
        return
    states = [
        _State((), np.zeros((len(y), 0)), centred / scale, np.ones(matrix.shape[1])),
    ]
    for _ in range(min(max_size, len(y) // 4, matrix.shape[1])):
        states = _grown(matrix, states, beam)
        if not states:
            return
        for state in states[:2]:
            found = solved(library, y, state.support, weights)
            yield found
            if found.error < 1e-9:
                return


def _grown(matrix: np.ndarray, states: list[_State], beam: int) -> list[_State]:
    tries: dict[tuple[int, ...], tuple[float, _State, int]] = {}
    for state in states:
        free = state.energy > DEPENDENT
        gain = np.where(free, (state.residual @ matrix) ** 2 / np.where(free, state.energy, 1), -1)
        left = float(state.residual @ state.residual)
        best = np.argpartition(-gain, min(beam, len(gain) - 1))[:beam]
        for k in best:
            key = tuple(sorted((*state.support, int(k))))
            if gain[k] > 0 and (key not in tries or left - gain[k] < tries[key][0]):
                tries[key] = left - float(gain[k]), state, int(k)
    grown = []
    for key, (_, state, k) in sorted(tries.items(), key=lambda item: item[1][0])[:beam]:
        column = matrix[:, k]
        for _ in range(2):
            column = column - state.basis @ (column @ state.basis)
        column = column / np.linalg.norm(column)
        residual = state.residual - column * (column @ state.residual)
        energy = state.energy - (column @ matrix) ** 2
        basis = np.column_stack([state.basis, column])
        grown.append(_State(key, basis, residual, energy))
    return sorted(grown, key=lambda state: float(state.residual @ state.residual))


def solved(
    library: Library, y: np.ndarray, support: tuple[int, ...], weights: np.ndarray | None = None
) -> Sum:
    """Least squares over the terms of a support and a constant."""
    chosen = library.values[:, list(support)]
    design = np.column_stack([chosen, np.ones(len(y))])
    scale = y.std() or 1.0
    if weights is not None:
        scale = np.sqrt(np.square((y - y.mean()) * weights).mean()) or 1.0
        design, y = design * weights[:, None], y * weights
    length = np.linalg.norm(design, axis=0)
    solution = np.linalg.lstsq(design / length, y, rcond=1e-14)[0] / length
    error = float(np.sqrt(np.square(design @ solution - y).mean()) / scale)
    return Sum(support, solution, error)


def thinned(
    library: Library,
    y: np.ndarray,
    tolerance: float = 1e-7,
    weights: np.ndarray | None = None,
) -> Sum | None:
    """All terms fitted at once, those that the data do without being dropped; None if too many."""
    count = library.values.shape[1]
    if count > len(y) // 3:
        return None
    found = solved(library, y, tuple(range(count)), weights)
    if found.error > NOISY:
        return _significant(library, y, found, weights)
    while len(found.support) > 1:
        sizes = np.abs(found.coefficients[:-1]) * library.values[:, list(found.support)].std(0)
        small = sizes < max(tolerance, 3 * found.error / np.sqrt(len(y))) * y.std()
        if not small.any() or small.all():
            break
        support = tuple(k for k, drop in zip(found.support, small, strict=True) if not drop)
        fewer = solved(library, y, support, weights)
        if fewer.error > max(1.05 * found.error, 10 * tolerance):
            break
        found = fewer
    return found


def _significant(library: Library, y: np.ndarray, found: Sum, weights: np.ndarray | None) -> Sum:
    """A sum without terms that noise leaves open, the most doubtful first."""
    weight = np.ones(len(y)) if weights is None else weights
    while len(found.support) > 1:
        design = np.column_stack([library.values[:, list(found.support)], np.ones(len(y))])
        residual = (design @ found.coefficients - y) * weight
        design = design * weight[:, None]
        length = np.linalg.norm(design, axis=0)
        inverse = np.linalg.pinv(np.linalg.qr(design / length)[1])
        sigma = np.linalg.norm(residual) / np.sqrt(max(len(y) - len(length), 1))
        deviations = sigma * np.linalg.norm(inverse, axis=1) / length
        ratios = np.abs(found.coefficients / deviations)[:-1]
        if ratios.min() > DOUBTFUL:
            break
        drop = ratios < min(1.0, np.median(ratios))
        drop[ratios.argmin()] = True
        support = tuple(k for k, gone in zip(found.support, drop, strict=True) if not gone)
        found = solved(library, y, support, weights)
    return found
