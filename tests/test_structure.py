"""Scores, regularisation, masks and pruning, against edge functions evaluated one by one."""

import copy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import kanzoo
from kanzoo.checks import build
from kanzoo.fit.least_squares import fit_lbfgs, fit_squares
from kanzoo.interpret.pruning import alive, prune, shrink, smallest
from kanzoo.interpret.scores import attribution, contrast, edge_scores, layer_scores
from kanzoo.layers import KANLayer
from kanzoo.settings import RegulariseConfig
from kanzoo.training.regularise import EdgeRegulariser, edge_penalty, entropy
from tests.conftest import Run

F64 = torch.float64
LAYERS = {
    "linear": lambda: kanzoo.KANLinear(3, 4, dtype=F64),
    "adaptive": lambda: kanzoo.KANLinear(3, 4, basis="bspline_adaptive", dtype=F64),
    "conv": lambda: kanzoo.KANConv2d(4, 6, 3, padding=1, groups=2, dtype=F64),
    "transposed": lambda: kanzoo.KANConvTranspose2d(4, 6, 3, groups=2, dtype=F64),
}


def make(kind: str) -> KANLayer:
    torch.manual_seed(3)
    return LAYERS[kind]()


def inputs(kind: str) -> Tensor:
    torch.manual_seed(4)
    return torch.randn((50, 3) if kind in ("linear", "adaptive") else (2, 4, 5, 5), dtype=F64)


def stack(*sizes: int, dtype: torch.dtype = F64, **options: object) -> nn.Sequential:
    torch.manual_seed(0)
    pairs = pairwise(sizes)
    return nn.Sequential(*[kanzoo.KANLinear(a, b, dtype=dtype, **options) for a, b in pairs])


def brute_force(layer: KANLayer, x: Tensor) -> Tensor:
    """Values (N, C, E, T) of all edges from `edge`, one call each."""
    rows = layer.rows(x)
    groups = int(getattr(layer, "groups", 1))
    per_group, outs = layer.in_features // groups, layer.out_features // groups
    taps = [(a, b) for a in range(3) for b in range(3)] if layer.taps > 1 else [None]
    values = torch.zeros(len(rows), layer.in_features, outs, len(taps), dtype=F64)
    for c in range(layer.in_features):
        for e in range(outs):
            for t, tap in enumerate(taps):
                args = (c % per_group, c // per_group * outs + e, rows[:, c])
                values[:, c, e, t] = layer.edge(*args, tap) if tap else layer.edge(*args)
    return values.detach()


@pytest.mark.parametrize("kind", LAYERS)
def test_scores_are_those_of_edges_evaluated_one_by_one(kind: str) -> None:
    layer, x = make(kind), inputs(kind)
    values = brute_force(layer, x)
    scores = layer_scores(layer, x)
    torch.testing.assert_close(scores.l1, values.abs().mean(0).sum(-1))
    torch.testing.assert_close(scores.std, values.std(0, correction=0).sum(-1))
    torch.testing.assert_close(scores.mean, values.mean(0).sum(-1))
    torch.testing.assert_close(layer.edge_norms(x).detach(), scores.l1)
    assert scores.outputs.shape == (layer.out_features,)
    assert scores.inputs.max() == scores.outputs.max() == scores.std.max()


@pytest.mark.parametrize("basis", ["bspline", "bspline_prelu"])
def test_the_local_and_the_global_part_of_edges_are_told_apart(basis: str) -> None:
    net, x = stack(3, 2, basis=basis), torch.randn(60, 3, dtype=F64)
    (found,) = contrast(net, x).values()
    layer = net[0]
    for i in range(3):
        for o in range(2):
            whole = layer.edge(i, o, x[:, i]).detach()
            act = torch.nn.functional.silu(x[:, i])
            if basis == "bspline_prelu":
                act = torch.where(x[:, i] > 0, x[:, i], 0.25 * x[:, i])
            part = layer.weight[i, -1, o].detach() * act
            assert found.global_part[i, o] == pytest.approx(float(part.std(correction=0)))
            rest = (whole - part).std(correction=0)
            assert found.local_part[i, o] == pytest.approx(float(rest))
    with torch.no_grad():
        layer.weight[:, :-1] = 0
    assert contrast(net, x)["0"].global_share == 1
    y = 2 * torch.nn.functional.prelu(x[:, :1], torch.tensor(0.1, dtype=F64))
    if basis == "bspline_prelu":  # a kink that splines only round off
        net = stack(3, 1, basis=kanzoo.get_basis("bspline_prelu", extrapolation="linear"))
        assert fit_squares(net, x, y, 40, ridge=1e-6) < 1e-3
        assert contrast(net, x)["0"].global_share > 0.5


@pytest.mark.parametrize("kind", LAYERS)
def test_a_mask_removes_its_edges_and_no_others_and_survives(kind: str) -> None:
    layer, x = make(kind), inputs(kind)
    before = brute_force(layer, x)
    keep = torch.rand(before.shape[1:3]) > 0.4
    layer.mask_channels(keep)
    assert torch.equal(alive(layer), keep)
    expected = before * keep.unsqueeze(-1)
    torch.testing.assert_close(brute_force(layer, x), expected)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
    assert not brute_force(layer, x)[:, ~keep].any()
    other = make(kind)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)
    assert torch.equal(alive(other), keep)
    assert torch.equal(alive(copy.deepcopy(layer)), keep)
    layer.mask_channels(~keep)  # masks add up
    assert not alive(layer).any()


