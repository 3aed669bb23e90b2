"""The command line: everything in conf/ composes, and bad input is one line that names the key."""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from conftest import environment, run_script
from fuzzing import in_process
from samples import skip_without_table

import kanzoo.compare
import kanzoo.evaluate
import kanzoo.explain
import kanzoo.train
from kanzoo import registry
from kanzoo.checks import build, check_value
from kanzoo.run.config import Composer, check_overrides, compose
from kanzoo.run.fit import train
from kanzoo.run.prepare import prepare
from kanzoo.rundir import RunDir, identity
from kanzoo.settings import EvaluateConfig, ExplainConfig

GROUPS = ("data", "model", "layers", "basis", "task", "optim", "sched", "trainer", "logger")
GROUPS += ("callbacks", "experiment", "debug")
# Groups do not depend on each other: each choice is composed once, beside some of the others.
TOGETHER = [group for group in GROUPS if group not in ("experiment", "debug")]
CHOICES = [
    {group: (names := registry.names(group))[i % len(names)] for group in TOGETHER}
    for i in range(max(len(registry.names(group)) for group in TOGETHER))
]
CHOICES += [{group: name} for group in ("experiment", "debug") for name in registry.names(group)]

# Overrides, and the words that the message must hold: the key, and the nearest or what is allowed.
TYPOS = [
    ("modle=vit", "'modle'", "'model'"),
    ("+modle=vit", "'modle'", "'model'"),
    ("model=vti", "'vti'", "'vit'"),
    ("data=mnits", "'mnits'", "'mnist'"),
    ("basis=bsplin", "'bsplin'", "'bspline'"),
    ("experiment=mnist_kann", "'mnist_kann'", "'mnist_kan'"),
    ("debug=fats", "'fats'", "'fast'"),
    ("model.dpeth=3", "'model.dpeth'", "'model.depth'"),
    ("+model.dpeth=3", "'model.dpeth'", "'model.depth'"),
    ("++model.dpeth=3", "'model.dpeth'", "'model.depth'"),
    ("model={dpeth: 3}", "dpeth", "mixer, mlp, nlinear"),
    ("basis.gridsize=3", "'basis.gridsize'", "'basis.grid_size'"),
    ("trainer.max_epoch=3", "'trainer.max_epoch'", "'trainer.max_epochs'"),
    ("logger.wandb.projet=x", "'logger.wandb.projet'", "'logger.wandb.project'"),
    ("+new.key=1", "'new'", "allowed are"),
    ("+sede=1", "'sede'", "'seed'"),
    ("choices.model=vit", "'choices'", "allowed are"),
    ("~model.width", "'~model.width'", "removed"),
    ("~model", "'~model'", "removed"),
    ("model.width", "model.width", "KEY=VALUE"),
    ("model=null", "'null'", "mixer, mlp, nlinear"),
    ("model=[vit,mlp]", "model", "mixer, mlp, nlinear"),
    ("model._target_=os.system", "model._target_", "cannot be changed"),
    ("data={_target_: os.system}", "os.system", "digits"),
    ("+model.width.x=3", "model.width", "whole number"),
    ("model.width=3,4", "'model.width=3,4'", "-m"),
    ("model.width=choice(3,4)", "'model.width", "-m"),
]
KINDS = [
    ("model.width=wide", "model.width", "whole number"),
    ("model.width=1.5", "model.width", "whole number"),
    ("model.width=true", "model.width", "whole number"),
    ("model.width=null", "model.width", "whole number"),
    ("model.width=auto", "model.width", "whole number"),
    ("model.width=[3]", "model.width", "whole number"),
    ("model.taper=nan", "model.taper", "finite"),
    ("model.taper=inf", "model.taper", "finite"),
    ("model.norm=null", "model.norm", "text"),
    ("seed=one", "seed", "whole number"),
    ("seed=null", "seed", "whole number"),
    ("overwrite=3", "overwrite", "true or false"),
    ("name=null", "name", "text"),
    ("runs=3", "runs", "text"),
    ("match=null", "match", "text"),
    ("layers.kan_roles=3", "layers.kan_roles", "text"),
    ("basis.grid_range=wide", "basis.grid_range", "list"),
    ("optim.lr=fast", "optim.lr", "number"),
    ("optim.lr=null", "optim.lr", "number"),
    ("optim.betas=0.9", "optim.betas", "list"),
    ("sched.warmup_fraction=auto", "sched.warmup_fraction", "number"),
    ("task.label_smoothing=null", "task.label_smoothing", "number"),
    ("callbacks.progress=1", "callbacks.progress", "true or false"),
    ("logger.wandb=3", "logger.wandb", "chosen by logger=wandb or null"),
    ("trainer.strategy=3", "trainer.strategy", "text"),
]
# Refused when the parts are described, before data are loaded.
IMPOSSIBLE = [
    ("seed=-1", "seed", "0 to 4294967295"),
    ("seed=99999999999999999999", "seed", "64 bits"),
    ("seed=4294967296", "seed", "0 to 4294967295"),
    ("model.width=99999999999999999999999", "model.width", "64 bits"),
    ("layers.kan_roles=[[stem]]", "kan_roles", "role or several"),
    ("layers.kan_roles=[stem,5]", "kan_roles", "role or several"),
    ("basis.spline_order=99", "spline_order", "30"),
    ("callbacks=grid callbacks.grid.refine=[[4]]", "callbacks.grid.refine", "[4]"),
    ("callbacks=grid callbacks.grid.refine=[[-1,8]]", "callbacks.grid.refine", "-1"),
    ("callbacks=grid callbacks.grid.refine=[[1,1000000000]]", "callbacks.grid.refine", "10000"),
    ("name=../x", "name", "'../x'"),
    ("name=a/b", "name", "'a/b'"),
    ("match=flop", "'flop'", "'flops'"),
    ("model.width=-4", "width", "-4"),
    ("model.depth=0", "depth", "0"),
    ("model.taper=0", "taper", "0"),
    ("model.dropout=1.5", "dropout", "1.5"),
    ("model.norm=lyaer", "'lyaer'", "'layer'"),
    ("model=vit model.heads=3", "heads=3", "width=64"),
    ("model=vit model.patch_size=3", "patch_size=3", "8 x 8"),
    ("model=vit model.norm=batch", "norm", "layer or none"),
    ("model=vit model.ffn_ratio=0", "ffn_ratio=0", "width"),
    ("model=resnet model.depth=9", "depth", "nearest is 8"),
    ("model=resnet model.expansion=0", "expansion", "positive"),
    ("model=resnet layers.kan_roles=[ffn]", "'ffn'", "stem, conv, head"),
    ("layers=kan_ffn", "'ffn'", "stem, hidden, head"),
    ("layers.kan_roles=[heda]", "'heda'", "'head'"),
    ("layers.kan_roles=haed", "'haed'", "'head'"),
    ("layers.activation=gleu", "'gleu'", "'gelu'"),
    ("layers.residual=sliu", "'sliu'", "'silu'"),
    ("layers.squash=tahn", "'tahn'", "'tanh'"),
    ("layers.init=varaince", "'varaince'", "'variance'"),
    ("basis=none layers.residual=null", "basis", "residual"),
    ("basis.grid_size=0", "grid_size", "at least 1"),
    ("basis.grid_range=[1,-1]", "grid_range", "increasing"),
    ("basis.grid_range=[1,a]", "grid_range", "increasing"),
    ("basis.extrapolation=lienar", "'lienar'", "'linear'"),
    ("optim.lr=-1", "optim.lr", "-1"),
    ("optim.weight_decay=-1", "optim.weight_decay", "-1"),
    ("sched.warmup_fraction=2", "sched.warmup_fraction", "between 0 and 1"),
    ("task.label_smoothing=1", "task.label_smoothing", "[0, 1)"),
    ("callbacks.patience=0", "callbacks.patience", "whole number"),
    ("callbacks.patience=soon", "callbacks.patience", "whole number"),
    ("logger=csv logger.wandb=yes", "logger.wandb", "logger=wandb"),
    ("logger.wandb.mode=onlin", "'onlin'", "'online'"),
    ("trainer.max_epochs=0", "trainer.max_epochs", "at least 1"),
    ("trainer.accelerator=gpuu", "'gpuu'", "'gpu'"),
    ("trainer.strategy=dpp", "'dpp'", "'ddp'"),
    ("trainer.precision=16", "trainer.precision", "text"),
    ("trainer.precision=32-ture", "'32-ture'", "'32-true'"),
    ("trainer.devices=0", "trainer.devices", "at least 1"),
    ("trainer.devices=two", "trainer.devices", "whole number of at least 1 or a list or auto"),
    ("trainer.gradient_clip_val=0", "trainer.gradient_clip_val", "above 0"),
    ("trainer=ddp trainer.devices=3", "batch_size=128", "multiple of 3"),
    ("data.batch_size=0", "batch_size", "0"),
    ("data.limit_train=0", "limit_train", "0"),
    ("data.limit_train=all", "limit_train", "whole number"),
    ("data.limit_train=99999", "limit_train", "1077"),
    ("data.val_size=2.5", "val_size", "2.5"),
    ("data=imagefolder data.root=/nowhere", "/nowhere/train", "root"),
    ("data=functions data.function=ellipkin", "'ellipkin'", "'ellipkinc'"),
    ("data=functions data.function=null", "data.function", "data.formula"),
    ("data=functions data.formula=x.__class__", "'x.__class__'", "Attribute"),
    ("data=functions data.formula=x+y data.ranges=[[0,1]]", "ranges", "x, y"),
    ("data=functions data.formula=x+y data.ranges={z:[0,1]}", "'z'", "x, y"),
    ("data=functions data.formula=x+y data.ranges=[1,-1]", "range of x", "increasing"),
    ("data=functions data.noise=-1", "noise", "at least 0"),
    ("data=functions data.dtype=float46", "float46", "'float64'"),
    ("data=csv", "data.path", "data.target"),
    ("data=csv data.path=/nowhere.csv data.target=y", "data.path", "/nowhere.csv"),
    ("data=functions optim=lbfgs", "data.batch_size=3000", "one batch"),
    (
        "data=functions optim=lbfgs data.batch_size=3000 trainer.precision=bf16-mixed",
        "trainer.precision",
        "64-true",
    ),
    (
        "data=functions optim=lbfgs data.batch_size=3000 trainer.accumulate_grad_batches=2",
        "accumulate_grad_batches",
        "=1",
    ),
    ("model.widths=[5]", "model.widths", "match=none"),
    ("model.mult=20000 match=none", "mult", "0 to 10000"),
    ("model.taper=1e300 match=none", "taper=1e+300", "fit into memory"),
    ("basis.grid_range=[-1e300,1e300]", "grid_range", "from -1e+06 to 1e+06"),
    ("callbacks=grid callbacks.grid.update_until=-5", "callbacks.grid.update_until", "at least 0"),
    ("trainer.accumulate_grad_batches=99", "trainer.accumulate_grad_batches", "1 to 8"),
    ("optim.lr=-1", "optim.lr", "at least 0"),
    ("optim.betas=[0.9,2]", "optim.betas", "0 to 1"),
    ("optim.eps=-1", "optim.eps", "at least 0"),
    ("optim=sgd optim.momentum=0", "optim: ", "momentum"),
    ("model.widths=[] match=none", "widths", "every hidden layer"),
    ("model.widths=[0] match=none", "widths", "at least 1"),
    ("data=mnist data.root=/nowhere data.download=false", "/nowhere/MNIST", "download"),
]


