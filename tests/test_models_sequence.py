"""The networks that read step by step: cells, positions, lengths, generation."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import SHAPES, inputs, make

import kanzoo
from kanzoo.layers.attention import Attention, Rotary
from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.recurrent import CELLS

SEQUENTIAL = ("gpt", "rnn")
REFERENCES: dict[str, type[nn.RNNBase]] = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
BIASES = ("bias_ih", "bias_hh")
# Where each of our gates stands in the weights of PyTorch.
GATES = {"elman": [0], "gru": [0, 1, 2], "lstm": [0, 1, 3, 2]}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("cell", CELLS)
def test_ordinary_cells_are_those_of_pytorch(cell: str) -> None:
    """Outputs and gradients of the input, two layers."""
    width, features = 5, 3
    net = kanzoo.create_model(
        "rnn", layers="mlp", cell=cell, width=width, depth=2, norm="none", in_shape=(7, 4), seed=0
    )
    net.stem = nn.Identity()
    net.head = nn.Identity()
    net.cells[1] = CELLS[cell](features, width, LayerFactory(kan_roles=()))
    reference = REFERENCES[cell](features, width, num_layers=2, batch_first=True)
    for layer, ours in enumerate((net.cells[1], net.cells[3])):
        own = [getattr(reference, f"{kind}_l{layer}") for kind in ("weight_ih", "weight_hh")]
        bias_ih, bias_hh = (getattr(reference, f"{kind}_l{layer}") for kind in BIASES)
        with torch.no_grad():
            for part, weight in zip((ours.input, ours.hidden), own, strict=True):
                part.weight.copy_(reordered(weight, cell).t().unsqueeze(1))
            if ours.hidden.bias is None:
                ours.input.bias.copy_(reordered(bias_ih + bias_hh, cell))
            else:
                ours.input.bias.copy_(reordered(bias_ih, cell))
                ours.hidden.bias.copy_(reordered(bias_hh, cell))
    x = normal(6, 7, features)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = net.every_position(mine), reference(theirs)[0]
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    out.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def reordered(tensor: Tensor, cell: str) -> Tensor:
    parts = tensor.detach().chunk(len(GATES[cell]))
    return torch.cat([parts[place] for place in GATES[cell]])


@pytest.mark.parametrize("cell", CELLS)
def test_kan_cells_follow_their_equations(cell: str) -> None:
    """Step by step from the layers, gate by gate; the state stays within [-1, 1]."""
    net = make("rnn", "all", "sequence", cell=cell)
    layer = net.cells[1]
    x = 3 * normal(6, 4, layer.input.in_features)  # (T, B, E)
    h = c = torch.zeros(4, layer.width)
    expected = []
    for step in x:
        given = layer.input(step).chunk(layer.gates, -1)
        back = layer.hidden(h).chunk(layer.gates, -1)
        if cell == "elman":
            h = torch.tanh(given[0] + back[0])
        elif cell == "gru":
            r, z = (torch.sigmoid(given[k] + back[k]) for k in (0, 1))
            h = (1 - z) * torch.tanh(given[2] + r * back[2]) + z * h
        else:
            i, f, o = (torch.sigmoid(given[k] + back[k]) for k in (0, 1, 2))
            c = f * c + i * torch.tanh(given[3] + back[3])
            h = o * torch.tanh(c)
        expected.append(h)
    states = layer(x)
    torch.testing.assert_close(states, torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert states.abs().max() <= 1


@pytest.mark.parametrize("roles", [(), "all"])
def test_lstms_start_with_open_forget_gates(roles: Any) -> None:
    net = make("rnn", roles, cell="lstm")
    bias = net.cells[1].input.bias
    width = net.cells[1].width
    assert torch.equal(bias[width : 2 * width], torch.ones(width))
    assert bias.count_nonzero() == width


def test_the_inputs_of_all_gates_and_steps_are_one_call() -> None:
    net = make("rnn", "all", "sequence", cell="gru", depth=2)
    calls: dict[str, int] = {}
    for key, module in net.named_modules():
        if key.endswith(("input", "hidden")):
            module.register_forward_pre_hook(
                lambda *_, key=key: calls.update({key: calls.get(key, 0) + 1})
            )
    net(inputs("sequence"))
    assert calls == {
        "cells.1.input": 1,
        "cells.1.hidden": 6,
        "cells.3.input": 1,
        "cells.3.hidden": 6,
    }


@pytest.mark.parametrize("kind", ["sequence", "image"])
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_the_output_is_that_of_the_last_position(name: str, kind: str) -> None:
    net = make(name, "all", kind).eval()
    x = inputs(kind)
    every = net.every_position(x)
    steps = x.shape[2] if kind == "image" else x.shape[1]
    assert every.shape == (6, steps, 10)
    torch.testing.assert_close(net(x), every[:, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"positions": "learned"}, {"cell": "gru"}])
def test_shorter_inputs_are_read_as_beginnings(options: dict[str, Any]) -> None:
    name = "rnn" if "cell" in options else "gpt"
    net = make(name, "all", "sequence", **options).eval()
    x = inputs("sequence")
    every = net.every_position(x)
    for length in (1, 4):
        torch.testing.assert_close(
            net.every_position(x[:, :length]), every[:, :length], rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(net(x[:, :length]), every[:, length - 1], rtol=1e-4, atol=1e-5)
    longer = torch.cat([x, x], 1)
    if name == "rnn":
        assert net.every_position(longer).shape == (6, 12, 10)
    else:
        with pytest.raises(ValueError, match="at most 6 steps, got 12"):
            net(longer)


def test_images_are_read_row_by_row() -> None:
    """Rows of all channels are the steps of a sequence."""
    image = kanzoo.create_model("gpt", in_shape=(2, 6, 5), seed=0)
    sequence = kanzoo.create_model("gpt", in_shape=(6, 10), seed=0)
    sequence.load_state_dict(image.state_dict())
    x = normal(3, 2, 6, 5)
    rows = torch.stack([x[:, :, row].flatten(1) for row in range(6)], 1)
    torch.testing.assert_close(image(x), sequence(rows))


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_inputs_of_another_kind_are_refused(name: str) -> None:
    tokens, sequence = make(name, (), "tokens"), make(name, (), "sequence")
    for net, x, word in [
        (tokens, inputs("sequence"), "tokens"),
        (sequence, inputs("tokens"), f"{SHAPES['sequence'][1]} features"),
    ]:
        with pytest.raises(ValueError, match=f"{name} reads .*{word}"):
            net(x)
    with pytest.raises(ValueError, match="not built for tokens"):
        sequence.generate(inputs("tokens"), 1)


# --- positions -----------------------------------------------------------------------------------


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    rotary = Rotary(8, 50)
    q, k = (normal(8, seed=seed).expand(50, 8) for seed in (0, 1))
    scores = rotary(q) @ rotary(k).T
    torch.testing.assert_close(scores[1:, 1:], scores[:-1, :-1], rtol=1e-4, atol=1e-4)
    assert scores[0].std() > 0.1
    x = normal(3, 50, 8)
    torch.testing.assert_close(rotary(x).norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(rotary(x)[:, 0], x[:, 0])
    angle = 3 * 10_000.0 ** (-2 / 8)  # position 3, the second pair of features
    first, second = x[0, 3, 1], x[0, 3, 5]
    turned = first * torch.cos(torch.tensor(angle)) - second * torch.sin(torch.tensor(angle))
    torch.testing.assert_close(rotary(x)[0, 3, 1], turned)


@pytest.mark.parametrize("rotary", [None, 9])
def test_attention_is_softmax_of_products(rotary: int | None) -> None:
    """Against the formula, head by head and position by position."""
    attention = Attention(8, 2, LayerFactory(kan_roles=()), causal=True, rotary=rotary)
    x = normal(2, 9, 8)
    q, k, v = (part.unflatten(-1, (2, 4)) for part in attention.qkv(x).chunk(3, -1))
    expected = torch.zeros(2, 9, 2, 4)
    for head in range(2):
        left, right = q[:, :, head], k[:, :, head]
        if attention.rotary is not None:
            left, right = attention.rotary(left), attention.rotary(right)
        for place in range(9):
            scores = torch.einsum("bd,btd->bt", left[:, place], right[:, : place + 1]) / 2
            shares = scores.softmax(-1).unsqueeze(-1)
            expected[:, place, head] = (shares * v[:, : place + 1, head]).sum(1)
    expected = attention.out(expected.flatten(2))
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_order_matters_to_a_transformer(positions: str) -> None:
    net = make("gpt", (), "sequence", positions=positions).eval()
    x = inputs("sequence")
    swapped = x[:, [1, 0, *range(2, 6)]]
    assert (net(x) - net(swapped)).abs().max() > 1e-5


# --- generation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_greedy_generation_takes_the_likeliest(name: str) -> None:
    """As a loop over whole contexts does, cropped to the 6 tokens of the network."""
    net = make(name, "all", "tokens", dropout=0.5).train()
    start = inputs("tokens", 3)[:, :4]
    frozen = next(net.children()).eval()
    made = net.generate(start, 9, temperature=0.0)
    assert net.training
    assert not frozen.training
    net.eval()
    expected = start
    for _ in range(9):
        likeliest = net(expected[:, -6:])[:, -1].argmax(-1, keepdim=True)
        expected = torch.cat([expected, likeliest], 1)
    assert torch.equal(made, expected)
    assert torch.equal(net.generate(start, 9, top_k=1), expected)
    assert torch.equal(net.generate(start, 0), start)


def test_drawn_tokens_depend_on_the_generator_alone() -> None:
    net = make("gpt", (), "tokens")
    start = inputs("tokens", 50)
    state = torch.get_rng_state()

    def drawn(seed: int, **options: Any) -> Tensor:
        return net.generate(start, 5, generator=torch.Generator().manual_seed(seed), **options)

    assert torch.equal(drawn(0), drawn(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(drawn(0), drawn(1))
    first = drawn(0, top_k=2)[:, 6]
    likeliest = net.eval()(start)[:, -1].topk(2).indices
    assert (first.unsqueeze(1) == likeliest).any(1).all()
    # A low temperature comes near to the likeliest, a high one to chance.
    agree = [(drawn(0, temperature=t)[:, 6] == likeliest[:, 0]).float().mean() for t in (1e-3, 1e3)]
    assert agree[0] > 0.95
    assert agree[1] < 0.5


@pytest.mark.parametrize(
    ("options", "word"),
    [({"temperature": -1.0}, "temperature"), ({"top_k": 0}, "top_k")],
)
def test_impossible_generation_is_refused(options: dict[str, Any], word: str) -> None:
    net = make("gpt", (), "tokens")
    with pytest.raises(ValueError, match=word):
        net.generate(inputs("tokens"), 2, **options)
    with pytest.raises(ValueError, match="tokens"):
        net.generate(inputs("tokens")[:, :0], 2)


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_tokens_are_embedded_alike_in_both_twins(name: str) -> None:
    twin, kan = make(name, (), "tokens"), make(name, "all", "tokens")
    assert isinstance(twin.stem, nn.Embedding)
    assert isinstance(kan.stem, nn.Embedding)
    assert torch.equal(twin.stem.weight, kan.stem.weight)
    wide = kanzoo.create_model(name, in_shape=(6,), num_outputs=100, seed=0)
    embedded = wide.embed(torch.arange(100).view(20, 5))
    assert 0.9 < float(embedded.detach().std()) < 1.1