def test_a_masked_layer_is_the_same_on_every_backend() -> None:
    torch.manual_seed(0)
    x, outputs = torch.randn(7, 5), {}
    keep = torch.rand(5, 4) > 0.5
    for backend in ("dense", "blocked", "auto"):
        torch.manual_seed(1)
        layer = kanzoo.KANLinear(5, 4, backend=backend)
        layer.mask_edges(keep)
        outputs[backend] = layer(x)
    for value in outputs.values():
        torch.testing.assert_close(value, outputs["dense"], rtol=1e-5, atol=1e-5)


def test_masks_are_saved_and_loaded_and_follow_the_grid(tmp_path: Path) -> None:
    net = kanzoo.create_model("mlp", in_shape=(4,), num_outputs=2, width=3, seed=0, norm="none")
    x = torch.randn(20, 4)
    pruned = prune(net, x, threshold=0.5).net
    with torch.no_grad():
        expected = pruned(x)
    kanzoo.save(pruned, tmp_path / "net")
    again = kanzoo.load(tmp_path / "net")
    torch.testing.assert_close(again(x), expected)
    assert not alive(again.stem).all()
    kept = alive(again.stem)
    again.stem.refine(10, x)
    assert torch.equal(alive(again.stem), kept)
    torch.testing.assert_close(again(x), expected, rtol=1e-4, atol=1e-4)


def test_entropy_is_finite_at_zero_and_right_elsewhere() -> None:
    zero = torch.tensor([0.0, 1.0, 3.0], dtype=F64, requires_grad=True)
    entropy(zero).backward()
    assert zero.grad.isfinite().all()
    assert entropy(zero).item() == pytest.approx(0.5623351446188083)
    nothing = torch.zeros(4, dtype=F64, requires_grad=True)
    value = edge_penalty(nothing.view(2, 2))
    value.backward()
    assert value.item() == 0
    assert nothing.grad.isfinite().all()
    positive = torch.rand(5, dtype=F64).add(0.1).requires_grad_()
    assert torch.autograd.gradcheck(entropy, positive)
    norms = torch.rand(3, 4, dtype=F64).add(0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda n: edge_penalty(n, 0.7, 1.3), norms)
    assert entropy(torch.ones(8, dtype=F64)).item() == pytest.approx(8 * 0.125 * 2.0794415416798)


def test_regularising_makes_a_network_sparse() -> None:
    net = stack(3, 2, 1)
    x = torch.rand(100, 3, dtype=F64) * 2 - 1
    y = 3 * x[:, :1] ** 2
    shares = {}
    for lamb in (0.0, 0.003):
        trained, regulariser = copy.deepcopy(net), EdgeRegulariser(RegulariseConfig(lamb))

        def penalty(net: nn.Module = trained, own: EdgeRegulariser = regulariser) -> Tensor:
            with own.watching(net):
                net(x)
            return own.penalty() + x.new_zeros(())

        fit_lbfgs(trained, x, y, nn.functional.mse_loss, 60, penalty)
        norms = trained[0].edge_norms(x)
        shares[lamb] = (norms[0].sum() / norms.sum()).item()
        assert not any(layer._forward_pre_hooks for layer in trained)
    assert shares[0.003] > 0.95 > shares[0.0]
    with pytest.raises(ValueError, match=r"callbacks\.regularise\.lamb must be .* at least 0"):
        build(RegulariseConfig, {"lamb": -1.0}, "callbacks.regularise.")


def test_attribution_goes_back_along_the_edges() -> None:
    net, x = stack(3, 2, 1), torch.randn(200, 3, dtype=F64)
    found = attribution(net, x)
    hidden = net[0](x).detach()
    edges = brute_force(net[1], hidden).std(0, correction=0)[..., 0]
    last = edges / net(x).detach().std(0, correction=0)
    torch.testing.assert_close(found.edges[1], last)
    torch.testing.assert_close(found.nodes[1], last.sum(1))
    first = brute_force(net[0], x).std(0, correction=0)[..., 0]
    expected = (first / hidden.std(0, correction=0) * last.sum(1)).sum(1)
    torch.testing.assert_close(found.nodes[0], expected)


