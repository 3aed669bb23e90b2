"""Operators of PyTorch over compiled kernels, each with an operator for its gradients.

The forward saves its inputs only; second derivatives go through the definition.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def register(
    name: str,
    signature: str,
    variables: int,
    *,
    forward: Callable[..., Tensor],
    backward: Callable[..., tuple[Tensor, ...]],
    fake: Callable[..., Tensor],
    definition: Callable[..., Tensor],
    layout: Callable[[Tensor], Tensor] = Tensor.contiguous,
    devices: str = "cpu",
) -> None:
    """Make `kanzoo::NAME` and `kanzoo::NAME_backward` known, with all rules but that of FLOPs.

    Parameters
    ----------
    signature
        Arguments with their types: tensors first, then options.
    variables
        How many of the tensors, the first, have gradients.
    forward, backward
        The kernels. `backward` gets the gradient of the output before the arguments, and
        after them whether that of each variable is needed; those that are not are empty.
    fake
        The output as `forward` returns it, without values.
    definition
        The same in differentiable operations.
    layout
        A tensor in the memory order that its gradient has.
    devices
        Which devices the kernels are for: "cpu", or "default" for all.
    """
    both = f"kanzoo::{name}", f"kanzoo::{name}_backward"
    needs = ", ".join(f"bool need_{i}" for i in range(variables))
    schemas = (
        f"({signature}) -> Tensor",
        f"(Tensor grad, {signature}, {needs}) -> ({', '.join(['Tensor'] * variables)})",
    )
    for operator, schema, kernel in zip(both, schemas, (forward, backward), strict=True):
        torch.library.define(operator, schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.impl(operator, devices, kernel)
    tensors = signature.count("Tensor")

    def fake_backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        pairs = zip(arguments[:variables], arguments[-variables:], strict=True)
        return tuple(
            torch.empty_like(layout(t)) if need and t is not None else grad.new_empty(0)
            for t, need in pairs
        )

    def save(count: int) -> Callable[..., None]:
        def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.save_for_backward(*inputs[:count])
            ctx.options = inputs[count:]

        return setup

    def first_derivative(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        pairs = zip(ctx.needs_input_grad, saved[:variables], strict=False)
        needed = [need and t is not None for need, t in pairs]
        call = getattr(torch.ops.kanzoo, f"{name}_backward")
        grads = call(grad, *saved, *ctx.options, *needed)
        results = [g if need else None for g, need in zip(grads, needed, strict=True)]
        return *results, *[None] * (len(ctx.needs_input_grad) - variables)

    def second_derivative(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, *inputs = ctx.saved_tensors
        options, needed = ctx.options[:-variables], ctx.options[-variables:]

        def function(*values: Tensor | None) -> Tensor:
            return definition(*values, *inputs[variables:], *options)

        second = differentiate_gradient(function, [grad, *inputs[:variables]], grads, needed)
        return *second, *[None] * (len(ctx.needs_input_grad) - len(second))

    torch.library.register_fake(both[0], fake)
    torch.library.register_fake(both[1], fake_backward)
    torch.library.register_autograd(both[0], first_derivative, setup_context=save(tensors))
    torch.library.register_autograd(both[1], second_derivative, setup_context=save(tensors + 1))


def differentiate_gradient(
    function: Callable[..., Tensor],
    variables: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of <grads, gradient of function> with respect to the output's gradient and inputs.

    `variables` are both; `needs` tells which gradients of the inputs were computed.
    """
    keep_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases, as one variable may have been computed from another (residual from x).
        grad, *values = (
            t if t is None else t.view_as(t) if t.requires_grad else t.detach().requires_grad_()
            for t in variables
        )
        assert grad is not None
        inputs = [t for t in values if t is not None]
        first = torch.autograd.grad(
            function(*values), inputs, grad, create_graph=True, materialize_grads=True
        )
        pairs = [
            (f, g)
            for f, g, need in zip(first, grads, needs, strict=False)
            if need and g is not None and f.requires_grad
        ]
        if not pairs:
            return (None,) * len(variables)
        second = torch.autograd.grad(
            [f for f, _ in pairs],
            [grad, *inputs],
            [g for _, g in pairs],
            create_graph=keep_graph,
            materialize_grads=True,
        )
    return *second, *[None] * (len(variables) - len(second))
