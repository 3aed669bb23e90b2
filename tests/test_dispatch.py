"""One door: which path computes a layer, why the others do not, and that nothing else chooses."""

import ast
import importlib.util
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_cases import needs_compiler
from torch import Tensor, nn

import kanzoo
from kanzoo import kernels
from kanzoo.bases.base import Basis
from kanzoo.layers import KANConv2d, KANConvTranspose2d, KANLayer, KANLinear, dispatch
from kanzoo.layers.dispatch import PATHS, add_path, choose, remove_path
from kanzoo.training.measure import PeakMemory

PACKAGE = Path(kanzoo.__file__).parent
WITH_KERNELS = [
    name
    for name in kanzoo.list_bases()
    if (basis := kanzoo.get_basis(name)(16)).splines() or basis.family()
]


def path_of(layer: KANLayer, x: Tensor) -> str:
    """The name that the explanation begins with, which names all others once, in one line."""
    line = layer.explain_backend(x)
    first, *others = line.split("; ")
    assert first == choose(layer.request(x)).name
    assert "\n" not in line
    reasons = [part for part in others if part.startswith("not ")]
    operator = layer.request(x).operator
    every = [path.name for path in PATHS if operator in path.operators]
    assert sorted([first, *(part[4 : part.index(":")] for part in reasons)]) == sorted(every)
    return first


@needs_compiler
def test_every_path_is_chosen_where_it_should_be() -> None:
    rows = torch.randn(700, 16)
    spline, bells = KANLinear(16, 8), KANLinear(16, 8, basis="rbf")
    assert path_of(spline, rows) == path_of(spline, rows[0]) == "direct"
    assert path_of(KANLinear(16, 8, dtype=torch.float64), rows.double()) == "direct"
    assert path_of(spline, rows.double()) == "native"  # a weight of another dtype
    assert path_of(KANLinear(16, 8, squash="tanh"), rows) == "native"
    assert path_of(KANLinear(16, 8, basis="bspline_prelu"), rows) == "native"
    assert path_of(spline, rows.t().contiguous().t()) == "direct"  # any strides
    assert path_of(spline, rows[:0]) == "native"
    assert path_of(spline, rows.to("meta")) == "one product"
    assert path_of(KANLinear(16, 8, basis="relu"), rows) == "plain"
    assert path_of(bells, rows) == "families"
    assert path_of(bells, rows[:5]) == "dense"
    assert path_of(KANLinear(16, 8, basis="rbf", residual="gelu"), rows) == "generic"
    assert path_of(KANLinear(16, 8, basis="rbf", squash="layer"), rows) == "dense"
    with torch.autocast("cpu", torch.bfloat16):
        assert path_of(spline, rows) == "native"
        assert path_of(bells, rows) == "families"
    tiles = KANConvTranspose2d(4, 4, 2, 2)
    images = torch.randn(9, 4, 30, 30)
    assert path_of(tiles, images) == "direct"  # a linear map of every pixel
    assert path_of(KANConv2d(4, 4, 3), images) == "native"
    assert path_of(KANConv2d(4, 4, 3, basis="rbf"), images) == "families"
    assert path_of(KANConv2d(4, 4, 3, basis="rbf", residual="gelu"), images) == "generic"
    assert path_of(KANConvTranspose2d(4, 4, 3), images[:1, :, :2, :2]) == "dense"
    rational = KANLinear(16, 8, basis="rational")
    assert rational.explain_backend(rows).endswith("values of the functions: native")


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "unavailable_reason", lambda *_: "no g++\nor clang++")
    rows = torch.randn(700, 16)
    for layer in (KANLinear(16, 8, basis="rbf"), KANLinear(16, 8)):
        assert path_of(layer, rows).startswith("generic")
        assert path_of(layer, rows[:5]) == "dense"
        with torch.no_grad():
            assert path_of(layer, rows) == "dense"
        assert ": no g++;" in layer.explain_backend(rows)
    rational = KANLinear(16, 8, basis="rational")
    assert rational.explain_backend(rows.repeat(2, 1)).endswith("functions: dense")


