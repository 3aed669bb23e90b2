"""How much of the targets is noise, whether a fit misses more than that, and by how much it errs.

Axes: N samples, C columns, O outputs.
"""

import numpy as np
from sklearn.neighbors import NearestNeighbors

ROWS, NEIGHBOURS = 2_000, 10
MAX_COLUMNS = 6  # in more dimensions neighbours are too far away to tell
FAR, MINOR = 3.0, 0.05  # a fit is poor from this many times the noise, and this many deviations


def noise_level(z: np.ndarray, y: np.ndarray) -> float | None:
    """Deviation of the noise in y `(N, O)` at scaled inputs z `(N, C)`, or None if unknown.

    The Gamma test: half the squared differences of neighbours against their squared distances, of
    the first to the tenth neighbour, as a line whose value at distance zero is the variance.
    """
    z, y = z[:ROWS], y[:ROWS]
    if z.shape[1] > MAX_COLUMNS or len(z) < 10 * NEIGHBOURS:
        return None
    distances, index = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(z).kneighbors(z)
    delta = np.square(distances[:, 1:]).mean(0)
    gamma = np.square(y[index[:, 1:]] - y[:, None]).mean((0, 2)) / 2
    if np.ptp(delta) <= 0:
        return None
    slope, level = np.polyfit(delta, gamma, 1)
    # Of functions that bend, the line meets zero distance too high rather than too low.
    return float(np.sqrt(max(level if slope > 0 else gamma.min(), 0.0)))


def poor_fit(
    z: np.ndarray,
    y: np.ndarray,
    rmse: float,
    remedy: str = "more restarts, hidden units or grid intervals may fit them",
) -> str | None:
    """One line if an error of y `(N, O)` of deviation 1 stands far above its noise."""
    noise = noise_level(z, y)
    if noise is None or rmse < MINOR or rmse < FAR * noise:
        return None
    return (
        f"the fit misses its training data by {rmse:.2g} of their deviation, although neighbours "
        f"differ by {noise:.2g} only: {remedy}"
    )


def conformal_quantiles(misses: np.ndarray) -> np.ndarray:
    """Conformal quantiles of errors `(N, O)` at 0, 1/1000, ... 1, `(1001, O)`.

    Of a share q, the error of rank q (N + 1), rounded up; infinite where there are fewer.
    """
    ranked = np.concatenate([np.sort(misses, axis=0), np.full_like(misses[:1], np.inf)])
    ranks = np.ceil(np.arange(1001) * (len(misses) + 1) / 1000).astype(int)
    return ranked[np.maximum(ranks, 1) - 1]
