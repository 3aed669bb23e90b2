"""Scores at random weights, and heat maps: they hold what they say, and change nothing."""

import numpy as np
import pytest
import torch
from torch import nn

import kanzoo
from kanzoo.interpret.control import input_scores, random_scores, rank_correlation, redrawn
from kanzoo.interpret.curves import SHARES, magnitude_curve, score_curve
from kanzoo.interpret.edges import edge_functions
from kanzoo.interpret.pictures import heat
from kanzoo.layers import KANLinear


def test_a_control_forgets_what_was_trained_and_repeats() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        KANLinear(3, 4), nn.BatchNorm1d(4), KANLinear(4, 4, basis="rational"), nn.Linear(4, 2)
    )
    x = 5 + 3 * torch.randn(200, 3)
    other = redrawn(net, x, 1).state_dict()  # before training
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(7)
    control = redrawn(net, x, 1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(control.state_dict(), other, rtol=0, atol=0)
    assert not torch.equal(redrawn(net, x, 2)[0].weight, control[0].weight)
    assert all(torch.equal(net.state_dict()[k], v + 7) for k, v in before.items() if "weight" in k)
    assert net[0].outside_share(x) > 0.1
    assert control[0].outside_share(x) == 0  # its grid is fitted to the data
    hidden = control[1](control[0](x))
    torch.testing.assert_close(hidden.mean(0), torch.zeros(4), atol=1e-4, rtol=0)


def test_an_input_that_is_used_leaves_its_range_at_random_weights() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(KANLinear(4, 3))
    with torch.no_grad():
        net[0].weight[0] *= 20
    x = torch.randn(100, 4)
    (layer,) = edge_functions(net, x)
    random = random_scores(net, x)["0"]
    assert random.draws.shape == (5, *layer.scores.shape)
    scores = input_scores(layer.scores)
    assert scores[0] > 5 * random.inputs[:, 0].max()
    assert (scores[1:] < 3 * random.inputs[:, 1:].max(0)).all()
    low, high = random.edge_range((0, 1, 0))
    assert (low, high) == (random.draws[:, 0, 1, 0].min(), random.draws[:, 0, 1, 0].max())
    assert rank_correlation(scores, np.stack([scores, -scores])) == pytest.approx(0)
    assert rank_correlation(scores, scores[None] ** 3) == pytest.approx(1)
    assert np.isnan(rank_correlation(np.ones(4), random.inputs))


def test_architectures_have_controls() -> None:
    for name in ("vit", "convnet"):
        options = {"width": 8, "depth": 1} if name == "vit" else {"width": 4}
        net = kanzoo.create_model(name, in_shape=(1, 8, 8), num_outputs=3, seed=0, **options)
        scores = random_scores(net, torch.randn(8, 1, 8, 8), seeds=(3, 4))
        assert all(np.isfinite(s.draws).all() and np.ptp(s.draws, 0).max() > 0
                   for s in scores.values())  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 40, 50), (7, 5)])
def test_a_map_has_the_sum_of_its_scores(shape: tuple[int, ...]) -> None:
    scores = np.random.default_rng(0).random(int(np.prod(shape)))
    maps = heat.input_map(scores, shape)
    assert maps.sum() == pytest.approx(scores.sum())
    np.testing.assert_allclose(maps.sum((1, 2)), scores.reshape(len(maps), -1).sum(1))
    assert maps[0].size <= heat.MOST_CELLS
    if shape == (1, 8, 8):
        assert maps[0, 2, 5] == scores[2 * 8 + 5]
        figure = heat.draw(list(maps), ["scores"])
        alphas = [patch.get_alpha() for patch in figure.axes[0].patches]
        np.testing.assert_allclose(alphas, scores / scores.max())


def test_a_kernel_map_keeps_the_squares() -> None:
    scores = np.random.default_rng(0).random((3, 4, 9))
    found = heat.kernel_map(scores)
    assert found.shape == (3, 9)
    assert (found**2).sum() == pytest.approx((scores**2).sum())


def test_pruning_keeps_shares_and_an_order_that_knows_the_strong_edges_is_better() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(KANLinear(10, 4), KANLinear(4, 2))
    with torch.no_grad():
        net[0].weight[3:] *= 0.01  # seven inputs hardly count
    x = torch.randn(200, 10)
    before = net(x).detach()
    state = {k: v.clone() for k, v in net.state_dict().items()}

    def error(other: nn.Module) -> float:
        return float((other(x) - before).square().mean())

    scored, random = score_curve(net, x, error), score_curve(net, x, error, seed=0)
    for curve in (scored, random):
        assert curve[0] == (1.0, 0.0)
        shares = np.array([share for share, _ in curve])
        assert (np.diff(shares) < 0).all()
        assert (abs(shares - SHARES[: len(shares)]) <= 2 / 48).all()
    assert scored[2][1] < 0.05 * random[2][1]  # half of the edges
    assert all(torch.equal(value, net.state_dict()[k]) for k, value in state.items())


def test_an_mlp_is_pruned_by_magnitude() -> None:
    net = kanzoo.create_model("mlp", layers="mlp", in_shape=(6,), num_outputs=2, width=5, seed=0)
    x, layer = torch.randn(50, 6), net.stem
    seen = []

    def keep(other: nn.Module) -> float:
        seen.append(other.get_submodule("stem").edges_left())
        return float(other(x).std())

    magnitude_curve(net, keep)
    size = layer.edge_weight()[:, 0, :, 0].abs()
    for left in seen:
        assert not (~left).any() or size[left].min() >= size[~left].max()
    with pytest.raises(ValueError, match="no MLP"):
        magnitude_curve(nn.Sequential(KANLinear(2, 2)), keep)