@needs_compiler
def test_what_traces_or_transforms_a_layer() -> None:
    """Seen from inside: the path that is chosen while the tool is at work."""
    seen: list[str] = []

    class Watched(KANLinear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(choose(self.request(x)).name)
            return super().forward(x)

    for basis, compiled in (("bspline", "native"), ("rbf", "dense")):
        layer = Watched(16, 8, basis=basis)
        x = torch.randn(400, 16)
        with torch.no_grad():
            program = torch.export.export(layer, (x,), strict=False)
            assert not any("kanzoo" in str(node.target) for node in program.graph.nodes)
            torch.func.vmap(layer)(x)
            torch.func.jvp(layer, (x,), (x,))
        assert set(seen) == {"dense"}
        found: list[Any] = []

        def keep(graph: Any, _: Any, found: list[Any] = found) -> Any:
            found.append(graph)
            return graph.forward

        torch.compile(KANLinear(16, 8, basis=basis), backend=keep, fullgraph=True)(x)
        uses_operator = any("spline_linear" in str(node.target) for node in found[0].graph.nodes)
        assert uses_operator == (compiled == "native")


@needs_compiler
def test_forward_mode_equals_backward_mode() -> None:
    layer = KANLinear(5, 3, dtype=torch.float64)
    x, direction = torch.randn(2, 4, 5, dtype=torch.float64).unbind()
    _, tangent = torch.func.jvp(layer, (x,), (direction,))
    x.requires_grad_()
    (grad,) = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(tangent.sum(), (grad * direction).sum())


def test_a_backend_that_cannot_compute_says_why() -> None:
    layer = KANLinear(16, 8)
    x = torch.randn(4, 16)
    layer.backend = "compilde"
    with pytest.raises(ValueError, match="did you mean 'compiled'"):
        layer(x)
    layer.backend = "compiled"
    with pytest.raises(ValueError, match="native: a transform of torch") as refusal:
        torch.func.vmap(layer)(x)
    assert "\n" not in str(refusal.value)
    layer.backend = "dense"
    assert "not native: backend is 'dense'" in layer.explain_backend(x)


OWN_PATH = """
    import torch
    from kanzoo.layers.paths.base import Path, Request

    class Einsum(Path):
        name = "einsum"
        rank = 5
        operators = ("linear",)
        backends = ("einsum",)
        calls = 0

        def can(self, request: Request) -> str | None:
            return None if request.x.dim() == 2 else "not a matrix"

        def run(self, request: Request) -> torch.Tensor:
            self.calls += 1
            values = request.expansion(request.x)
            y = torch.einsum("knc,cko->no", values, request.weight)
            return y if request.bias is None else y + request.bias
"""


def test_a_path_of_another_module_takes_part(tmp_path: Path) -> None:
    source = tmp_path / "own_path.py"
    source.write_text(textwrap.dedent(OWN_PATH))
    spec = importlib.util.spec_from_file_location("own_path", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = module.Einsum()
    layer, x = KANLinear(6, 5), torch.randn(7, 6)
    nn.init.normal_(layer.bias)
    want = layer(x)
    before = (list(PATHS), list(dispatch.BACKENDS))
    add_path(path)
    try:
        torch.testing.assert_close(layer(x), want)
        assert path.calls == 1
        assert path_of(layer, x) == "einsum"
        assert "not einsum: not a matrix" in layer.explain_backend(x[0])
        named = KANLinear(6, 5, basis="rbf", backend="einsum")
        assert path_of(named, x) == "einsum"
        with pytest.raises(ValueError, match="einsum: not a matrix"):
            named(x[0])
        assert path_of(named, x.to("meta")) == "plain"
    finally:
        remove_path(path)
    assert before == (PATHS, dispatch.BACKENDS)
    with pytest.raises(ValueError, match="unknown backend 'einsum'"):
        KANLinear(6, 5, backend="einsum")


def bytes_kept(layer: KANLayer, x: Tensor) -> int:
    """Output and what autograd keeps beside the input and the layer's tensors."""
    kept: dict[int, Tensor] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage()._cdata] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = layer(x)
    for t in (x, y, *layer.parameters(), *layer.buffers()):
        kept.pop(t.untyped_storage()._cdata, None)
    return y.nbytes + sum(t.untyped_storage().nbytes() for t in kept.values())


@needs_compiler
@pytest.mark.parametrize(
    ("name", "linear", "rows"),
    [
        *((WITH_KERNELS[0], linear, rows) for linear in (True, False) for rows in (700, 5)),
        *(
            (n, i % 2 == 0, (700, 5)[i // 2 % 2])
            for i, n in enumerate(WITH_KERNELS)
            if n != "bspline"
        ),
    ],
)
def test_memory_is_measured_on_the_path_that_trains(name: str, linear: bool, rows: int) -> None:
    if linear:
        layer: KANLayer = KANLinear(16, 8, basis=name)
        x = torch.randn(rows, 16, requires_grad=True)
    else:
        layer = KANConv2d(4, 8, 3, padding=1, basis=name)
        x = torch.randn(rows // 50 + 1, 4, 16, 16, requires_grad=True)
    explained, expected = layer.explain_backend(x), bytes_kept(layer, x)
    with PeakMemory() as memory:
        assert layer.explain_backend(x) == explained
        before = memory.live
        y = layer(x)
        assert memory.live - before == expected
    assert y.grad_fn is not None


def test_only_inputs_of_splines_are_counted() -> None:
    """Outputs `(256, 32)` in float32: 32,768 bytes, and no residual branch beside them."""
    layer, x = KANLinear(32, 32), torch.randn(256, 32)
    layer(x)
    if choose(layer.request(x)).name == "direct":
        with PeakMemory() as memory:
            y = layer(x)
        assert memory.live == y.nbytes == 32_768


# Files that ask for a dtype or a device for another end than choosing code.
PRECISION = {  # what half precisions are computed in, and kept as
    "kernels/generic/conv.py",
    "layers/expansion.py",
    "layers/grid.py",
}
# Arguments of C functions, memory that is used again, random generators.
OTHER = {"kernels/native/call.py", "kernels/native/scratch.py", "layers/kanify.py"}
STATES = {
    *("is_cpu", "is_cuda", "is_mps", "is_compiling", "is_exporting"),
    *("_are_functorch_transforms_active", "_len_torch_dispatch_stack", "unavailable_reason"),
}


def raising_tests(tree: ast.AST) -> set[ast.AST]:
    """Nodes of the conditions of errors."""
    tests = [
        node.test for node in ast.walk(tree) if isinstance(node, ast.If) and has_raise(node.body)
    ]
    return {inner for test in tests for inner in ast.walk(test)}


def has_raise(body: list[ast.stmt]) -> bool:
    return any(isinstance(statement, ast.Raise) for statement in body)


def names_of_bases(cls: type = Basis) -> set[str]:
    found = {name for sub in cls.__subclasses__() for name in names_of_bases(sub)}
    own = cls.__module__.startswith("kanzoo.bases") and cls.__module__ != "kanzoo.bases.base"
    return found | ({cls.__name__} if own else set())


def test_nothing_else_chooses_code() -> None:
    wrong: list[str] = []
    bases = names_of_bases() - {"Activation"}  # of ordinary layers
    assert {"BSpline", "SplinePReLU", "GroupRational"} <= bases
    for room in ("kernels", "layers", "models", "fit", "interpret", "training"):
        for path in sorted((PACKAGE / room).rglob("*.py")):
            name = path.relative_to(PACKAGE).as_posix()
            if name.startswith("layers/paths/") or name in OTHER:
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            checks = raising_tests(tree)
            for node in ast.walk(tree):
                if node in checks:
                    continue
                if isinstance(node, ast.Name) and node.id in bases:
                    wrong.append(f"{name}:{node.lineno} names {node.id}")
                if isinstance(node, ast.Attribute) and node.attr in STATES:
                    wrong.append(f"{name}:{node.lineno} asks {node.attr}")
                computes = room in ("kernels", "layers", "fit") and name not in PRECISION
                if computes and isinstance(node, ast.Compare):
                    sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
                    if any(side.endswith((".dtype", "device.type")) for side in sides):
                        wrong.append(f"{name}:{node.lineno} compares {ast.unparse(node)}")
    assert not wrong
