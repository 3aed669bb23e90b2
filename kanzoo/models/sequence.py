"""What networks that read step by step share: three kinds of input, an output at every position.

Axes: B batch, T positions, F features of a step, E width, V symbols.
"""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from kanzoo.checks import check_whole
from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.inputs import evaluating
from kanzoo.models.base import Architecture


class SequenceModel(Architecture):
    """Reads tokens `(T,)`, sequences `(T, F)` or images `(C, H, W)`, as H steps of C W features.

    Shapes: tokens `(B, T) -> (B, T, num_outputs)`, one vector a position, and `num_outputs` is the
    number of symbols too; all else `-> (B, num_outputs)`, the vector of the last position. An
    output depends on its own and earlier positions only. T may be anything up to `limit`, any at
    all if that is None.
    """

    kinds: ClassVar[tuple[str, ...]] = ("tokens", "sequence", "image")
    limit: int | None = None
    head: nn.Module

    def __init__(
        self, in_shape: tuple[int, ...], num_outputs: int, width: int, layers: LayerFactory
    ) -> None:
        super().__init__()
        self.takes_tokens = len(in_shape) == 1
        self.num_outputs = num_outputs
        if len(in_shape) == 1:
            self.length, self.features = in_shape[0], 0
        elif len(in_shape) == 2:
            self.length, self.features = in_shape
        elif len(in_shape) == 3:
            self.length, self.features = in_shape[1], in_shape[0] * in_shape[2]
        else:
            raise ValueError(
                f"{self.name} needs tokens (T,), sequences (T, F) or images (C, H, W), "
                f"got inputs of shape {in_shape}"
            )
        # Both kinds of stem put out values of unit variance.
        self.stem: nn.Module = (
            nn.Embedding(num_outputs, width)
            if self.takes_tokens
            else layers.linear("stem", self.features, width, activate=False)
        )

    @property
    def name(self) -> str:
        """The name for messages."""
        return type(self).__name__.lower()

    @classmethod
    def roles_for(cls, in_shape: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(role for role in cls.roles if role != "stem" or len(in_shape) > 1)

    def embed(self, x: Tensor) -> Tensor:
        """Every step as a vector of unit variance: `(B, T)`, `(B, T, F)` or images `-> (B, T, E)`.

        Raises `ValueError` for inputs of another kind and for more steps than the limit.
        """
        if x.dim() == 4 and not self.takes_tokens:
            x = x.transpose(1, 2).flatten(2)  # (B, H, C W)
        if x.dim() != 3 - self.takes_tokens:
            wanted = "tokens (B, T)" if self.takes_tokens else f"steps of {self.features} features"
            raise ValueError(f"{self.name} reads {wanted}, got an input of shape {tuple(x.shape)}")
        if self.limit is not None and x.shape[1] > self.limit:
            raise ValueError(f"{self.name} reads at most {self.limit} steps, got {x.shape[1]}")
        embedded: Tensor = self.stem(x)
        return embedded

    @abstractmethod
    def trunk(self, x: Tensor) -> Tensor:
        """What the head gets to see: embedded steps `(B, T, E) -> (B, T, E')`."""

    def every_position(self, x: Tensor) -> Tensor:
        """An output at every position: `-> (B, T, num_outputs)`."""
        outputs: Tensor = self.head(self.trunk(self.embed(x)))
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        if self.takes_tokens:
            return self.every_position(x)
        last: Tensor = self.head(self.trunk(self.embed(x))[:, -1])
        return last

    @torch.no_grad()
    def generate(
        self,
        tokens: Tensor,
        steps: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue tokens by as many as `steps`: `(B, T) -> (B, T + steps)`.

        Each is drawn from softmax(output / temperature) of the `top_k` likeliest symbols; a
        temperature of 0 takes the likeliest. No more than the last tokens that the network was
        built for are looked at.
        """
        if not self.takes_tokens:
            raise ValueError(f"this {self.name} was not built for tokens: nothing to generate")
        if tokens.dim() != 2 or tokens.shape[1] == 0:
            raise ValueError(f"generate needs tokens (B, T) to go on from, got {tokens.shape}")
        if temperature < 0:
            raise ValueError(f"temperature must not be negative, got {temperature}")
        if top_k is not None:
            check_whole("top_k", top_k, 1)
        with evaluating(self):
            for _ in range(steps):
                logits = self(tokens[:, -self.length :])[:, -1].float()  # (B, V)
                following = draw(logits, temperature, top_k, generator)
                tokens = torch.cat([tokens, following], 1)
        return tokens


def draw(
    logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None
) -> Tensor:
    """One symbol a row: `(B, V) -> (B, 1)`."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    shares = (logits / temperature).softmax(-1)
    if generator is None:
        return torch.multinomial(shares, 1)
    drawn = torch.multinomial(shares.to(generator.device), 1, generator=generator)
    return drawn.to(shares.device)
