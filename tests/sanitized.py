"""Calls of the compiled kernels for AddressSanitizer and UndefinedBehaviorSanitizer to watch.

``python sanitized.py build`` compiles without optimisation by the compiler in CXX, ``run`` then
calls kernels at sizes around the lengths of vectors and blocks; the sanitizers end it at a fault.
"""

import sys
from itertools import product

import torch
from torch import Tensor

from kanzoo import get_basis, kernels
from kanzoo.kernels.native import build
from kanzoo.layers import KANConv2d, KANLinear
from kanzoo.layers.dispatch import choose

LIBRARIES = (("linear", 3), ("linear", 0), ("conv", 3), ("functions", None))


def step(layer: KANLinear | KANConv2d, x: Tensor, name: str) -> None:
    """Forward and backward by the path of that name."""
    x = x.requires_grad_()
    assert choose(layer.request(x)).name == name
    y = layer(x)
    y.square().sum().backward()
    assert y.isfinite().all()


def run_linear() -> None:
    for order, cells, inputs, outputs in product((0, 3), (1, 5, 50), (1, 15, 33), (1, 16, 70)):
        for extrapolation, grid in product(("zero", "linear"), ("uniform", "adaptive")):
            options = {"grid_size": cells, "extrapolation": extrapolation, "grid": grid}
            basis = get_basis("bspline", spline_order=order, **options)
            layer = KANLinear(inputs, outputs, basis=basis)
            for rows in (1, 9, 130):
                x = 3 * torch.randn(rows, inputs)
                x[0, 0] = torch.inf
                x[-1, -1] = -4.0
                step(layer, x.nan_to_num(posinf=1e30), "direct")
                layer.bias = None
    step(
        KANLinear(40, 300, basis=get_basis("bspline", grid_size=20)), torch.randn(700, 40), "direct"
    )


def run_conv() -> None:
    cases = (
        ((1, 1, 1), {}),
        ((2, 16, 2), {"padding": 1}),
        ((3, 17, 1), {"stride": 2, "padding": 2}),
    )
    for (kernel, outputs, groups), options in cases:
        for cells, adaptive in product((1, 20), (False, True)):
            basis = get_basis(
                "bspline", grid_size=cells, grid="adaptive" if adaptive else "uniform"
            )
            layer = KANConv2d(4, outputs * groups, kernel, groups=groups, basis=basis, **options)
            for images, side in ((1, 3), (5, 9)):
                step(layer, 2 * torch.randn(images, 4, side, side + 1), "native")


def run_functions() -> None:
    for name in ("chebyshev", "bernstein", "rbf", "fourier", "sine", "mexican_hat", "relu_kan"):
        for inputs, rows in ((3, 5000), (16, 700), (70, 200)):
            x = torch.randn(rows, inputs)
            step(KANLinear(inputs, 9, basis=name, backend="compiled"), x, "families")
        layer = KANConv2d(5, 6, 3, padding=1, basis=name, backend="compiled")
        step(layer, torch.randn(12, 5, 12, 11), "families")
    for shape in ((70, 3), (5, 16), (3, 7, 33), (1, 1)):
        KANLinear(shape[-1], 2, basis="rational")(torch.randn(shape)).sum().backward()


if __name__ == "__main__":
    build.BASE_FLAGS = tuple("-O0" if flag == "-O3" else flag for flag in build.BASE_FLAGS)
    build.TIMEOUT = 1200
    if sys.argv[1] == "build":
        for library, order in LIBRARIES:
            build.build(library, order, "float")
    else:
        assert all(kernels.is_available(*which) for which in LIBRARIES)
        torch.manual_seed(0)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for run in (run_linear, run_conv, run_functions):
                run()
                print(run.__name__, threads, flush=True)
