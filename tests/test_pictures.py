"""Pictures show what the layers compute: curves, densities, scores, and every edge that matters."""

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from torch import Tensor, nn

import kanzoo
from kanzoo.interpret import edges as module
from kanzoo.interpret.edges import Edge, edge_deviations, edge_functions, layer_values
from kanzoo.interpret.pictures import graph, grids
from kanzoo.layers import KANConv2d, KANConvTranspose2d, KANLayer, KANLinear
from kanzoo.layers.grid import subsample
from kanzoo.page import style

TINY = {
    "convnet": {"width": 4},
    "resnet": {"width": 2, "depth": 8},
    "vit": {"width": 8, "depth": 1, "heads": 2},
    "mixer": {"width": 8, "depth": 1},
    "rnn": {"width": 4},
    "mlp": {"width": 4},
}


def chain(
    *sizes: int, norm: type[nn.Module] | None = None, basis: str = "bspline"
) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for features, following in pairwise(sizes):
        if layers and norm is not None:
            layers.append(norm(features))
        layers.append(KANLinear(features, following, basis=basis))
    return nn.Sequential(*layers)


def sample(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def value_of(layer: KANLayer, edge: Edge, x: Tensor) -> Tensor:
    """The edge function by the layer's own method, which counts sources within a group."""
    source = edge.source % (layer.in_features // getattr(layer, "groups", 1))
    tap = () if edge.tap is None else (edge.tap,)
    return layer.edge(source, edge.target, x, *tap)


LAYERS = {
    "linear": lambda: KANLinear(3, 4),
    "kernel": lambda: KANConv2d(2, 4, (3, 2), padding=1),
    "groups": lambda: KANConv2d(4, 6, 3, groups=2, basis="chebyshev"),
    "transposed": lambda: KANConvTranspose2d(4, 6, 2, groups=2),
    "squash": lambda: KANLinear(3, 4, squash="tanh"),
    "shared": lambda: KANLinear(8, 3, basis="rational"),
}


def layer_and_input(name: str) -> tuple[KANLayer, Tensor]:
    torch.manual_seed(3)
    layer = LAYERS[name]()
    if isinstance(layer, KANLinear):
        return layer, sample(200, layer.in_features)
    return layer, sample(5, layer.in_features, 6, 7)


@pytest.mark.parametrize("name", LAYERS)
def test_curves_are_those_of_the_layer(name: str) -> None:
    layer, x = layer_and_input(name)
    (found,) = edge_functions(nn.Sequential(layer), x, num_edges=None)
    assert len(found.edges) == found.scores.size == layer.by_function()[0].numel()
    assert len({(e.source, e.target, e.tap) for e in found.edges}) == len(found.edges)
    for edge in found.edges[::5]:
        expected = value_of(layer, edge, torch.from_numpy(edge.x).float()).detach()
        np.testing.assert_allclose(edge.y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_scores_are_deviations_on_the_data(name: str) -> None:
    layer, x = layer_and_input(name)
    (found,) = edge_functions(nn.Sequential(layer), x, num_edges=None)
    values = layer_values(nn.Sequential(layer), x, {"0": layer})["0"]
    for edge in found.edges[::7]:
        own = value_of(layer, edge, values[:, edge.source]).detach().double().std(correction=0)
        assert edge.score == pytest.approx(float(own), rel=1e-4, abs=1e-6)
    scores = [edge.score for edge in found.edges]
    assert scores == sorted(scores, reverse=True)


def test_density_is_one_in_all_and_that_of_the_inputs() -> None:
    layer = KANLinear(2, 2)
    x = torch.cat([sample(3000, 1), sample(3000, 1).sign()], 1)
    (found,) = edge_functions(nn.Sequential(layer), x, num_edges=None)
    for edge in found.edges:
        width = (edge.x[-1] - edge.x[0]) / len(edge.density)
        assert edge.density.sum() * width == pytest.approx(1)
        if edge.source == 1:  # two values
            assert (edge.density > 0).sum() == 2
        else:
            assert edge.x[0] == pytest.approx(float(x[:, 0].quantile(0.005)))
            assert edge.density.argmax() in range(8, 17)


def test_constant_inputs_have_no_score_and_a_finite_picture() -> None:
    layer = KANLinear(2, 2)
    (found,) = edge_functions(nn.Sequential(layer), torch.full((50, 2), 0.3))
    assert found.scores.max() < 1e-6
    assert all(
        np.isfinite([*e.x, *e.y, *e.density]).all() and e.x[0] < e.x[-1] for e in found.edges
    )
    grids.draw(found.edges)


def test_inputs_that_are_not_finite_are_refused() -> None:
    x = sample(10, 2)
    x[3, 1] = torch.nan
    with pytest.raises(ValueError, match="layer '0' gets inputs that are NaN"):
        edge_functions(chain(2, 2), x)


def test_rows_are_not_thinned_in_step_with_an_image() -> None:
    columns = torch.arange(10.0).repeat(4096)[:, None]  # ten columns a line
    assert len(subsample(columns, 4096)) == 4096
    shares = torch.bincount(subsample(columns, 4096)[:, 0].long()) / 4096
    torch.testing.assert_close(shares, torch.full((10,), 0.1), atol=0.01, rtol=0)
    image = torch.zeros(360, 1, 8, 8)
    image[..., 1:] = 1.0
    values = layer_values(nn.Sequential(KANConv2d(1, 1, 3, padding=1)), image,
                          {"0": KANConv2d(1, 1, 3)})  # fmt: skip
    assert values == {}  # a layer that the network does not have is not called
    conv = KANConv2d(1, 1, 3, padding=1)
    rows = layer_values(nn.Sequential(conv), image, {"0": conv})["0"]
    assert float(rows.mean()) == pytest.approx(56 / 100, abs=0.02)


def test_every_call_of_a_recurrent_layer_counts() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = KANLinear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x) * 0 + 5)

    net = Twice()
    rows = layer_values(net, sample(40, 2), {"layer": net.layer})["layer"]
    assert len(rows) == 80
    assert int((rows == 5).all(1).sum()) == 40


@pytest.mark.parametrize("name", TINY)
def test_every_kan_layer_of_every_architecture_has_pictures(name: str) -> None:
    net = kanzoo.create_model(name, in_shape=(1, 8, 8), num_outputs=3, seed=0, **TINY[name])
    found = edge_functions(net, sample(4, 1, 8, 8), num_edges=3)
    expected = [n for n, m in net.named_modules() if isinstance(m, KANLayer)]
    assert [layer.name for layer in found] == expected
    assert all(len(layer.edges) == min(3, layer.scores.size) for layer in found)


@pytest.mark.parametrize("name", ["gpt", "unet"])
def test_models_of_other_data_have_pictures(name: str) -> None:
    options = {"gpt": {"width": 8, "depth": 1, "heads": 2}, "unet": {"width": 2}}[name]
    shape = (6,) if name == "gpt" else (1, 8, 8)
    x = torch.arange(12).view(2, 6) % 5 if name == "gpt" else sample(2, *shape)
    net = kanzoo.create_model(name, in_shape=shape, num_outputs=5, seed=0, **options)
    assert len(edge_functions(net, x)) == sum(isinstance(m, KANLayer) for m in net.modules())


def test_looking_changes_nothing() -> None:
    net = kanzoo.create_model("resnet", in_shape=(1, 8, 8), num_outputs=3, width=2, seed=0)
    net.train()
    net.norm.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    torch.manual_seed(7)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    edge_functions(net, sample(4, 1, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert net.training
    assert not net.norm.training
    assert not any(len(m._forward_pre_hooks) for m in net.modules())
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)


def test_chosen_edges_are_those_of_the_scores() -> None:
    net = chain(3, 4)
    (found,) = edge_functions(net, sample(20, 3), chosen={"0": [5, 0]})
    assert [(e.source, e.target) for e in found.edges] == [(1, 1), (0, 0)]
    assert [e.score for e in found.edges] == pytest.approx(found.scores.flatten()[[5, 0]])


def test_a_network_without_kan_layers_is_refused() -> None:
    net = kanzoo.create_model("mlp", layers="mlp", width=4)
    for look in (edge_functions, graph.draw, module.last_layer_curves):
        with pytest.raises(ValueError, match="has no KAN layers"):
            look(net, sample(2, 1, 28, 28))


def renderer_of(figure: Figure) -> RendererBase:
    return FigureCanvasAgg(figure).get_renderer()


def curves(figure: Figure) -> list[np.ndarray]:
    """What is drawn in the colour of edge functions."""
    return [
        line.get_xydata()
        for axes in figure.axes
        for line in axes.lines
        if line.get_color() == style.CURVE
    ]


def test_a_grid_has_one_plot_an_edge_all_of_one_span() -> None:
    (found,) = edge_functions(chain(3, 3), sample(50, 3), num_edges=7)
    figure = grids.draw(found.edges, title="layer")
    assert len(figure.axes) == len(found.edges) == 7
    for edge, drawn in zip(found.edges, curves(figure), strict=True):
        np.testing.assert_array_equal(drawn, np.column_stack([edge.x, edge.y]))
    spans = [float(np.diff(axes.get_ylim())[0]) for axes in figure.axes]
    np.testing.assert_allclose(spans, spans[0])
    assert [axes.get_title("left") for axes in figure.axes] == [e.label for e in found.edges]
    size = figure.get_size_inches() * figure.dpi
    boxes = [axes.get_tightbbox(renderer_of(figure)) for axes in figure.axes]
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= size[0] and box.y1 <= size[1]
               for box in boxes)  # fmt: skip


def test_a_graph_has_every_edge_in_a_box_and_every_node() -> None:
    net = chain(3, 2, 1)
    figure = graph.draw(net, sample(60, 3))
    assert len(curves(figure)) == 3 * 2 + 2
    (axes,) = figure.axes
    assert sum(isinstance(p, FancyBboxPatch) for p in axes.patches) == 8
    nodes = [line for line in axes.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in nodes] == [3, 2, 1]
    assert [text.get_text() for text in axes.texts] == ["x1", "x2", "x3", "y"]
    named = graph.draw(net, sample(9, 3), names=["a", "b", "c"], outputs=["z"])
    assert [text.get_text() for text in named.axes[0].texts] == ["a", "b", "c", "z"]


def test_lines_are_as_strong_as_scores_and_dead_edges_are_left_out() -> None:
    net = chain(2, 2)
    with torch.no_grad():
        net[0].weight[0, :, 0] *= 100
        net[0].weight[1, :, 1] = 0
    figure = graph.draw(net, sample(60, 2))
    lines = [p for p in figure.axes[0].patches if type(p) is PathPatch]
    widths = sorted({round(p.get_linewidth(), 6) for p in lines})
    assert len(curves(figure)) == 3
    assert len(lines) == 6
    assert widths[-1] == pytest.approx(2.5)
    assert widths[0] < 0.6


def test_boxes_and_texts_of_a_graph_do_not_overlap() -> None:
    figure = graph.draw(chain(6, 5, 2), sample(60, 6), names=["a rather long name"] * 6)
    (axes,) = figure.axes
    boxes = [p.get_window_extent() for p in axes.patches if isinstance(p, FancyBboxPatch)]
    texts = [t.get_window_extent(renderer_of(figure)) for t in axes.texts]
    for i, one in enumerate(boxes + texts):
        assert not any(one.overlaps(other) for other in (boxes + texts)[i + 1 :])
    size = figure.get_size_inches() * figure.dpi
    assert all(t.x0 >= 0 and t.x1 <= size[0] for t in texts)


def test_normalisation_is_drawn_and_other_parts_are_refused() -> None:
    figure = graph.draw(chain(3, 2, 1, norm=nn.LayerNorm), sample(20, 3))
    assert "LayerNorm" in [text.get_text() for text in figure.axes[0].texts]
    net = chain(2, 2)
    with pytest.raises(ValueError, match="only a chain of fully connected"):
        graph.draw(nn.Sequential(net, nn.Tanh()), sample(9, 2))
    with pytest.raises(ValueError, match="only a chain of fully connected"):
        graph.draw(nn.Sequential(KANLinear(2, 2), nn.Linear(2, 2), KANLinear(2, 2)), sample(9, 2))
    with pytest.raises(ValueError, match="names must be 2"):
        graph.draw(net, sample(9, 2), names=["a"])


def test_of_too_many_edges_the_strongest_are_drawn_with_their_share(tmp_path: Path) -> None:
    net, x = chain(50, 2, 3), sample(60, 50)
    names = [f"<{i}>" for i in range(50)]
    figure = graph.draw(net, x, tmp_path / "graph.svg", names)
    (first, _) = edge_functions(net, x, num_edges=None)
    strongest = np.sort(first.scores.ravel())[::-1][:72]
    texts = [text.get_text() for text in figure.axes[0].texts]
    share = 100 * strongest.sum() / first.scores.sum()
    assert f"72 of 100 edges,\n{share:.0f} % of the total score" in texts
    reached = {e.source for e in first.edges[:72]}
    assert [t for t in texts if t in names] == [names[i] for i in sorted(reached)]
    assert len(curves(figure)) == 72 + 6
    tips = re.findall(r"<title>(.*?)</title>", (tmp_path / "graph.svg").read_text())
    assert {e.label for e in first.edges[:72]} <= set(tips)  # by the numbers of all nodes


def test_a_network_of_an_architecture_has_a_graph() -> None:
    net = kanzoo.create_model("mlp", in_shape=(4,), num_outputs=2, width=3, depth=2, seed=0)
    assert len(curves(graph.draw(net, sample(30, 4)))) == 4 * 3 + 3 * 3 + 3 * 2


def test_files_are_well_formed_escaped_and_repeatable(tmp_path: Path) -> None:
    names = ["<script>", "a & b", '"$x$"']
    net, x = chain(3, 1), sample(40, 3)
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first, second):
        graph.draw(net, x, path, names)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "first.png", "first.svg", "second.png", "second.svg",
    ]  # fmt: skip
    for suffix in (".png", ".svg"):
        assert first.with_suffix(suffix).read_bytes() == second.with_suffix(suffix).read_bytes()
    assert first.with_suffix(".png").read_bytes().startswith(b"\x89PNG\r\n")
    text = first.with_suffix(".svg").read_text()
    tree = ElementTree.fromstring(text)
    shown = [e.text for e in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert shown == [*names, "y"]
    assert not re.search("<script", text)
    colours = set(re.findall(r"(?:fill|stroke): (#\w+)", text))
    assert colours <= set(style.LIGHT.values())  # so that a page can replace all of them
    assert graph.draw(net, x, tmp_path / "only.svg") is not None
    assert not (tmp_path / "only.png").exists()


def test_scores_do_not_depend_on_precision_much() -> None:
    layer, x = KANLinear(3, 2), sample(100, 3)
    double = KANLinear(3, 2, dtype=torch.float64)
    double.load_state_dict(layer.state_dict())
    expected = edge_deviations(double, x.double())
    torch.testing.assert_close(edge_deviations(layer, x), expected, rtol=1e-4, atol=1e-6)
