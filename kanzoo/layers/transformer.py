"""The blocks of transformers and of their relatives.

Axes: B batch, T tokens, E width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kanzoo.checks import check_name
from kanzoo.layers.attention import Attention
from kanzoo.layers.factory import LayerFactory

FFNS = ("plain", "swiglu")


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


class SwiGLU(nn.Module):
    """W2 (silu(W x) * V x) (2002.05202, eq. 6), with 2/3 of the hidden features.

    Shapes: `(..., features) -> (..., features)`. Its three matrices have as many weights as the two
    of a `FeedForward` of the same `hidden`.
    """

    def __init__(self, role: str, features: int, hidden: int, layers: LayerFactory) -> None:
        super().__init__()
        hidden = max(1, round(2 * hidden / 3))
        self.fc1 = layers.linear(role, features, 2 * hidden, activate=False)
        self.fc2 = layers.linear(role, hidden, features, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, -1)
        return self.fc2(F.silu(gate) * value)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a feed-forward part.

    Shapes: `(B, T, E) -> (B, T, E)`. `attn_width`, `causal` and `rotary` are those of `Attention`;
    `ffn` is "plain" or "swiglu".
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
        attn_width: int | None = None,
        ffn: str = "plain",
        causal: bool = False,
        rotary: int | None = None,
    ) -> None:
        super().__init__()
        check_name("ffn", ffn, FFNS)
        feed_forward = SwiGLU if ffn == "swiglu" else FeedForward
        self.norm1 = layers.norm(norm, width)
        self.attn = Attention(width, heads, layers, inner=attn_width, causal=causal, rotary=rotary)
        self.norm2 = layers.norm(norm, width)
        self.ffn = feed_forward("ffn", width, hidden, layers)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attn(self.norm1(x)))
        return x + self.dropout(self.ffn(self.norm2(x)))


def check_token_norm(model: str, norm: str) -> None:
    """Raise `ValueError` for a normalisation over the batch, which would mix positions."""
    if norm == "batch":
        raise ValueError(f"norm of {model} must be layer or none: tokens have no batch statistics")
