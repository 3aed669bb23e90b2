"""Control arms: what of a difference between a KAN and its twin is due to the basis.

KAN - twin = (narrow twin - twin) + (KAN without a basis - narrow twin) + (KAN - KAN without a
basis), the two in the middle having the sizes that were solved for the KAN: what its width costs,
what the places of its non-linearities bring, and what its basis brings.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kanzoo import registry
from kanzoo.checks import check_name
from kanzoo.rundir import Config
from kanzoo.settings import StudyConfig

# Words of an arm that take something from another arm of the same cell, instead of an override.
SIZES, BUDGET = "sizes_of=", "budget_of="


@dataclass(frozen=True)
class Control:
    """A control arm. {kan} stands for the KAN arm that it belongs to.

    words: its overrides; where it `is_kan`, those of the KAN arm come before, without its basis.
    models, tasks, kinds: the architectures, tasks and kinds of data that it is for, () for all.
    """

    text: str
    words: tuple[str, ...]
    is_kan: bool = False
    models: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()


CONTROLS = {
    "mlp-narrow": Control(
        "the MLP twin with the sizes that were solved for {kan}", ("layers=mlp", SIZES + "{kan}")
    ),
    "kan-residual": Control(
        "{kan} at its sizes without a basis, of which the residual branch is left",
        ("layers.residual=auto", "basis=none", SIZES + "{kan}"),
        is_kan=True,
    ),
    "kan-random": Control(
        "{kan} with fixed random functions for its basis", ("basis=random",), is_kan=True
    ),
    "mlp-spline": Control(
        "an MLP with a trainable spline as the activation of every neuron",
        ("layers=kan_activated", "basis=spline_activation"),
    ),
    "mlp-prelu": Control(
        "an MLP with a trainable slope in every neuron", ("layers=kan_activated", "basis=prelu")
    ),
    "mlp-swiglu": Control(
        "the twin with gated feed-forward parts (SwiGLU) of as many weights",
        ("layers=mlp", "model.ffn=swiglu"),
        models=("vit", "gpt"),
    ),
    "mlp-residual": Control(
        "a residual MLP of as many parameters",
        ("layers=mlp", "model=resmlp", BUDGET + "{baseline}"),
        models=("mlp",),
    ),
    "linear": Control(
        "one linear layer",
        ("layers=mlp", "model=linear"),
        models=("mlp",),
        tasks=("classification", "regression"),
        kinds=("table",),
    ),
    "nlinear": Control(
        "a linear forecast of the differences to the last step (NLinear)",
        ("layers=mlp", "model=nlinear"),
        tasks=("forecast",),
    ),
    "dlinear": Control(
        "linear forecasts of a trend and of what is left (DLinear)",
        ("layers=mlp", "model=dlinear"),
        tasks=("forecast",),
    ),
}


def control_arms(study: StudyConfig) -> dict[str, list[str]]:
    """The control arms that a study wants and does not name itself, with their words."""
    wanted = CONTROLS if study.controls is True else study.controls or ()
    kan = kan_arm(study)
    descriptions = {}
    for name in wanted:
        check_name("control", name, CONTROLS)
        control = CONTROLS[name]
        if name in study.arms or (kan is None and "{kan}" in control.text):
            continue
        words = [w.format(kan=kan, baseline=study.baseline) for w in control.words]
        if control.is_kan and kan is not None:
            words = [w for w in study.arms[kan] if not _is_of_basis(w)] + words
        descriptions[name] = words
    return descriptions


def kan_arm(study: StudyConfig) -> str | None:
    """The KAN arm that controls belong to: the one that the study names, else its first."""
    if study.controls_of is not None:
        check_name("study.controls_of", study.controls_of, study.arms)
        return str(study.controls_of)
    for name, words in study.arms.items():
        if name != study.baseline and "layers=mlp" not in words:
            return str(name)
    return None


def control_text(study: StudyConfig, arm: str) -> str:
    """What a control arm is, for readers."""
    return CONTROLS[arm].text.format(kan=kan_arm(study))


def decomposition_arms(study: StudyConfig) -> dict[str, tuple[str, str]]:
    """The differences, arm minus other arm, that add up to that of the KAN and its twin.

    Empty where the study lacks an arm of them.
    """
    kan = kan_arm(study)
    arms = {**study.arms, **control_arms(study)}
    if kan is None or not {"mlp-narrow", "kan-residual"} <= set(arms):
        return {}
    return {
        "width": ("mlp-narrow", study.baseline),
        "place": ("kan-residual", "mlp-narrow"),
        "basis": (kan, "kan-residual"),
    }


def applies(arm: str, study: StudyConfig, twin: Config) -> bool:
    """Whether an arm is for the data and the architecture of a twin's configuration."""
    if arm in study.arms:
        return True
    control, choices = CONTROLS[arm], twin["choices"]
    if control.models and choices["model"] not in control.models:
        return False
    if control.tasks and choices["task"] not in control.tasks:
        return False
    return not control.kinds or registry.instantiate(twin["data"]).spec.kind in control.kinds


def chooses_model(words: Iterable[str]) -> bool:
    """Whether an arm has an architecture of its own."""
    return any(word.startswith("model=") for word in words)


def borrowed(words: list[str], config_of: Callable[[str], Config]) -> list[str]:
    """Overrides for what an arm takes from another one, whose configuration `config_of` gives."""
    from kanzoo.run.prepare import prepare

    overrides = []
    for word in words:
        if word.startswith(SIZES):
            config = config_of(word.removeprefix(SIZES))
            solved = prepare(config).plan.options
            changed = {k: v for k, v in solved.items() if config["model"].get(k) != v}
            overrides += [f"model.{name}={value}" for name, value in changed.items()]
            overrides += ["match=none", "budget=null"]
        elif word.startswith(BUDGET):
            config = config_of(word.removeprefix(BUDGET))
            plan = prepare(config).plan
            counted = "flops" if config["match"] == "flops" else "params"
            amount = plan.flops if counted == "flops" else plan.params
            overrides += [f"match={counted}", f"budget={amount}"]
    return overrides


def sources(words: Iterable[str]) -> set[str]:
    """The arms that an arm takes something from."""
    return {word.partition("=")[2] for word in words if is_borrowing(word)}


def is_borrowing(word: str) -> bool:
    """Whether a word of an arm takes something from another arm."""
    return word.startswith((SIZES, BUDGET))


def _is_of_basis(word: str) -> bool:
    return word.startswith(("basis=", "basis.", "callbacks=grid", "callbacks.grid."))