def refusal_of(action: Callable[[], object]) -> str:
    """The one line with which an action is refused."""
    with pytest.raises(ValueError) as refusal:  # noqa: PT011, the caller looks at the message
        action()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize(("line", "key", "hint"), TYPOS + KINDS)
def test_typos_and_wrong_kinds_are_refused_by_name(line: str, key: str, hint: str) -> None:
    message = refusal_of(lambda: check_overrides("train", [line]))
    assert key in message
    assert hint in message


@functools.cache
def composer() -> Composer:
    return Composer("train")


@pytest.mark.parametrize(("line", "key", "hint"), IMPOSSIBLE)
def test_impossible_values_are_refused_by_name(line: str, key: str, hint: str) -> None:
    def describe() -> None:
        config = composer()(line.split())
        RunDir.of(config)
        prepare(config)

    message = refusal_of(describe)
    assert key in message
    assert hint in message


@pytest.mark.parametrize(
    "line",
    [
        "data.val_size=0.2",
        "layers.kan_roles=head",
        "layers.kan_roles=[stem,head]",
        "layers.residual=null",
        "trainer.gradient_clip_val=null",
        "optim.lr=1",
        "callbacks.patience=3",
        "logger.wandb=null",
        "++model.width=32",
        "data=functions data.ranges={x:[0,1]}",
        "data=functions data.ranges=[0,1]",
        "data=functions data.function=null data.formula=x*y",
    ],
)
def test_possible_values_are_taken(line: str) -> None:
    config = compose("train", line.split())
    assert prepare(config).plan.params > 0
    for word in line.split():
        key, _, text = word.lstrip("+").partition("=")
        if "." in key:
            group, name = key.split(".", 1)
            value = config[group]
            for part in name.split("."):
                value = value[part]
            given = yaml.safe_load(re.sub(r":(?=\S)", ": ", text))
            assert value == given


