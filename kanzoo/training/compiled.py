"""A network compiled by `torch.compile` for training steps, or as it is where that fails."""

import logging

import torch
from torch import Tensor, nn

log = logging.getLogger("kanzoo")


class CompiledNet:
    """Calls a network through `torch.compile`, from the first failure on by itself.

    Training batches are all equally large, so that nothing is compiled twice for their shapes;
    evaluation, whose last batch differs, takes the network itself.
    """

    def __init__(self, net: nn.Module, backend: str = "inductor") -> None:
        self.net = net
        self._compiled = torch.compile(net, backend=backend)
        self.is_compiled = True

    def __call__(self, x: Tensor) -> Tensor:
        if self.is_compiled:
            from torch._dynamo.exc import TorchDynamoException
            from torch._inductor.exc import InductorError

            try:
                y: Tensor = self._compiled(x)
                return y
            except (TorchDynamoException, InductorError) as error:
                self.is_compiled = False
                reason = " ".join(str(error).split())[:200]
                log.warning("trainer.compile: not compiled, and trained as it is: %s", reason)
        y = self.net(x)
        return y
