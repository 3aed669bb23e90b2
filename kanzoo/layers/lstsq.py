"""The best weights of a single KAN layer, solved instead of trained.

Axes: N samples, C inputs, K functions an input, O outputs.
"""

import torch
from torch import Tensor

from kanzoo.layers.kan import KANLinear


@torch.no_grad()
def fit_least_squares(layer: KANLinear, x: Tensor, y: Tensor) -> None:
    """Give a layer the weights and biases of least squared error; of many, the smallest.

    Shapes: x `(N, C)`, y `(N, O)`. A KAN layer is linear in them, so this is the best it can do:
    an oracle for training. Solved by singular values in float64, so that constant inputs and fewer
    samples than coefficients do no harm.
    """
    layer.check_stored("weight", "bias")
    features = layer.expansion(x.to(layer.weight.dtype)).double()  # (K, N, C)
    matrix = features.permute(1, 2, 0).flatten(1)  # (N, C K)
    if layer.bias is not None:
        matrix = torch.cat([matrix, torch.ones_like(matrix[:, :1])], dim=1)
    solution = torch.linalg.lstsq(matrix.cpu(), y.double().cpu(), driver="gelsd").solution
    if layer.bias is not None:
        layer.bias.copy_(solution[-1])
        solution = solution[:-1]
    layer.weight.copy_(solution.view(layer.weight.shape))
