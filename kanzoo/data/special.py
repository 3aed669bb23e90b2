"""The library of functions: toy and special ones of the Kolmogorov-Arnold paper, some of Feynman's.

Axes: N samples.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Range = tuple[float, float]
UNIT: Range = (0.0, 1.0)
BOTH: Range = (-1.0, 1.0)
HIGH = tuple(f"x{i}" for i in range(1, 101))

# Section 3.1 of the paper (2404.19756): formula and ranges.
TOY: dict[str, tuple[str, dict[str, Range]]] = {
    "bessel": ("jv(0, 20*x)", {"x": BOTH}),
    "exp_sin": ("exp(sin(pi*x) + y**2)", {"x": BOTH, "y": BOTH}),
    "product": ("x*y", {"x": BOTH, "y": BOTH}),
    "four": (
        "exp((sin(pi*(x1**2 + x2**2)) + sin(pi*(x3**2 + x4**2)))/2)",
        dict.fromkeys(("x1", "x2", "x3", "x4"), BOTH),
    ),
}


def high_dimensional(points: np.ndarray) -> np.ndarray:
    """exp of the mean of sin(pi x_i / 2)^2 over 100 variables: `(N, 100) -> (N,)`."""
    values: np.ndarray = np.exp((np.sin(np.pi * points / 2) ** 2).mean(1))
    return values


@dataclass(frozen=True)
class Special:
    """A special function of x and y by SciPy, with fixed whole numbers before them.

    `(N, 2) -> (N,)`.
    """

    scipy_name: str
    numbers: tuple[int, ...] = ()
    ranges: tuple[Range, Range] = (UNIT, UNIT)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        from scipy import special

        x, y = points.T
        if self.scipy_name == "ellipj":
            return np.asarray(special.ellipj(x, y)[0])
        if self.scipy_name == "sph_harm":  # order, degree, azimuth, polar angle
            order, degree = self.numbers
            return np.asarray(special.sph_harm_y(degree, order, y, x).real)
        return np.asarray(getattr(special, self.scipy_name)(*self.numbers, x, y))


# Section 3.2: of (x, y) in the order of SciPy's arguments, on the unit square as in 2407.16674;
# those that have a pole at y = 0 keep away from it.
SPECIAL: dict[str, Special] = {
    "ellipj": Special("ellipj"),
    "ellipkinc": Special("ellipkinc"),
    "ellipeinc": Special("ellipeinc"),
    "jv": Special("jv"),
    "yv": Special("yv", ranges=(UNIT, (1.0, 2.0))),
    "kv": Special("kv", ranges=(UNIT, (1.0, 2.0))),
    "iv": Special("iv"),
    **{f"lpmv_{m}": Special("lpmv", (m,)) for m in (0, 1, 2)},
    **{
        f"sph_harm_{m}_{n}": Special("sph_harm", (m, n))
        for m, n in ((0, 1), (1, 1), (0, 2), (1, 2), (2, 2))
    },
}

# What there is without the table of all hundred (1905.11481).
BUILT_IN_FEYNMAN: dict[str, tuple[str, dict[str, Range]]] = {
    "I.6.2a": ("exp(-theta**2/2)/sqrt(2*pi)", {"theta": (1, 3)}),
    "I.6.2": (
        "exp(-(theta/sigma)**2/2)/(sqrt(2*pi)*sigma)",
        {"sigma": (1, 3), "theta": (1, 3)},
    ),
    "I.8.14": (
        "sqrt((x2-x1)**2+(y2-y1)**2)",
        {"x1": (1, 5), "x2": (1, 5), "y1": (1, 5), "y2": (1, 5)},
    ),
    "I.12.1": ("mu*Nn", {"mu": (1, 5), "Nn": (1, 5)}),
    "I.16.6": ("(u+v)/(1+u*v/c**2)", {"c": (1, 5), "v": (1, 5), "u": (1, 5)}),
    "I.29.4": ("omega/c", {"omega": (1, 10), "c": (1, 10)}),
    "I.34.27": ("(h/(2*pi))*omega", {"omega": (1, 5), "h": (1, 5)}),
    "II.8.31": ("epsilon*Ef**2/2", {"epsilon": (1, 5), "Ef": (1, 5)}),
}


def feynman_file(root: str | Path) -> Path:
    """Where the table of Feynman's equations lies, below a folder of data."""
    return Path(root) / "feynman" / "FeynmanEquations.csv"


def feynman_table(root: str | Path) -> dict[str, tuple[str, dict[str, Range]]]:
    """Formulas and ranges of Feynman's equations by their name, such as I.6.2a (1905.11481).

    Read from `feynman/FeynmanEquations.csv` below `root`; without it, a handful.
    """
    path = feynman_file(root)
    if not path.is_file():
        return dict(BUILT_IN_FEYNMAN)
    table = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                if not row["Filename"]:
                    continue
                ranges = {}
                for i in range(1, 11):
                    if row[f"v{i}_name"]:
                        low, high = float(row[f"v{i}_low"]), float(row[f"v{i}_high"])
                        ranges[row[f"v{i}_name"]] = (low, high)
                table[row["Filename"]] = (row["Formula"], ranges)
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is corrupt ({error!r}); fetch it again") from error
    return table
