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
    """

    kinds: ClassVar[tuple[str, ...]]
    roles: ClassVar[tuple[str, ...]]
    coarse: ClassVar[str] = "width"
    fine: ClassVar[str | None] = None
    recipe: dict[str, Any] | None = None  # how it was built, set by `kanzoo.build`

    @classmethod
    def coarse_step(cls, options: dict[str, Any]) -> int:
        """The coarse option must be a multiple of this."""
        return 1