@pytest.mark.parametrize(
    ("name", "section"), [("evaluate", EvaluateConfig), ("explain", ExplainConfig)]
)
def test_configurations_of_commands_are_what_their_sections_hold(name: str, section: Any) -> None:
    assert build(section, compose(name, ["run=here"])).run == "here"


def test_values_reach_the_configuration() -> None:
    config = compose("train", ["model=vit", "model.depth=3", "basis=rbf", "seed=0", "data=digits"])
    assert config["model"]["depth"] == 3
    assert config["seed"] == 0
    assert config["choices"]["basis"] == "rbf"
    assert config["basis"]["_target_"].endswith("GaussianRBF")


@pytest.mark.parametrize("chosen", CHOICES, ids=lambda chosen: "-".join(chosen.values()))
def test_every_choice_composes(chosen: dict[str, str]) -> None:
    config = compose("train", [f"{group}={name}" for group, name in chosen.items()])
    for node in config.values():
        if isinstance(node, dict) and "_target_" in node:
            registry.locate(node["_target_"])
    for group in chosen.keys() & {*TOGETHER}:
        assert config["choices"][group] == chosen[group]
        assert set(config[group]) == set(registry.options(group, chosen[group]))


@pytest.mark.slow
def test_composing_quickly_knows_every_choice() -> None:
    quick = Composer("train")
    for chosen in CHOICES:
        words = [*(f"{group}={name}" for group, name in chosen.items()), "seed=3"]
        assert quick(words) == compose("train", words), words


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names("study"))
def test_every_study_plans_and_can_start(name: str) -> None:
    skip_without_table(name)
    from kanzoo.study.comparison import check_cells, plan

    config = compose("compare", [f"study={name}"])
    study = config["study"]
    cells = plan(config)
    check_cells(cells)
    # Every combination of the file is there, for every seed once; further axes add to it.
    seeds = set(range(study["first_seed"], study["first_seed"] + study["seeds"]))
    found: dict[Any, list[int]] = {}
    for cell in cells:
        found.setdefault(cell.kind, []).append(cell.seed)
    assert all(sorted(own) == sorted(seeds) for own in found.values())
    grid = {(cell.data, cell.model, cell.arm, cell.match) for cell in cells}
    names = (study["data"], study["models"], study["arms"], study["match"])
    assert grid >= set(product(*names))
    assert study["controls"] or grid == set(product(*names))
    # Cells that share a run agree on all that decides its result.
    runs: dict[Path, str] = {}
    for cell in cells:
        same = json.dumps(identity(cell.config), sort_keys=True)
        assert runs.setdefault(cell.folder.path, same) == same


