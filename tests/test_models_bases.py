"""Every basis of conf/basis and every architecture, role by role, at equal parameters."""

import pytest
import torch
from zoo import (
    ROTATED,
    check_batch_mates,
    check_causality,
    check_gradients,
    choices_of_roles,
    inputs,
    main_kind,
    matching_sizes,
    out_shape,
    plan,
    roles_of,
)

from kanzoo.layers.parameters import count_params


@pytest.mark.parametrize(("name", "basis"), ROTATED)
def test_basis_works_in_every_role(name: str, basis: str) -> None:
    kind = main_kind(name)
    x = inputs(kind, 4)
    options = matching_sizes(name)
    for roles in choices_of_roles(name)[1:]:
        matched = plan(name, roles, basis=basis, match="params", scope="network", **options)
        assert matched.params / matched.twin_params == pytest.approx(1.0, abs=0.02), roles
        state = torch.get_rng_state()
        net = matched.build(seed=3)
        assert torch.equal(torch.get_rng_state(), state)
        assert count_params(net) == matched.params
        out = net(x)
        assert out.shape == out_shape(kind, 4)
        assert out.isfinite().all()
        check_gradients(net, out)
        check_batch_mates(net, x)
        if hasattr(net, "every_position"):
            check_causality(net, x)
    assert len(roles_of(name)) >= 2