def dead(net: nn.Sequential) -> nn.Sequential:
    """Edges from input 1 and to hidden node 2 are zero."""
    with torch.no_grad():
        net[0].weight[1] = 0
        net[0].weight[:, :, 2] = 0
        net[0].bias.fill_(0.3)
    return net


def test_pruning_zero_edges_keeps_the_function_and_so_does_shrinking() -> None:
    net, x = dead(stack(3, 4, 2)), torch.randn(100, 3, dtype=F64)
    with torch.no_grad():
        expected = net(x)
    result = prune(net, x, threshold=0.0, node_threshold=0.0)
    assert (result.inputs, result.nodes) == (1, 1)
    assert result.edges == 4 + 2 + 2  # of input 1, to node 2, and the constant ones behind it
    assert result.before == 0
    torch.testing.assert_close(result.net(x), expected)
    assert result.after < 1e-12
    small, columns = shrink(result.net, x)
    assert columns == [0, 2]
    assert [(layer.in_features, layer.out_features) for layer in small] == [(2, 3), (3, 2)]
    torch.testing.assert_close(small(x[:, columns]), expected)
    assert "1 nodes and 1 inputs" in str(result)
    again = prune(result.net, x, threshold=0.0, node_threshold=0.0)
    assert again.edges == 0
    assert str(again).startswith("nothing to prune")


def test_pruning_any_network_leaves_the_original_alone() -> None:
    net = kanzoo.create_model("resnet", in_shape=(1, 8, 8), num_outputs=3, seed=0, width=4)
    x = torch.randn(4, 1, 8, 8)
    before = copy.deepcopy(net.state_dict())
    result = prune(net, x, threshold=0.5)
    assert 0 < result.left < result.total
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert set(edge_scores(result.net, x)) == set(edge_scores(net, x))


def test_the_smallest_network_is_found() -> None:
    net = stack(3, 1, basis=kanzoo.get_basis("bspline", grid_range=(-1, 1)))
    x = torch.rand(200, 3, dtype=F64) * 2 - 1
    y = torch.sin(2 * x[:, :1]) + x[:, 2:] ** 2
    assert fit_squares(net, x, y, 20) < 1e-2
    result = smallest(net, x, y, tolerance=0.5)
    assert alive(result.net[0]).flatten().tolist() == [True, False, True]


def test_what_cannot_be_pruned_is_said() -> None:
    x = torch.randn(10, 4)
    twin = kanzoo.create_model("mlp", layers="mlp", in_shape=(4,), num_outputs=2)
    with pytest.raises(ValueError, match="no KAN layer"):
        prune(twin, x)
    net = stack(4, 2, dtype=torch.float32)
    with pytest.raises(ValueError, match="NaN"):
        prune(net, x.index_fill(0, torch.tensor([0]), torch.nan))
    with pytest.raises(ValueError, match="threshold"):
        prune(net, x, threshold=1.5)
    normed = kanzoo.create_model("mlp", in_shape=(4,), num_outputs=2, norm="layer", width=3)
    with pytest.raises(ValueError, match=r"norm=none"):
        attribution(normed, x)


def test_scores_see_every_call_of_a_recurrent_layer() -> None:
    net = kanzoo.create_model("rnn", cell="elman", in_shape=(6, 3), num_outputs=2, width=4, seed=0)
    x = torch.linspace(0, 3, 6).view(1, 6, 1) * torch.randn(9, 6, 3)
    cell = net.cells[1]
    with torch.no_grad():
        states = cell(net.cells[0](net.embed(x).transpose(0, 1)))  # (T, B, H)
    before = torch.cat([torch.zeros_like(states[:1]), states[:-1]]).flatten(0, 1)
    name = next(name for name, module in net.named_modules() if module is cell.hidden)
    expected = layer_scores(cell.hidden, before)
    torch.testing.assert_close(edge_scores(net, x)[name].std, expected.std)


@pytest.mark.slow
def test_training_takes_the_penalty_from_its_options(train_run: Run) -> None:
    plain = train_run("layers=kan", "name=plain")
    sparse = train_run("layers=kan", "name=sparse", "callbacks.regularise.lamb=0.1")
    assert plain["val"]["loss"] != sparse["val"]["loss"]
    with pytest.raises(ValueError, match=r"regularise\.lamb"):
        train_run("layers=kan", "callbacks.regularise.lamb=-1")


def test_a_frozen_part_of_a_training_network_stays_frozen() -> None:
    net = nn.Sequential(kanzoo.KANLinear(2, 3), nn.Dropout(), kanzoo.KANLinear(3, 1))
    net[1].eval()
    x = torch.rand(20, 2)
    pruned = prune(net, x, threshold=0.0).net
    for network in (net, pruned):
        assert network.training
        assert [part.training for part in network] == [True, False, True]
