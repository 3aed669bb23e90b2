"""What an architecture declares about itself."""

from typing import Any, ClassVar

from torch import nn

# What a sample is and what is asked of it, as `kind` of a data set says.
KINDS = ("image", "sequence", "table", "tokens", "dense")


class Architecture(nn.Module):
    """A network written once against a `LayerFactory`.

    A subclass takes `(in_shape, num_outputs, layers, **options)` and declares

    - `kinds`: the kinds of data that it accepts, of `KINDS`;
    - `roles`: the roles that its layers ask the factory for;
    - `coarse`, `fine`: the options that budget matching solves: a whole number that scales the
      network, and a real ratio that trims it (None if there is nothing to trim).

    Inputs are real numbers, `(B, *in_shape)`, unless a network `takes_tokens`: then whole ones.
    """

    kinds: ClassVar[tuple[str, ...]]
    roles: ClassVar[tuple[str, ...]]
    coarse: ClassVar[str] = "width"
    fine: ClassVar[str | None] = None
    recipe: dict[str, Any] | None = None  # how it was built, set by `kanzoo.models.build`
    takes_tokens: bool = False

    @classmethod
    def roles_for(cls, in_shape: tuple[int, ...]) -> tuple[str, ...]:
        """The roles that there are for inputs of a shape."""
        return cls.roles

    @classmethod
    def coarse_step(cls, options: dict[str, Any]) -> int:
        """The coarse option must be a multiple of this."""
        return 1


def check_image(model: str, in_shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless inputs are images (C, H, W)."""
    if len(in_shape) != 3:
        raise ValueError(f"{model} needs images (C, H, W), got inputs of shape {in_shape}")


def scaled(name: str, ratio: float, size: int, place: float = 0.5) -> int:
    """The size times a ratio as a whole number; `ValueError` names the ratio if none is left.

    `place` in (0, 1) says from which fraction on it is rounded up: places that differ from layer
    to layer spread the rounding, so that a small change of the ratio has an effect.
    """
    whole = int(ratio * size + place)
    if ratio <= 0 or whole < 1:
        raise ValueError(f"{name}={ratio} leaves no features of width={size}: it must be positive")
    return whole
