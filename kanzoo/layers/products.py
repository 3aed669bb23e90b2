"""Nodes that multiply, as in MultKAN (KAN 2.0, 2408.10205, section 2.1)."""

import torch
from torch import Tensor, nn


class Products(nn.Module):
    """The last `products` of `features` nodes are products of two inputs each, the others inputs.

    Shapes: `(..., features + products) -> (..., features)`, in the order of the inputs; without
    parameters. Behind a KAN layer they are the multiplication nodes of MultKAN.
    """

    def __init__(self, features: int, products: int) -> None:
        super().__init__()
        if not 0 <= products <= features:
            raise ValueError(f"products must be from 0 to {features} features, got {products}")
        self.features, self.products = features, products

    def forward(self, x: Tensor) -> Tensor:
        return multiply(x, self.products)

    def extra_repr(self) -> str:
        return f"{self.features}, products={self.products}"


def multiply(x: Tensor, products: int) -> Tensor:
    """The last `products` pairs of x multiplied: `(..., S + 2 products) -> (..., S + products)`."""
    if not products:
        return x
    sums = x.shape[-1] - 2 * products
    return torch.cat([x[..., :sums], x[..., sums::2] * x[..., sums + 1 :: 2]], dim=-1)


def node_of(features: int, products: int) -> list[int]:
    """The node that every input of `Products(features, products)` leads to."""
    sums = features - products
    return [*range(sums), *(sums + pair // 2 for pair in range(2 * products))]
