"""Formulas of the suites of symbolic regression, and which of them the search was made with.

Nguyen's, Keijzer's and Vladislavleva's functions (1009.5042, table 1), right-hand sides of
Strogatz's systems (1804.10720) and Feynman's equations (1905.11481).
"""

from dataclasses import dataclass

from kanzoo.data.special import Range, feynman_table

UNIT, SIGNED, WIDE = (0.0, 1.0), (-1.0, 1.0), (-3.0, 3.0)
STATE, PHASE = (0.5, 5.0), (0.2, 3.0)  # of Strogatz's systems
SUITES: dict[str, tuple[str, dict[str, Range]]] = {
    "nguyen_3": ("x**5 + x**4 + x**3 + x**2 + x", {"x": SIGNED}),
    "nguyen_5": ("sin(x**2)*cos(x) - 1", {"x": SIGNED}),
    "nguyen_6": ("sin(x) + sin(x + x**2)", {"x": SIGNED}),
    "nguyen_7": ("log(x + 1) + log(x**2 + 1)", {"x": (0.0, 2.0)}),
    "nguyen_9": ("sin(x) + sin(y**2)", {"x": UNIT, "y": UNIT}),
    "nguyen_11": ("x**y", {"x": UNIT, "y": UNIT}),
    "nguyen_12": ("x**4 - x**3 + y**2/2 - y", {"x": SIGNED, "y": SIGNED}),
    "keijzer_1": ("0.3*x*sin(2*pi*x)", {"x": SIGNED}),
    "keijzer_4": ("x**3*exp(-x)*cos(x)*sin(x)*(sin(x)**2*cos(x) - 1)", {"x": (0.0, 10.0)}),
    "keijzer_5": ("30*x*z/((x - 10)*y**2)", {"x": SIGNED, "y": (1.0, 2.0), "z": SIGNED}),
    "keijzer_11": ("x*y + sin((x - 1)*(y - 1))", {"x": WIDE, "y": WIDE}),
    "keijzer_13": ("6*sin(x)*cos(y)", {"x": WIDE, "y": WIDE}),
    "keijzer_14": ("8/(2 + x**2 + y**2)", {"x": WIDE, "y": WIDE}),
    "keijzer_15": ("x**3/5 + y**3/2 - y - x", {"x": WIDE, "y": WIDE}),
    "vladislavleva_1": (
        "exp(-(x - 1)**2)/(1.2 + (y - 2.5)**2)",
        {"x": (0.3, 4.0), "y": (0.3, 4.0)},
    ),
    "vladislavleva_4": (
        "10/(5 + (a - 3)**2 + (b - 3)**2 + (c - 3)**2 + (d - 3)**2 + (f - 3)**2)",
        dict.fromkeys("abcdf", (0.05, 6.05)),
    ),
    "vladislavleva_5": (
        "30*(x - 1)*(z - 1)/(y**2*(x - 10))",
        {"x": (0.05, 2.0), "y": (1.0, 2.0), "z": (0.05, 2.0)},
    ),
    "vladislavleva_7": (
        "(x - 3)*(y - 3) + 2*sin((x - 4)*(y - 4))",
        {"x": (0.05, 6.05), "y": (0.05, 6.05)},
    ),
    "vladislavleva_8": (
        "((x - 3)**4 + (y - 3)**3 - (y - 3))/((y - 2)**4 + 10)",
        {"x": (0.05, 6.05), "y": (0.05, 6.05)},
    ),
    "strogatz_bacres": ("20 - x - x*y/(1 + 0.5*x**2)", {"x": (1.0, 10.0), "y": (1.0, 10.0)}),
    "strogatz_barmag": ("0.5*sin(x - y) - sin(x)", {"x": PHASE, "y": PHASE}),
    "strogatz_glider_1": ("-0.05*x**2 - sin(y)", {"x": STATE, "y": PHASE}),
    "strogatz_glider_2": ("x - cos(y)/x", {"x": STATE, "y": PHASE}),
    "strogatz_lv": ("3*x - 2*x*y - x**2", {"x": STATE, "y": STATE}),
    "strogatz_predprey": ("x*(4 - x - y/(1 + x))", {"x": STATE, "y": STATE}),
    "strogatz_shearflow_1": ("cos(x)*cos(y)/sin(y)", {"x": PHASE, "y": (0.3, 2.8)}),
    "strogatz_shearflow_2": ("sin(x)*(cos(y)**2 + 0.1*sin(y)**2)", {"x": PHASE, "y": PHASE}),
    "strogatz_vdp": ("10*(y - (x**3 - x)/3)", {"x": (-2.0, 2.0), "y": SIGNED}),
}
FEYNMAN = (
    "I.8.14", "I.11.19", "I.12.11", "I.13.12", "I.15.3x", "I.18.4", "I.24.6", "I.32.17", "I.40.1",
    "I.41.16", "I.44.4", "I.50.26", "II.6.15a", "II.11.3", "II.11.17", "II.11.27", "II.21.32",
    "II.35.18", "II.35.21", "III.4.33", "III.9.52", "III.10.19", "III.14.14", "III.19.51",
)  # fmt: skip


LOOKED_AT = (  # of four and more, in development; the last four with noise
    *("I.29.16", "I.38.12", "I.43.43", "II.36.38"),
    *("I.8.14", "I.40.1", "III.10.19", "III.19.51"),
)


@dataclass(frozen=True)
class Target:
    """A formula, the range of each variable, and whether the search was developed with it."""

    name: str
    formula: str
    ranges: dict[str, Range]
    was_seen: bool


def known(root: str) -> dict[str, Target]:
    """Functions of four suites, and Feynman's equations with four to six variables."""
    table = feynman_table(root)
    both = SUITES | {name: table[name] for name in FEYNMAN if name in table}
    seen = development() | {*LOOKED_AT}
    return {name: Target(name, *both[name], name in seen) for name in sorted(both)}


def feynman(root: str) -> dict[str, Target]:
    """All of Feynman's equations; those with up to three variables were looked at before."""
    seen = development() | {*LOOKED_AT}
    return {
        name: Target(name, formula, ranges, len(ranges) <= 3 or name in seen)
        for name, (formula, ranges) in sorted(feynman_table(root).items())
    }


def development() -> frozenset[str]:
    """Names of the half of the known formulas with which the search was developed."""
    return frozenset(sorted([*SUITES, *FEYNMAN])[::2])
