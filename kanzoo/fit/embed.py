"""Stacks without hidden layers put into such with them, as a start."""

import torch
from torch import Tensor, nn

from kanzoo.layers import KANLinear


def layers_of(net: nn.Sequential) -> list[KANLinear]:
    return list(net)  # type: ignore[arg-type]


def bias_of(layer: KANLinear) -> Tensor:
    assert layer.bias is not None
    return layer.bias.data


@torch.no_grad()
def embed(net: nn.Sequential, base: nn.Sequential) -> None:
    """Let the first nodes of hidden layers hand on the outputs of a stack without any."""
    layers = layers_of(net)
    first, last, other = layers[0], layers[-1], layers_of(base)[0]
    count = min(first.out_features // 2 or 1, other.out_features)
    scale = 1 + other.weight.abs().sum((0, 1))[:count]
    functions = slice(None) if first.weight.shape[1] == other.weight.shape[1] else slice(-1, None)
    first.weight[:, :, :count] = 0
    first.weight[:, functions, :count] = other.weight[:, functions, :count] / scale
    bias_of(first)[:count] = bias_of(other)[:count] / scale
    for layer in layers[1:-1]:
        layer.weight[:, :, :count] = 0
        layer.weight[range(count), -1, range(count)] = 1
    last.weight.mul_(0.1)
    last.weight[:count] = 0
    last.weight[range(count), -1, range(count)] = scale
