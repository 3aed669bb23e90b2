"""Networks on disk: what is loaded is what was saved, and files of others can run no code."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from zoo import ON_IMAGES

import kanzoo
from kanzoo import registry
from kanzoo.bases.activation import Activation
from kanzoo.layers import KANLayer, KANLinear
from kanzoo.models.weights import _match_dtypes

SHAPE = (1, 8, 8)
SIZES = {"width": 8, "heads": 2, "patch_size": 2}
BASES = ["bspline", "bspline_adaptive", "rational", "relu_kan", "random"]


def make(name: str = "mlp", **options: Any) -> Any:
    known = registry.options("model", name)
    sizes = {key: value for key, value in SIZES.items() if key in known}
    return kanzoo.create_model(
        name, in_shape=SHAPE, num_outputs=4, **{"seed": 1, **sizes, **options}
    )


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(5)).to(dtype)


def grids(net: nn.Module) -> list[Any]:
    return [m for m in net.modules() if isinstance(m, KANLayer) and m.has_grid]


def same(first: Any, second: Any, dtype: torch.dtype = torch.float32) -> bool:
    """Whether two networks have the same tensors and the same outputs, bit for bit."""
    a, b = first.state_dict(), second.state_dict()
    x = images(dtype)
    with torch.no_grad():
        return (
            list(a) == list(b)
            and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)
            and torch.equal(first.eval()(x), second.eval()(x))
        )


# --- round trips ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "basis"),
    [
        *((name, BASES[i % len(BASES)]) for i, name in enumerate(ON_IMAGES)),
        *(("mlp", basis) for basis in BASES),
    ],
)
def test_round_trip(name: str, basis: str, tmp_path: Path) -> None:
    net = make(name, basis=basis)
    net.train()(images())  # statistics of normalisations move
    state = torch.get_rng_state()
    kanzoo.save(net, tmp_path / "net")
    loaded = kanzoo.load(tmp_path / "net")
    assert torch.equal(torch.get_rng_state(), state)
    assert type(loaded) is type(net)
    assert loaded.training
    assert same(net, loaded)
    assert loaded.recipe == net.recipe


@pytest.mark.parametrize("layers", ["mlp", "kan_ffn"])
def test_round_trip_of_single_roles_and_budgets(layers: str, tmp_path: Path) -> None:
    net = make("vit", layers=layers, match="params", basis=kanzoo.get_basis("rbf", grid_size=3))
    kanzoo.save(net, tmp_path / "net")
    assert same(net, kanzoo.load(tmp_path / "net"))
    with_list = make("vit", kan_roles=["ffn", "head"])
    kanzoo.save(with_list, tmp_path / "net")
    assert same(with_list, kanzoo.load(tmp_path / "net"))


@pytest.mark.parametrize("basis", ["bspline", "bspline_adaptive", "piecewise_linear", "rbf"])
def test_grids_of_any_size_and_place(basis: str, tmp_path: Path) -> None:
    net = make(basis=basis)
    for index, layer in enumerate(grids(net)):
        layer.update_grid(3 * torch.randn(50, layer.in_features))
        layer.refine((3, 11)[index % 2])
    kanzoo.save(net, tmp_path / "net")
    loaded = kanzoo.load(tmp_path / "net")
    assert same(net, loaded)
    for layer, other in zip(grids(net), grids(loaded), strict=True):
        assert layer.expansion.basis.grid_size == other.expansion.basis.grid_size
        assert layer.expansion.num_functions == other.expansion.num_functions
        other.refine(12)  # and it goes on from there
    assert loaded(images()).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    for basis in ("bspline", "rational", "random"):
        net = make("vit", basis=basis).to(dtype)
        kanzoo.save(net, tmp_path / "net")
        assert same(net, kanzoo.load(tmp_path / "net"), dtype)
    mixed = make()
    mixed.head.double()
    kanzoo.save(mixed, tmp_path / "net")
    loaded: Any = kanzoo.load(tmp_path / "net")
    assert (loaded.head.weight.dtype, loaded.stem.weight.dtype) == (torch.float64, torch.float32)
    assert torch.equal(loaded.head.weight, mixed.head.weight)


def test_what_is_not_stored_follows_the_dtype() -> None:
    net = nn.Linear(2, 2)
    net.register_buffer("cache", torch.ones(2), persistent=False)
    _match_dtypes(net, copy.deepcopy(net).double().state_dict())
    assert {net.weight.dtype, net.cache.dtype} == {torch.float64}


def test_tensors_that_share_memory_or_are_no_block(tmp_path: Path) -> None:
    net = make(depth=3)
    first, second = (m for m in net.hidden if isinstance(m, KANLinear))
    second.weight = first.weight  # tied
    first.bias = nn.Parameter(torch.arange(16.0)[::2])  # every other number of its memory
    kanzoo.save(net, tmp_path / "net")
    assert same(net, kanzoo.load(tmp_path / "net"))


def test_mode_and_suffixes(tmp_path: Path) -> None:
    net = make().eval()
    kanzoo.save(net, tmp_path / "new" / "v1.2.safetensors")
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["v1.2.json", "v1.2.safetensors"]  # and no temporary file
    for name in ("v1.2", "v1.2.safetensors", "v1.2.json"):
        loaded = kanzoo.load(str(tmp_path / "new" / name))
        assert not loaded.training
        assert same(net, loaded)
    plain = safetensors.torch.load_file(tmp_path / "new" / "v1.2.safetensors")
    net.load_state_dict(plain)
    copied = copy.deepcopy(net)
    kanzoo.save(copied, tmp_path / "copy")
    assert same(net, kanzoo.load(tmp_path / "copy"))


def test_networks_of_training_runs_know_their_recipe(tmp_path: Path) -> None:
    from kanzoo.run.config import compose
    from kanzoo.run.prepare import prepare

    words = ["model=mlp", "model.width=8", "layers=kan", "basis=rbf", "data=digits"]
    net = prepare(compose("train", words)).plan.build(0)
    kanzoo.save(net, tmp_path / "net")
    loaded = kanzoo.load(tmp_path / "net")
    assert torch.equal(net(images()), loaded(images()))


# --- networks that cannot be saved ---------------------------------------------------------------


def test_networks_without_a_recipe_are_refused(tmp_path: Path) -> None:
    foreign = kanzoo.kanify(nn.Sequential(nn.Linear(3, 4)), "0")
    with pytest.raises(ValueError, match=r"recipe is unknown.*then load_state_dict"):
        kanzoo.save(foreign, tmp_path / "net")
    changed = make()
    changed.head = nn.Linear(8, 4)
    with pytest.raises(ValueError, match="changed after create_model"):
        kanzoo.save(changed, tmp_path / "net")

    class Own(Activation):
        pass

    own = make(basis=kanzoo.bases.base.make_factory(Own, function="relu"))
    with pytest.raises(ValueError, match="is not a class of kanzoo"):
        kanzoo.save(own, tmp_path / "net")
    with pytest.raises(ValueError, match="names no file"):
        kanzoo.save(make(), "")
    assert not list(tmp_path.iterdir())


# --- files of others -----------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    kanzoo.save(make(), tmp_path / "net")
    return tmp_path / "net"


def change(path: Path, **entries: Any) -> None:
    config = json.loads(path.with_suffix(".json").read_text())
    for key, value in entries.items():
        node, _, name = key.partition("__")
        if name:
            config[node][name] = value
        else:
            config[node] = value
    path.with_suffix(".json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"model": {"_target_": "os.system", "command": "touch {}"}}, "not a class of kanzoo"),
        ({"basis": {"_target_": "subprocess.run", "args": "touch {}"}}, "not a class of kanzoo"),
        ({"model___target_": "kanzoo.registry.importlib.import_module"}, "cannot be imported"),
        ({"model___target_": "kanzoo.models.weights.os.system"}, "cannot be imported|not allowed"),
        ({"model___target_": "kanzoo.models.weights.Path"}, "not allowed"),
        ({"model___target_": "kanzoo.bases.spline.BSpline"}, "models.base.Architecture"),
        ({"model___target_": "kanzoo.models.base.Architecture"}, "models.base.Architecture"),
        ({"basis___target_": "kanzoo.models.mlp.MLP"}, "bases.base.Basis"),
        ({"basis___target_": "kanzoo.bases.base.GridBasis"}, "bases.base.Basis"),
        ({"model___target_": ["kanzoo"]}, "not a class of kanzoo"),
        ({"model": "kanzoo.models.mlp.MLP"}, "model must hold named values"),
        ({"model__widht": 3}, "did you mean 'width'"),
        ({"model__layers": 3}, "unknown option"),
        ({"basis__device": "cuda"}, "unknown option"),
        ({"layers__basis": "rbf"}, "unknown option"),
        ({"layers___target_": "os.system"}, "unknown option"),
        ({"weights": "../../etc/passwd"}, "unknown key 'weights'"),
        ({"basis_name": ["x"]}, "basis_name"),
        ({"model__width": {"_target_": "os.system"}}, "plain value"),
        ({"model__width": "8"}, "width"),
        ({"model__width": 10**30}, "plain value of sane size"),
        ({"model__width": 2**20}, "far larger network"),
        ({"model__depth": 2**24}, "above 1024"),
        ({"basis__grid_size": 2**20}, "plain value of sane size"),
        ({"model__width": float("nan")}, "plain value"),
        ({"in_shape": [2**24, 2**24]}, "size"),
        ({"in_shape": []}, "in_shape"),
        ({"num_outputs": True}, "num_outputs"),
        ({"num_outputs": 5}, "does not fit net.json.*head"),
        ({"model__depth": 3}, "lack"),
        ({"model__depth": 1}, "have besides"),
        ({"layers__kan_roles": ["ffn"]}, "role"),
        ({"layers__kan_roles": 5}, "kan_roles must be a role or several, got 5"),
        ({"layers__backend": "fast"}, "backend"),
        ({"training": 1}, "training must be"),
        ({"format": 2}, "format 2 is not 1"),
    ],
)
def test_configurations_of_others_run_nothing(
    saved: Path, entries: dict[str, Any], message: str
) -> None:
    bait = saved.with_name("bait")
    for node in entries.values():
        if isinstance(node, dict):
            node.update({k: v.format(bait) for k, v in node.items() if isinstance(v, str)})
    change(saved, **entries)
    with pytest.raises(ValueError, match=message) as refusal:
        kanzoo.load(saved)
    assert "net.json" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 700
    assert not bait.exists()


def test_what_is_no_path_and_no_device_is_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"path must name .*, got 5$"):
        kanzoo.load(5)
    with pytest.raises(ValueError, match=r"device must be .*, got 'gpu'$"):
        kanzoo.load(saved, device="gpu")


class Bait:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_pickles_are_not_opened(saved: Path) -> None:
    bait = saved.with_name("bait")
    saved.with_suffix(".safetensors").write_bytes(pickle.dumps(Bait(bait)))
    with pytest.raises(ValueError, match=r"net\.safetensors is not a whole safetensors file"):
        kanzoo.load(saved)
    torch.save({"a": Bait(bait)}, saved.with_suffix(".safetensors"))
    with pytest.raises(ValueError, match=r"net\.safetensors is not a whole safetensors file"):
        kanzoo.load(saved)
    saved.with_suffix(".json").write_bytes(pickle.dumps(Bait(bait)))
    with pytest.raises(ValueError, match=r"net\.json is not readable JSON"):
        kanzoo.load(saved)
    torch.save(Bait(bait), saved.with_name("other.pt"))
    with pytest.raises(ValueError, match=r"other\.pt\.json does not exist"):
        kanzoo.load(saved.with_name("other.pt"))
    assert not bait.exists()


def test_damaged_weights_are_refused(saved: Path) -> None:
    path = saved.with_suffix(".safetensors")
    whole = path.read_bytes()
    for content in (b"", whole[:6], whole[:100], whole[:-1], whole + b"x", b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"net\.safetensors is not a whole") as refusal:
            kanzoo.load(saved)
        assert "\n" not in str(refusal.value)
    path.unlink()
    with pytest.raises(ValueError, match=r"net\.safetensors does not exist"):
        kanzoo.load(saved)


def test_tensors_that_do_not_fit_are_refused(saved: Path) -> None:
    path = saved.with_suffix(".safetensors")
    state = safetensors.torch.load_file(path)
    weight = state["head.weight"]
    for changed, message in (
        ({**state, "../../x": torch.zeros(1)}, "have besides 1 of its tensors, as ../../x"),
        ({k: v for k, v in state.items() if k != "head.weight"}, "lack 1 .* head.weight"),
        ({**state, "head.weight": weight[:, :, :3].contiguous()}, "does not fit net.json"),
        ({**state, "head.weight": weight[0, 0]}, "does not fit net.json"),
        ({**state, "head.weight": weight[:, :2].contiguous()}, "does not fit net.json"),
        ({**state, "head.weight": weight.long()}, "head.weight is of torch.int64"),
    ):
        safetensors.torch.save_file(changed, path)
        with pytest.raises(ValueError, match=message) as refusal:
            kanzoo.load(saved)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000, '{"a": 1e}', "{}"])
def test_damaged_configurations_are_refused(saved: Path, text: str) -> None:
    saved.with_suffix(".json").write_text(text)
    with pytest.raises(ValueError, match=r"net\.json") as refusal:
        kanzoo.load(saved)
    assert "\n" not in str(refusal.value)


def test_a_backend_that_cannot_be_had_is_replaced(
    saved: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    change(saved, layers__backend="compiled")
    monkeypatch.setattr("kanzoo.kernels.unavailable_reason", lambda *_: "no compiler")
    loaded = kanzoo.load(saved)
    assert {layer.backend for layer in grids(loaded)} == {"auto"}
    assert "no compiler" in caplog.text
