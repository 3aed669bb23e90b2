"""KAN layers in networks that exist already: the function stays, and training goes on from it."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from samples import KINDS, relative
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import kanzoo
from kanzoo.layers import KANConv2d, KANLayer, KANLinear
from kanzoo.layers.kanify import REPLACEMENTS
from kanzoo.layers.parameters import count_params
from kanzoo.models.cost import count_flops


def small() -> nn.Sequential:
    """A network of every kind of layer that can be replaced in two dimensions, and a bare one."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=(1, 2), stride=(2, 1), groups=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2, bias=False),
        nn.Conv2d(6, 6, 3, padding="same", dilation=2, bias=False),
        nn.Conv2d(6, 4, (1, 3), padding="valid"),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.GELU(),
        nn.Linear(8, 3, bias=False),
    )


def images(scale: float = 1.0) -> Tensor:
    return scale * torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(5))


def kan_layers(net: nn.Module) -> dict[str, Any]:
    return {name: m for name, m in net.named_modules() if isinstance(m, KANLayer)}


# --- the function stays --------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_the_function_stays_and_learns_on(name: str) -> None:
    net = small()
    x = torch.cat([images(), images(30), images(1e4)])  # also far outside of any grid
    x[0] = 0
    for training in (False, True):
        old, new = (copy.deepcopy(net).train(training) for _ in range(2))
        state = torch.get_rng_state()
        assert kanzoo.kanify(new, "*", basis=name) is new
        assert torch.equal(torch.get_rng_state(), state)
        assert len(kan_layers(new)) == 6
        for row, expected in zip(new(x), old(x), strict=True):
            assert relative(row, expected) < 1e-5
    before = {key: p.detach().clone() for key, p in new.named_parameters()}
    optimizer = torch.optim.SGD(new.parameters(), 1e-3)
    target = torch.zeros(3, 3)
    losses = []
    for _ in range(2):
        loss = (new(images()) - target).square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in new.parameters())
        optimizer.step()
    assert losses[1] < losses[0]
    for key, layer in kan_layers(new).items():
        functions = (layer.weight - before[f"{key}.weight"]).movedim(layer.function_dim, 0)
        *basis, residual = functions.detach()
        assert residual.count_nonzero() > 0, key
        assert not basis or any(change.count_nonzero() > 0 for change in basis), key


@pytest.mark.parametrize(
    ("old", "shape"),
    [
        (nn.Conv1d(4, 6, 5, padding="same", stride=1), (2, 4, 9)),
        (nn.Conv1d(4, 6, 4, padding=3, stride=2, dilation=2), (4, 20)),
        (nn.ConvTranspose1d(4, 6, 3, stride=2, dilation=2, groups=2), (2, 4, 9)),
        (nn.Conv3d(2, 4, (1, 2, 3), padding=(0, 1, 1), groups=2), (2, 2, 3, 4, 5)),
        (nn.Conv2d(3, 6, 3, groups=3), (3, 5, 5)),
        (nn.Conv2d(3, 6, 3, padding=1, stride=2, padding_mode="circular"), (2, 3, 5, 6)),
        (nn.Conv1d(4, 4, 4, padding="same", padding_mode="reflect"), (2, 4, 9)),
        (nn.Linear(5, 1), (5,)),
        (nn.Linear(5, 3), (2, 3, 4, 5)),
    ],
)
@pytest.mark.parametrize("squash", ["auto", "tanh", "affine"])
def test_all_kinds_of_layers(old: nn.Module, shape: tuple[int, ...], squash: str) -> None:
    x = 5 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    new = kanzoo.kanify(nn.Sequential(copy.deepcopy(old)), "0", squash=squash, residual="identity")
    assert type(new[0]) is REPLACEMENTS[type(old)]
    assert relative(new(x), old(x)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_mode_and_frozen_weights_are_taken_over(dtype: torch.dtype) -> None:
    net = small().to(dtype)
    net[4].eval()
    net[8].weight.requires_grad_(False)
    bias = net[8].bias
    expected = copy.deepcopy(net)(images().to(dtype))
    kanzoo.kanify(net, "*", basis="sine")
    assert all(t.dtype == dtype for t in net.state_dict().values() if t.is_floating_point())
    limit = 1e-12 if dtype == torch.float64 else 0.02
    assert relative(net(images().to(dtype)), expected) < limit
    assert not net[4].training
    assert not net[4].expansion.training
    assert net[5].training
    assert net[8].bias is bias
    frozen = [key for key, p in net.named_parameters() if not p.requires_grad]
    assert frozen == ["8.weight", "8.expansion.basis.frequencies"]


def test_builds_on_the_meta_device() -> None:
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(3, 4), nn.Conv2d(2, 2, 3))
    kanzoo.kanify(net, "*")
    assert all(t.is_meta for t in net.state_dict().values())
    assert list(kan_layers(net)) == ["0", "1"]


