"""The squared error of small stacks and its gradient, straight by the kernels.

A line search evaluates a small network thousands of times, and most of the time goes into Python
and autograd. Here all memory and all arguments of the kernels are made once.

Axes: N samples, C inputs, O outputs of a layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kanzoo.fit.chain import chain
from kanzoo.kernels.native.call import max_threads
from kanzoo.kernels.spline.calls import bind_backward, bind_forward, sizes_of
from kanzoo.layers import KANLinear
from kanzoo.layers.dispatch import choose
from kanzoo.layers.parameters import count_params


def compiled_mse(net: nn.Module, x: Tensor, y: Tensor) -> "CompiledMSE | None":
    """The error of a network as a closure, or None for networks that it cannot compute.

    These are plain stacks of `KANLinear` with B-splines and nothing pruned or constrained, where
    there is a compiler. Grids and dtypes must not change afterwards. x `(N, C)`, y `(N, O)`.
    """
    try:
        layers = [stage.layer for stage in chain(net, x, allow_products=False)]
    except ValueError:
        return None
    trained = count_params(net)
    known = sum(p.numel() for layer in layers for p in (layer.weight, layer.bias) if p is not None)
    plain = trained == known and all(
        layer.edge_mask is None
        and not layer.is_constrained
        and layer.stores_weight
        and layer.weight.is_contiguous()
        and choose(layer.request(x.new_zeros(1, layer.in_features))).name == "direct"
        for layer in layers
    )
    return CompiledMSE(layers, x, y) if plain else None


class CompiledMSE:
    """A closure for LBFGS: the mean squared error of a stack, gradients in `grad` as usual."""

    def __init__(self, layers: Sequence[KANLinear], x: Tensor, y: Tensor) -> None:
        self.y = y
        self.passes: list[_Pass] = []
        for layer in layers:
            self.passes.append(_Pass(layer, self.passes[-1].y if self.passes else x))
        last = self.passes[-1].grad_y
        for first, second in zip(self.passes, self.passes[1:], strict=False):
            second.bind_backward(first.grad_y)
        self.passes[0].bind_backward(None)
        self.error, self.scale = last, 2 / y.numel()

    @torch.no_grad()
    def __call__(self) -> Tensor:
        for step in self.passes:
            step.forward()
        torch.sub(self.passes[-1].y, self.y, out=self.error)
        flat = self.error.view(-1)
        loss = flat.dot(flat) / len(flat)
        self.error.mul_(self.scale)
        for step in reversed(self.passes):
            step.backward()
        return loss


class _Pass:
    """One layer, from its inputs in one tensor to its outputs in another, and back."""

    def __init__(self, layer: KANLinear, x: Tensor) -> None:
        splines = layer.expansion.basis.splines()
        assert splines is not None
        self.x = x.contiguous()
        self.layer = layer
        self.weight = layer.weight.detach()
        self.knots = splines.knots.to(x.dtype).contiguous()
        self.y = x.new_empty(len(x), layer.out_features)
        self.grad_y = torch.empty_like(self.y)
        bias = None if layer.bias is None else layer.bias.detach()
        layer.weight.grad = torch.zeros_like(layer.weight)
        self.grad_weight = layer.weight.grad
        shapes = (self.x.shape, self.weight.shape, self.knots.shape)
        options = (splines.order, splines.extrapolation, layer.expansion.residual)
        self.sizes = sizes_of(*shapes, *options, max_threads())
        tensors = (self.x, self.weight, bias, self.knots, self.y, None)
        self.forward = bind_forward(self.sizes, *tensors)

    def bind_backward(self, grad_x: Tensor | None) -> None:
        tensors = (self.grad_y, self.x, self.weight, self.knots, grad_x, self.grad_weight, None)
        self.run_backward = bind_backward(self.sizes, *tensors)

    def backward(self) -> None:
        self.run_backward()
        if self.layer.bias is not None:
            self.layer.bias.grad = self.grad_y.sum(0)
