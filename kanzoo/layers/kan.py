"""KAN layers: a basis expansion of the inputs, then an ordinary linear operator.

Axes: C input channels, O output channels, K functions a channel (basis and residual).
"""

from typing import Never

import torch
from torch import Tensor

from kanzoo.bases.base import Basis, BasisFactory
from kanzoo.layers.constraint import check_equal_rows, check_tied, tie
from kanzoo.layers.dispatch import compute
from kanzoo.layers.layer import KANLayer
from kanzoo.layers.options import OPTIONS, check_channels, check_sizes, refuse_unknown
from kanzoo.layers.paths.base import Request


class KANLinear(KANLayer):
    __doc__ = f"""Linear map of basis functions: y_o = b_o + sum_i sum_k W[i, k, o] phi_k(x_i).

    Shapes: `(..., in_features) -> (..., out_features)`, as `nn.Linear`; weight `(C, K, O)`. Every
    edge i -> o has its own function sum_k W[i, k, o] phi_k, the residual branch being the last phi
    (KAN, 2404.19756, eq. 2.10, with the scale factors absorbed in the weights).

    Parameters
    ----------
    in_features, out_features : int
        Sizes of the last axis of inputs and outputs.
    bias : bool, default True
        Whether a trained number is added to every output.
    {OPTIONS}

    Raises
    ------
    ValueError
        For sizes, names or combinations that cannot be, with what is allowed.

    Examples
    --------
    >>> layer = KANLinear(64, 32, basis=get_basis("bspline", grid_size=10))
    >>> layer(torch.randn(8, 64)).shape
    torch.Size([8, 32])
    """

    function_dim = 1

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        basis: str | BasisFactory | type[Basis] = "bspline",
        residual: str | None = "auto",
        squash: str = "auto",
        init: str = "variance",
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **unknown: Never,
    ) -> None:
        refuse_unknown(type(self), basis, unknown)
        sizes = check_sizes(in_features=in_features, out_features=out_features)
        super().__init__(
            *sizes,
            bias=bias,
            basis=basis,
            residual=residual,
            squash=squash,
            init=init,
            device=device,
            dtype=dtype,
        )
        self.set_backend(backend, (1, in_features))

    def weight_shape(self, functions: int) -> tuple[int, ...]:
        return (self.in_features, functions, self.out_features)

    def request(self, x: Tensor) -> Request:
        check_channels(x, -1, self.in_features)
        weight, bias = self.masked_weight(), self.current_bias()
        return Request("linear", self.expansion, x, weight, bias, self.backend)

    def forward(self, x: Tensor) -> Tensor:
        if self.given and not self.weight.requires_grad and not self.open_edges():
            y, bias = x.new_zeros((*x.shape[:-1], self.out_features)), self.current_bias()
            y = y if bias is None else y + bias
        else:
            y = compute(self.request(x))
        return self.add_given(x, y) if self.given else y

    @torch.no_grad()
    def share_inputs(self, group: Tensor) -> None:
        """Let inputs with the same group number `(C,)` share their edges, which become their mean.

        The layer is then invariant under exchange of them. Raises `ValueError` where their edges
        are not expanded in the same functions, or are of different kinds.
        """
        self.check_stored()
        self.check_not_given()
        if group.shape != (self.in_features,):
            raise ValueError(f"group must be ({self.in_features},), got {tuple(group.shape)}")
        _, group = group.to(self.weight.device).unique(return_inverse=True)
        check_tied(group, self.expansion)
        for edges in (self.edge_kind, self.edge_mask):
            if edges is not None:
                check_equal_rows(edges, group)
        self.input_group = None
        shared = tie(self.unmasked_weight().movedim(1, 0), group).movedim(0, 1)
        self.input_group = group
        self._set_effective(shared, self.edge_kind)
