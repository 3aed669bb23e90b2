"""Multi-head attention whose projections come from the layer factory.

Axes: B batch, T tokens, E width, H heads, D features of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanzoo.layers.factory import LayerFactory


class Rotary(nn.Module):
    """Rotary positions (RoFormer, 2104.09864, eq. 34): pairs of features turn with the position.

    Shapes: `(..., T, D) -> (..., T, D)` for an even D and T up to `length`. The product of two
    turned vectors depends on the distance of their positions alone.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, features: int, length: int, *, base: float = 10_000.0) -> None:
        super().__init__()
        if features % 2:
            raise ValueError(f"rotary positions need an even width of a head, got {features}")
        frequencies = base ** (-torch.arange(0, features, 2) / features)
        angles = torch.arange(length).unsqueeze(1) * frequencies  # (T, D / 2)
        self.register_buffer("cosine", angles.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sine", angles.sin().repeat(1, 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[-2]
        first, second = x.chunk(2, -1)
        across = torch.cat([-second, first], -1)
        return (x * self.cosine[:length] + across * self.sine[:length]).to(x.dtype)


class Attention(nn.Module):
    """Scaled dot-product self-attention (1706.03762, eq. 1), projections in the role `attn`.

    Shapes: `(B, T, E) -> (B, T, E)`. All heads together have `inner` features, as many as the width
    if that is None. A `causal` one looks at no later position; `rotary` is the
    longest sequence of one with rotary positions, None without.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        layers: LayerFactory,
        *,
        inner: int | None = None,
        causal: bool = False,
        rotary: int | None = None,
    ) -> None:
        super().__init__()
        name, inner = ("width", width) if inner is None else ("attn_width", inner)
        if heads < 1 or inner % heads:
            raise ValueError(f"heads={heads} must divide {name}={inner}")
        self.heads, self.inner = heads, inner
        self.causal = causal
        self.qkv = layers.linear("attn", width, 3 * inner, activate=False)
        self.rotary = None if rotary is None else Rotary(inner // heads, rotary)
        self.out = layers.linear("attn", inner, width, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv  # (B, H, T, D) each
        if self.rotary is not None:
            q, k = self.rotary(qkv[:2])
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, T, E)