def test_a_factor_of_edges_tells_runs_apart_only_where_there_is_one() -> None:
    def hashed(*words: str, **layers: Any) -> str:
        config = compose("train", ["data=digits", "model=mlp", *words])
        kept = {k: v for k, v in config["layers"].items() if k != "edge_scale"}
        return RunDir.of({**config, "layers": {**kept, **layers}}).config_hash

    for words in ((), ("callbacks=grid",), ("layers=mlp",)):
        assert hashed(*words) == hashed(*words, edge_scale=False)  # as before there was one
    assert len({hashed(), hashed("callbacks=grid"), hashed(edge_scale=True)}) == 3
    assert hashed("layers=mlp") == hashed("layers=mlp", edge_scale=True)  # none is KAN


@pytest.mark.parametrize("name", registry.names("experiment"))
def test_an_experiment_yields_to_the_command_line(name: str) -> None:
    config = compose("train", [f"experiment={name}", "data.batch_size=12", "name=other"])
    assert config["data"]["batch_size"] == 12
    assert config["name"] == "other"


def test_a_sweep_is_checked_value_by_value() -> None:
    check_overrides("train", ["model=mlp,vit", "seed=0,1"], multirun=True)
    with pytest.raises(ValueError, match="'vti'"):
        check_overrides("train", ["model=mlp,vti"], multirun=True)
    with pytest.raises(ValueError, match=r"model\.width"):
        check_overrides("train", ["model.width=3,wide"], multirun=True)
    with pytest.raises(ValueError, match=r"compare\.py"):
        check_overrides("train", ["trainer=ddp", "seed=0,1"], multirun=True)
    with pytest.raises(ValueError, match=r"compare\.py"):
        check_overrides("train", ["trainer=cpu,ddp"], multirun=True)