def test_layers_with_several_names_are_replaced_once_everywhere() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
            self.b = self.a
            self.c = nn.ModuleDict({"x": self.a[0], "y": nn.Linear(4, 4)})

        def forward(self, x: Tensor) -> Tensor:
            return self.c["y"](self.c["x"](self.b(self.a(x))))

    net, x = Twice(), torch.randn(5, 4)
    expected = net(x)
    kanzoo.kanify(net, "c.x")
    assert net.a[0] is net.b[0] is net.c["x"]
    assert isinstance(net.a[0], KANLinear)
    assert isinstance(net.c["y"], nn.Linear)
    assert relative(net(x), expected) < 1e-5
    assert kanzoo.kanify_report(net).layers[0].name == "a.0 = b.0 = c.x"


def test_select_and_exclude() -> None:
    net = kanzoo.kanify(small(), ["8", "1?", "[45]"], exclude="4")
    assert list(kan_layers(net)) == ["5", "8", "10"]
    kanzoo.kanify(net, "*")  # what is KAN already stays
    assert len(kan_layers(net)) == 6


def test_fused_transformer_code_is_left() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    net = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.randn(2, 5, 16), torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    with torch.no_grad():
        expected = net(x), net(x, src_key_padding_mask=padding)
        kanzoo.kanify(net, "*.linear?")
        assert len(kan_layers(net)) == 4
        assert relative(net(x), expected[0]) < 1e-5
        masked = net(x, src_key_padding_mask=padding)
        assert relative(masked[~padding], expected[1][~padding]) < 1e-5


# --- what is refused -----------------------------------------------------------------------------


def weird(kind: str) -> nn.Module:
    layer: Any = nn.Linear(4, 4)
    net = nn.ModuleDict({"odd": layer, "fine": nn.Linear(4, 4)})
    if kind == "weight_norm":
        torch.nn.utils.weight_norm(layer)
    elif kind == "parametrized":
        parametrizations.weight_norm(layer)
    elif kind == "pruned":
        prune.l1_unstructured(layer, "weight", 0.5)
    elif kind == "hook":
        layer.register_forward_hook(lambda *_: None)
    elif kind == "forward":
        layer.forward = lambda x: x
    elif kind == "tied":
        net["embedding"] = nn.Embedding(4, 4)
        net["embedding"].weight = layer.weight
    elif kind == "attention":
        net["odd"] = nn.MultiheadAttention(4, 2)
    elif kind == "empty":
        net["odd"] = nn.Linear(4, 4)
        net["odd"].in_features = 0
    elif kind == "single":
        net["odd"] = nn.Linear(1, 4)
    return net


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("weight_norm", "also holds weight_g, weight_v"),
        ("parametrized", "parametrized"),
        ("pruned", "also holds weight_mask, weight_orig"),
        ("hook", "has hooks"),
        ("forward", "forward was replaced"),
        ("tied", "also belongs to another module"),
        ("attention", "NonDynamicallyQuantizableLinear is a subclass"),
        ("empty", "in_features"),
        ("single", "at least 2 features"),
    ],
)
def test_layers_that_cannot_be_replaced(kind: str, message: str) -> None:
    net = weird(kind)
    before = {name: id(part) for name, part in net.named_modules()}
    with pytest.raises(ValueError, match=f"odd.* cannot be replaced: .*{message}") as refusal:
        kanzoo.kanify(net, "*", squash="layer")
    assert "\n" not in str(refusal.value)
    assert before == {name: id(part) for name, part in net.named_modules()}  # all or nothing
    kanzoo.kanify(net, "*", squash="layer", exclude="odd*")
    assert list(kan_layers(net)) == ["fine"]


def apply_to(x: Tensor, layer: nn.Module) -> Tensor:
    weight: Any = layer.weight
    return x @ weight.t()


