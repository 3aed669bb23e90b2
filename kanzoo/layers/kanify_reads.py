"""Which layers of a network have their weight read by the code around them.

Nothing is run: the code that the forward of every module can reach is searched for it.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from types import FunctionType
from typing import Any

from torch import nn

HARMLESS = ("dtype", "device", "requires_grad")  # of a weight: a KAN layer's has them too


def readers(net: nn.Module, layers: Iterable[nn.Module]) -> dict[nn.Module, str]:
    """The layers whose weight is read in the forward of a network, and the class that does.

    PyTorch's own modules are left out: `nn.TransformerEncoderLayer`, which reads weights, is known
    to have another way.
    """
    candidates = set(layers)
    readers_by_layer: dict[nn.Module, str] = {}
    for module in net.modules():
        kind: Any = type(module)
        chains = set() if _of_torch(kind) else set(_chains(kind))
        if isinstance(module, nn.MultiheadAttention):
            chains.add(("out_proj",))
        for chain in chains:
            for layer in _owners(module, chain) & candidates:
                readers_by_layer.setdefault(layer, kind.__name__)
    return readers_by_layer


def _of_torch(thing: Any) -> bool:
    return str(thing.__module__).startswith("torch.")


def _owners(module: nn.Module, chain: tuple[str, ...]) -> set[nn.Module]:
    """The modules that a chain of attributes may mean; "*" is any child, those of lists too."""
    reached: set[Any] = {module}
    for name in chain:
        following: set[Any] = set()
        for thing in reached:
            if name == "*":
                following |= _held(thing)
            elif isinstance(thing, nn.Module) and hasattr(thing, name):
                following.add(getattr(thing, name))
        reached = {thing for thing in following if isinstance(thing, nn.Module)}
    return reached


def _held(module: nn.Module) -> set[nn.Module]:
    """The children of a module, and those of its containers."""
    held = set()
    for child in module.children():
        held.add(child)
        if isinstance(child, nn.ModuleList | nn.ModuleDict | nn.Sequential):
            held |= _held(child)
    return held


@cache
def _chains(kind: type) -> frozenset[tuple[str, ...]]:
    """What the forward of a class reads the weight of: attributes of self, one after another."""
    seen: set[FunctionType] = set()
    chains: set[tuple[str, ...]] = set()
    names = {"forward"}
    for name in iter(lambda: names.pop() if names else None, None):
        for function in set(_functions(kind, name)) - seen:
            seen.add(function)
            tree = _tree(function)
            if tree is None:  # no source: all names in the code
                used = function.__code__.co_names
                names.update(used)
                chains |= {(used_name,) for used_name in used if "weight" in used}
                continue
            first = tree.args.args[0].arg if tree.args.args else ""
            attributes = (_chain(n, first) for n in ast.walk(tree) if isinstance(n, ast.Attribute))
            names.update(chain[0] for chain in attributes if chain)
            chains |= set(_reads(tree, first, function))
    return frozenset(chains)


def _functions(kind: type, name: str) -> Iterator[FunctionType]:
    """A method or the getter of a property, and those of the base classes that it may call."""
    for cls in kind.__mro__:
        value: Any = vars(cls).get(name)
        if value is None:
            continue
        value = value.fget if isinstance(value, property) else value
        value = inspect.unwrap(getattr(value, "__func__", value))
        if not isinstance(value, FunctionType) or _of_torch(value):
            return
        yield value
        if "super" not in value.__code__.co_names:
            return


@cache
def _tree(function: FunctionType) -> Any:
    """The definition of a function, None where there is no source."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    return tree if isinstance(tree, ast.FunctionDef) else None


def _chain(node: ast.AST, self_name: str) -> tuple[str, ...] | None:
    """The attributes in `self.a.b`, indexed ones as "*"; None if it is not one of self."""
    names: list[str] = []
    while True:
        if isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        elif isinstance(node, ast.Subscript):
            names.append("*")
            node = node.value
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "getattr"
            and len(node.args) >= 2
        ):
            name = node.args[1]
            names.append(str(name.value) if isinstance(name, ast.Constant) else "*")
            node = node.args[0]
        elif isinstance(node, ast.Name) and node.id == self_name:
            return tuple(reversed(names))
        else:
            return None


def _reads(
    tree: ast.FunctionDef, self_name: str, function: FunctionType
) -> Iterator[tuple[str, ...]]:
    """The chains of attributes of self whose weight a function reads or hands on."""
    harmless = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in HARMLESS
    }
    for node in ast.walk(tree):
        read = _weight_of(node)
        if read is not None and id(node) not in harmless:
            chain = _chain(read, self_name)
            if chain is None:  # of a local variable, perhaps a child
                yield ("*",)
            elif chain:
                yield chain
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = function.__globals__.get(node.func.id)
            if isinstance(called, FunctionType) and _reads_arguments(called):
                for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                    chain = _chain(argument, self_name)
                    if chain:
                        yield chain


def _weight_of(node: ast.AST) -> ast.AST | None:
    """What the weight is read of by `x.weight` or `getattr(x, "weight")`."""
    if isinstance(node, ast.Attribute) and node.attr == "weight":
        return node.value if isinstance(node.ctx, ast.Load) else None
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return None
    constant = node.args[1] if node.func.id == "getattr" and len(node.args) > 1 else None
    is_weight = isinstance(constant, ast.Constant) and constant.value == "weight"
    return node.args[0] if is_weight else None


@cache
def _reads_arguments(function: FunctionType) -> bool:
    """Whether a function reads the weight of anything that it is given."""
    if _of_torch(function):
        return False
    tree = _tree(function)
    return tree is not None and any(_weight_of(node) is not None for node in ast.walk(tree))
