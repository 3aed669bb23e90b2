"""What an architecture declares about itself."""

from collections.abc import Collection
from typing import Any, ClassVar

from torch import nn

from kanzoo.checks import MAX_WHOLE, check_init
from kanzoo.layers.options import check_sizes

InnerSizes = dict[str, int | float] | None


class Architecture(nn.Module):
    """A network written once against a `LayerFactory`.

    A subclass takes `(in_shape, num_outputs, layers, **options)` and declares

    - `kinds`: the kinds of data that it accepts, of those in `kanzoo.data.base.KINDS`;
    - `roles`: the roles that its layers ask the factory for;
    - `activated`: those of them in which the MLP twin is not linear;
    - `coarse`, `fine`: the options that scale the network where budget matching may: a whole number
      (None if nothing does), and a real ratio that trims it (None if there is nothing to trim);
    - `inner_sizes`: the options that size nothing but what lies inside some roles.

    Inputs are real numbers, `(B, *in_shape)`, unless a network `takes_tokens`: then whole ones.
    """

    kinds: ClassVar[tuple[str, ...]]
    roles: ClassVar[tuple[str, ...]]
    activated: ClassVar[tuple[str, ...]] = ()
    coarse: ClassVar[str | None] = "width"
    fine: ClassVar[str | None] = None
    recipe: dict[str, Any] | None = None  # how it was built, set by `kanzoo.models.build`
    takes_tokens: bool = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        check_init(cls)

    @classmethod
    def roles_for(cls, in_shape: tuple[int, ...]) -> tuple[str, ...]:
        """The roles that there are for inputs of a shape."""
        return cls.roles

    @classmethod
    def step_of(cls, option: str, options: dict[str, Any]) -> int:
        """What a size must be a multiple of: the coarse option or an inner one."""
        return 1

    @classmethod
    def inner_sizes(cls, roles: Collection[str], options: dict[str, Any]) -> InnerSizes:
        """The options that change no layer outside of some roles but its neighbours, with values.

        Whole numbers are sizes, real ones ratios. None: the coarse option itself lies inside, so
        that there is no trunk to keep.
        """
        return {}


def check_image(model: str, in_shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless inputs are images (C, H, W)."""
    if len(in_shape) != 3:
        raise ValueError(f"{model} needs images (C, H, W), got inputs of shape {in_shape}")


def size_or(name: str, size: int | None, ratio_name: str, ratio: float, width: int) -> int:
    """A size that was given, else a ratio of the width."""
    if size is None:
        return scaled(ratio_name, ratio, width)
    check_sizes(**{name: size})
    return size


def transformer_sizes(roles: Collection[str], options: dict[str, Any]) -> dict[str, int | float]:
    """The inner sizes of a transformer: features inside attention and feed-forward parts."""
    width = options["width"]
    sizes: dict[str, int | float] = {}
    if "attn" in roles:
        sizes["attn_width"] = options["attn_width"] or width
    if "ffn" in roles:
        given = options["ffn_width"]
        sizes["ffn_width"] = size_or("ffn_width", given, "ffn_ratio", options["ffn_ratio"], width)
    return sizes


def scaled(name: str, ratio: float, size: int, threshold: float = 0.5) -> int:
    """The size times a ratio as a whole number; `ValueError` names the ratio if none is left.

    `threshold` in (0, 1) says from which fraction on it is rounded up. Thresholds that differ from
    layer to layer distribute the rounding, so that a small change of the ratio has an effect.
    """
    if ratio * size >= MAX_WHOLE:
        raise ValueError(f"{name}={ratio:g} of width={size} is more features than fit into memory")
    rounded = int(ratio * size + threshold)
    if ratio <= 0 or rounded < 1:
        raise ValueError(f"{name}={ratio} leaves no features of width={size}: it must be positive")
    return rounded