class Reader(nn.Module):
    """Reads the weight of one layer in some way, and calls another."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.odd, self.fine = nn.Linear(4, 4), nn.Linear(4, 4)
        self.list = nn.ModuleList([self.odd])
        self.norm = nn.LayerNorm(4)
        nn.init.zeros_(self.fine.weight)  # before any forward: harmless
        if way != "list":
            self.list = nn.ModuleList()

    def reset(self) -> None:
        self.fine.weight.data.zero_()  # not in a forward either


class Direct(Reader):
    def forward(self, x: Tensor) -> Tensor:
        return self.fine(nn.functional.linear(x, self.odd.weight, self.odd.bias))


class ByMethod(Reader):
    @property
    def matrix(self) -> Any:
        return self.odd.weight

    def inner(self, x: Tensor) -> Tensor:
        return x @ self.matrix

    def forward(self, x: Tensor) -> Tensor:
        return self.fine(self.inner(x)) * self.norm.weight


class Handed(Reader):
    def forward(self, x: Tensor) -> Tensor:
        return self.fine(apply_to(x, self.odd))


class Named(Reader):
    def forward(self, x: Tensor) -> Tensor:
        return self.fine(x @ getattr(self.odd, "weight"))  # noqa: B009


class Child(Direct):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


@pytest.mark.parametrize("kind", [Direct, ByMethod, Handed, Named, Child])
def test_layers_whose_weight_is_read_are_refused_by_name(kind: Any) -> None:
    net = nn.ModuleDict({"0": kind(""), "1": nn.Linear(4, 4)})
    before = {name: id(part) for name, part in net.named_modules()}
    with pytest.raises(ValueError, match=rf"^0\.odd cannot .*{kind.__name__} reads") as refusal:
        kanzoo.kanify(net, "*")
    assert "exclude=['*.odd']" in str(refusal.value)
    assert before == {name: id(part) for name, part in net.named_modules()}
    x = torch.randn(3, 4)
    expected = net["0"](x)
    kanzoo.kanify(net, "*", exclude="*.odd")
    assert list(kan_layers(net)) == ["0.fine", "1"]
    assert relative(net["0"](x), expected) < 1e-5


def test_weights_in_lists_and_code_without_source() -> None:
    space: dict[str, Any] = {"Reader": Reader}
    exec(  # as from a prompt
        "class Loop(Reader):\n"
        "    def forward(self, x):\n"
        "        return self.fine(x @ self.odd.weight)\n",
        space,
    )
    with pytest.raises(ValueError, match="odd"):
        kanzoo.kanify(space["Loop"](""), "*")

    class Listed(Reader):
        def forward(self, x: Tensor) -> Tensor:
            for layer in self.list:
                x = x @ layer.weight  # type: ignore[operator]
            return x

    net = nn.Sequential(Listed("list"))
    with pytest.raises(ValueError, match="odd"):
        kanzoo.kanify(net, "*")


@pytest.mark.slow
@pytest.mark.parametrize("version", ["", "V2"])
def test_attention_of_torchvision(version: str) -> None:
    swin = pytest.importorskip("torchvision").models.swin_transformer
    torch.manual_seed(0)
    net = swin.SwinTransformer(
        *([4, 4], 24, [2, 2], [2, 4], [7, 7]),
        num_classes=5,
        block=getattr(swin, f"SwinTransformerBlock{version}"),
        downsample_layer=getattr(swin, f"PatchMerging{version}"),
    ).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = net(x)
    with pytest.raises(ValueError, match=r"attn.* cannot be replaced: ShiftedWindowAttention"):
        kanzoo.kanify(net, "*")
    kanzoo.kanify(net, "*", exclude="*.attn.*")
    assert len(kan_layers(net)) > 10
    with torch.no_grad():
        assert relative(net(x), expected) < 1e-5


def test_bad_names_and_options_are_refused() -> None:
    net = small()
    for options, message in [
        ({"select": "heads.*"}, "select 'heads.*' matches no module; the nearest are"),
        ({"select": ["8", "88"]}, r"select '88' matches no module; the nearest are 8"),
        ({"select": "1"}, r"select '1' matches only BatchNorm2d: .*nn\.Linear, nn\.Conv1d"),
        ({"select": []}, "leave no layer"),
        ({"select": None}, "must be a name or pattern"),
        ({"select": [3]}, "must be a name or pattern"),
        ({"select": "8", "exclude": "x"}, "exclude 'x' matches no module"),
        ({"select": "8", "exclude": "9"}, "exclude '9' matches only GELU"),
        ({"select": "8", "exclude": "*"}, "leave no layer"),
        ({"select": "8", "residual": "silu"}, "residual 'silu' cannot carry the old weights"),
        ({"select": "8", "residual": None}, "residual None cannot carry the old weights"),
        ({"select": "8", "residual": "auto"}, "residual 'auto' cannot carry the old weights"),
        ({"select": "8", "basis": "bsplin"}, "did you mean 'bspline'"),
        ({"select": "8", "squash": "tanhh"}, "did you mean 'tanh'"),
        ({"select": "8", "backend": "dens"}, "did you mean 'dense'"),
    ]:
        with pytest.raises(ValueError, match=message):
            kanzoo.kanify(net, **options)
    assert not kan_layers(net)
    with pytest.raises(ValueError, match=r"put it in nn\.Sequential"):
        kanzoo.kanify(nn.Linear(3, 4), "*")
    with pytest.raises(ValueError, match="wrapped in DataParallel"):
        kanzoo.kanify(nn.DataParallel(net), "*")


# --- the report ----------------------------------------------------------------------------------


def test_the_report_counts_what_is_there(caplog: pytest.LogCaptureFixture) -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3, bias=False))
    params, flops = count_params(net), count_flops(net, (6,))
    with caplog.at_level(logging.INFO, "kanzoo"):
        kanzoo.kanify(net, ["0", "2"], basis=kanzoo.get_basis("relu_kan", grid_size=4))
    report = kanzoo.kanify_report(net)
    assert (report.params_before, report.params_after) == (params, count_params(net))
    assert sum(cost.flops_before for cost in report.layers) == flops
    assert sum(cost.flops_after for cost in report.layers) == count_flops(net, (6,))
    assert [(c.name, c.layer, c.shape) for c in report.layers] == [
        ("0", "KANLinear", "6 -> 5"),
        ("2", "KANLinear", "5 -> 3"),
    ]
    assert str(report) in caplog.text
    assert f"{report.params_before:,} -> {report.params_after:,}" in str(report)


def test_flops_of_convolutions_are_per_input_pixel() -> None:
    for layer in (nn.Conv2d(4, 6, 2, stride=2, groups=2), nn.ConvTranspose2d(4, 6, 3, stride=2)):
        net = nn.Sequential(layer)
        plain = count_flops(net, (4, 8, 8))
        kanzoo.kanify(net, "0")
        (cost,) = kanzoo.kanify_report(net).layers
        assert (cost.flops_before * 64, cost.flops_after * 64) == (
            plain,
            count_flops(net, (4, 8, 8)),
        )
        assert cost.shape == f"4 -> 6, {'x'.join(map(str, layer.kernel_size))}"
    assert kanzoo.kanify_report(nn.Linear(2, 2)).layers == ()


# --- networks of others --------------------------------------------------------------------------


def vit() -> Any:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5)


def resnet() -> Any:
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)


FOREIGN: dict[str, tuple[Any, Any, int]] = {
    "vit": (vit, "blocks.*.mlp.fc*", 4),
    "vit whole": (vit, "*", 10),  # patches, qkv, proj, fc1, fc2, head
    "resnet": (resnet, ["layer[12].*.conv2", "fc"], 3),
}


def pictures(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", FOREIGN)
def test_networks_of_others(name: str) -> None:
    build, select, count = FOREIGN[name]
    net = build().eval()
    with torch.no_grad():
        expected = net(pictures())
    kanzoo.kanify(net, select)
    layers = kan_layers(net)
    assert len(layers) == count
    with torch.no_grad():
        assert relative(net(pictures()), expected) < 1e-5
    copied = copy.deepcopy(net)
    compiled = torch.compile(copied, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(pictures()), net(pictures()), rtol=1e-4, atol=1e-5)
    optimizer = torch.optim.SGD(net.train().parameters(), 1e-3)
    target = torch.arange(4)
    losses = []
    for _ in range(2):
        loss = nn.functional.cross_entropy(net(pictures()), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]
    for key, layer in layers.items():
        assert layer.weight.movedim(layer.function_dim, 0)[:-1].abs().amax() > 0, key
    with torch.no_grad():  # the copy is a network of its own
        assert relative(copied(pictures()), expected) < 1e-5
    fresh = kanzoo.kanify(build(), select).eval()
    fresh.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh(pictures()), net.eval()(pictures()))


@pytest.mark.slow
def test_blocks_of_hugging_face() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    net = transformers.BertModel(config).eval()
    tokens = torch.randint(0, 50, (2, 7))
    with torch.no_grad():
        expected = net(tokens).last_hidden_state
        kanzoo.kanify(net, ["encoder.layer.*.intermediate.dense", "encoder.layer.*.query"])
        assert len(kan_layers(net)) == 4
        assert relative(net(tokens).last_hidden_state, expected) < 1e-5


def _one_process(rank: int, store: str, results: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    kanzoo.kanify(net, ["0", "3"], basis="relu_kan")
    wrapped = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(2):
        x = torch.randn(8, 3, 4, 4, generator=generator)
        optimizer.zero_grad()
        wrapped(x).square().mean().backward()
        optimizer.step()
    gradients = {f"{key} gradient": p.grad for key, p in net.named_parameters()}
    torch.save({**net.state_dict(), **gradients}, f"{results}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path: Path) -> None:
    multiprocessing.spawn(  # type: ignore[no-untyped-call]
        _one_process, args=(str(tmp_path / "store"), str(tmp_path)), nprocs=2
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
        if key.endswith("gradient"):
            assert value.count_nonzero() > 0, key


@pytest.mark.slow
def test_compiled_networks_compute_the_same() -> None:
    net = kanzoo.kanify(small().eval(), "*")
    assert isinstance(net[0], KANConv2d)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.01)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images()), net(images()), rtol=1e-4, atol=1e-5)
