"""Numbers of the CPU's generators on another default device, which PyTorch refuses to mix."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors


class DrawnOnTheCPU(TorchFunctionMode):
    """Tensors of a generator are drawn where it is, then moved to the default device."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        generator = options.get("generator")
        drawn = generator is not None and func in _device_constructors()
        if not drawn or options.get("device") is not None:
            return func(*args, **options)
        requires_grad = options.pop("requires_grad", False)
        numbers = func(*args, **options, device=generator.device)
        return numbers.to(torch.get_default_device()).requires_grad_(requires_grad)
