"""The blocks of transformers and of their relatives.

Axes: B batch, T tokens, E width.
"""

from torch import Tensor, nn

from kanzoo.layers.attention import Attention
from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.norm import make_norm


class FeedForward(nn.Module):
    """Two layers of one role over the last dimension, an activation between them.

    Shapes: `(..., features) -> (..., features)`.
    """

    def __init__(self, role: str, features: int, hidden: int, layers: LayerFactory) -> None:
        super().__init__()
        self.fc1 = layers.linear(role, features, hidden, activate=False)
        self.fc2 = layers.linear(role, hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x))


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a feed-forward part.

    Shapes: `(B, T, E) -> (B, T, E)`. `causal` and `rotary` are those of `Attention`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        norm: str,
        layers: LayerFactory,
        dropout: float,
        *,
        causal: bool = False,
        rotary: int | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = make_norm(norm, width)
        self.attn = Attention(width, heads, layers, causal=causal, rotary=rotary)
        self.norm2 = make_norm(norm, width)
        self.ffn = FeedForward("ffn", width, hidden, layers)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attn(self.norm1(x)))
        return x + self.dropout(self.ffn(self.norm2(x)))


def check_token_norm(model: str, norm: str) -> None:
    """Raise `ValueError` for a normalisation over the batch, which would mix positions."""
    if norm == "batch":
        raise ValueError(f"norm of {model} must be layer or none: tokens have no batch statistics")
