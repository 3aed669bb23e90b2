"""Whether what a formula misses is noise.

Axes: N samples, C columns.
"""

import numpy as np

from kanzoo.interpret.formula.terms import polynomial_terms

DEGREES = (1, 2, 3, 4, 6, 9, 14)  # of polynomials of what a formula misses
SIGNS, SURE = 200, 5.0  # how many are drawn; deviations from their mean that are no chance


def is_structured(x: np.ndarray, residual: np.ndarray, seed: int = 0) -> bool:
    """Whether a residual is smooth: a polynomial explains more than of random signs, or neighbours.

    Signs are drawn for its values as they are, so that noise may have any size anywhere.
    """
    from sklearn.neighbors import NearestNeighbors

    if residual.std() == 0 or len(x) < 30:
        return False
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (SIGNS, len(x)))
    z = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1.0)
    for degree in DEGREES:
        terms = polynomial_terms(x.shape[1], degree)
        if len(terms) > len(x) // 10:
            break
        basis = np.linalg.qr(np.column_stack([term.values(z) for term in terms]))[0]
        explained = np.square((signs * residual) @ basis).sum(1)
        found = float(np.square(residual @ basis).sum())
        if found > explained.mean() + SURE * explained.std():
            return True
    neighbours = NearestNeighbors(n_neighbors=2).fit(z).kneighbors(z)[1][:, 1]
    centred = residual - residual.mean()
    alike = centred * centred[neighbours]
    return bool(alike.sum() > SURE * np.sqrt(np.square(alike).sum()))
