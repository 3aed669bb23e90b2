"""What an architecture declares about itself."""

from typing import Any, ClassVar

from torch import nn


class Architecture(nn.Module):
    """A network written once against a `LayerFactory`.

    A subclass takes `(in_shape, num_outputs, layers, **options)` and declares

    - `roles`: the roles that its layers ask the factory for;
    - `kinds`: the kinds of data that it accepts (`kanzoo.data.DataSpec`);
    - `coarse`, `fine`: the options that budget matching solves: a whole number that scales the
      network, and a real ratio that trims it (None if there is nothing to trim).
    """

    roles: ClassVar[tuple[str, ...]]
    kinds: ClassVar[tuple[str, ...]] = ("image",)
    coarse: ClassVar[str] = "width"
    fine: ClassVar[str | None] = None
    recipe: dict[str, Any] | None = None  # how it was built, set by `kanzoo.build`

    @classmethod
    def coarse_step(cls, options: dict[str, Any]) -> int:
        """The coarse option must be a multiple of this."""
        return 1
