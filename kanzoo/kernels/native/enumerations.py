"""Names that Python and C++ share: C++ sees each one as a macro of its number, see ``macros``."""

from kanzoo.bases.knots import EXTRAPOLATIONS

RESIDUALS = (None, "identity", "silu", "relu", "tanh")
SPLINE_RESIDUALS = RESIDUALS[:3]  # those of the B-spline layer
SQUASHES = ("none", "tanh", "sigmoid")
# Every family of functions, with the numbers of rows of its table and of constants at least.
FAMILIES = {
    "recurrence": (3, 0),
    "bernstein": (1, 0),
    "gaussian": (2, 0),
    "switch": (2, 0),
    "harmonics": (1, 1),
    "waves": (2, 1),
    "mexican_hat": (2, 1),
    "gaussian_derivative": (2, 0),
    "morlet": (2, 1),
    "ramps": (2, 2),
    "spline_gaussian": (4, 2),
}
NUMBERS = {
    kind: {name: number for number, name in enumerate(names)}
    for kind, names in (
        ("EXTRAPOLATION", EXTRAPOLATIONS),
        ("RESIDUAL", RESIDUALS),
        ("SQUASH", SQUASHES),
        ("FAMILY", FAMILIES),
    )
}


def macros() -> tuple[str, ...]:
    """Compiler flags that define ``EXTRAPOLATION_ZERO`` and so on."""
    return tuple(
        f"-D{kind}_{(name or 'none').upper()}={number}"
        for kind, numbers in NUMBERS.items()
        for name, number in numbers.items()
    )