def test_typos_are_refused_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    """Seconds of imports are what a mistyped key must not cost."""
    lines = [["train", "+model.dpeth=3"], ["train", "model=vti"], ["train", "model.width=wide"]]
    lines += [["compare", "study=dmeo"], ["train", "trainer=ddp", "-m"]]
    code = (
        "import importlib, sys\n"
        f"for module, *words in {lines!r}:\n"
        "    sys.argv = [f'{module}.py', *words]\n"
        "    try: importlib.import_module(f'kanzoo.{module}').main()\n"
        "    except SystemExit as end: assert end.code == 2, end.code\n"
        "    else: raise AssertionError('not refused')\n"
        "    heavy = {'torch', 'lightning', 'wandb', 'torchmetrics', 'pandas'} & set(sys.modules)\n"
        "    assert not heavy, (words, heavy)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == len(lines)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (kanzoo.train, ["data=imagefolder", "data.root=nowhere"]),
        (kanzoo.evaluate, []),
        (kanzoo.explain, ["run=nowhere"]),
        (kanzoo.explain, ["run=nowhere", "edges=0"]),
        (kanzoo.compare, ["study=demo", "study.seeds=1"]),
    ],
)
def test_bad_input_ends_a_command_with_one_line(
    command: ModuleType, words: list[str], tmp_path: Path
) -> None:
    outcome = in_process(command.main, words, tmp_path)
    assert outcome.code == 2
    outcome.check()


def test_bad_input_ends_a_process_with_one_line(tmp_path: Path) -> None:
    done = run_script("train", "model=resnet", "layers=kan_ffn", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("kanzoo: ")
    assert not done.stdout
    assert not list(tmp_path.iterdir())


def test_corrupt_data_end_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{part}-ubyte").write_bytes(b"not an image")
    words = ["data=mnist", f"data.root={tmp_path / 'data'}", "data.download=false"]
    with pytest.raises(ValueError, match="-ubyte") as refusal:
        train(compose("train", [*words, f"runs={tmp_path / 'runs'}"]))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("group", ["data", "model", "layers", "basis", "task", "sched", "engine"])
def test_annotations_are_the_kinds_of_options(group: str) -> None:
    """Read from the source, they are those of the imported class, and take every default."""
    for name in registry.names(group):
        node = registry.options(group, name)
        target = node.pop("_target_")
        kinds = registry.option_kinds(target)
        hints: dict[str, Any] = {}
        for cls in reversed(registry.locate(target).__mro__):
            hints |= get_type_hints(cls) if is_dataclass(cls) else {}
            hints |= get_type_hints(vars(cls).get("__init__", object))
        for key, default in node.items():
            optional = type(None) in get_args(hints[key])
            if key not in kinds:
                assert hints[key] is Any, (name, key)
                continue
            if "$" not in str(default):
                check_value(key, default, kinds[key])
            assert (type(None) in get_args(kinds[key])) == optional, (name, key)


def test_no_resolver_evaluates_code() -> None:
    for path in registry.conf_dir().rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert "eval:" not in text
        assert "now:" not in text
