"""Multi-head attention whose projections come from the layer factory.

Axes: B batch, T tokens, E width, H heads, D = E / H.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kanzoo.layers.factory import LayerFactory


class Attention(nn.Module):
    """Scaled dot-product self-attention (1706.03762, eq. 1), projections in the role `attn`.

    Shapes: `(B, T, E) -> (B, T, E)`.
    """

    def __init__(
        self, width: int, heads: int, layers: LayerFactory, *, causal: bool = False
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads={heads} must divide width={width}")
        self.heads = heads
        self.causal = causal
        self.qkv = layers.linear("attn", width, 3 * width, activate=False)
        self.out = layers.linear("attn", width, width, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, T, 3, H, D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, T, E)
