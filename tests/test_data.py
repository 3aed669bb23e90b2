"""Data: fixed splits, batches that depend on seed and epoch only, augmentation, bad input."""

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import compose
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional as F

from kanzoo import registry
from kanzoo.data import Dataset, DataSpec, Loader, MemoryDataset, Split
from kanzoo.data.base import PARTS, Loaders
from kanzoo.data.folder import ImageFolder
from kanzoo.data.loader import EpochSampler, MemoryLoader, batch_bounds
from kanzoo.data.seeding import split_order
from kanzoo.data.transform import channel_statistics, crop_and_flip
from kanzoo.data.vision import (
    CIFAR10,
    CIFAR100,
    MNIST,
    Digits,
    DownloadedImages,
    FashionMNIST,
)

CPU = torch.device("cpu")
CONF = Path(__file__).parents[1] / "conf" / "data"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))


def configured(name: str) -> tuple[type[Dataset], dict[str, object]]:
    """Return the class and the resolved options of a data set's YAML file."""
    options = OmegaConf.to_container(OmegaConf.create(registry.options("data", name)), resolve=True)
    assert isinstance(options, dict)
    module, _, cls = str(options.pop("_target_")).rpartition(".")
    return getattr(importlib.import_module(module), cls), {str(k): v for k, v in options.items()}


def constructor_options(cls: type) -> set[str]:
    """Return every keyword that the constructors of a class and its bases name."""
    found: set[str] = set()
    for base in cls.__mro__:
        if "__init__" in vars(base) and base is not object:
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            found |= {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    return found


def images_of(loader: Loader, epoch: int = 0) -> list[tuple[Tensor, Tensor]]:
    loader.sampler.set_epoch(epoch)
    return list(loader)


def same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d)
        for (a, b), (c, d) in zip(first, second, strict=True)
    )


def real_root() -> str:
    root = os.environ.get("KANZOO_DATA")
    if not root:
        pytest.skip("KANZOO_DATA does not name a folder with the real data sets")
    return root


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = Digits(batch_size=64, augment=True)
    data.load()
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image files of three classes that differ in hue; every image has pixels of its own."""
    from PIL import Image

    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for label, name in enumerate(["ant", "bee", "cow"]):
        (root / "train" / name / "nested").mkdir(parents=True)
        for i in range(20):
            pixels = generator.integers(0, 60, (24 + i, 30, 3), dtype=np.uint8)
            pixels[..., label] += 150
            place = root / "train" / name / ("nested" if i % 2 else "")
            Image.fromarray(pixels).save(place / f"{i}.png")
    return root


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize("name", NAMES)
def test_yaml_lists_every_option_with_a_comment(name: str) -> None:
    cls, options = configured(name)
    assert issubclass(cls, Dataset)
    assert set(options) == constructor_options(cls)
    for line in (CONF / f"{name}.yaml").read_text().splitlines():
        assert line.startswith(("#", "_target_")) or "  # " in line, line


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"imagefolder", "csv", "series_csv"}))
def test_the_task_follows_from_the_data(name: str) -> None:
    cls, options = configured(name)
    config = compose("train", [f"data={name}"])
    spec = cls(**options).spec  # type: ignore[arg-type]
    objective = registry.locate(config["task"]["_target_"])
    assert config["choices"]["task"] == objective.task == spec.task  # type: ignore[attr-defined]
    assert "defaults" not in config["data"]


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"imagefolder", "csv", "series_csv"}))
def test_spec_and_sizes_are_known_without_files(name: str, tmp_path: Path) -> None:
    cls, options = configured(name)
    if "root" in options:
        options["root"] = str(tmp_path / "absent")
    data = cls(**options)  # type: ignore[arg-type]
    data.check()
    spec = data.spec
    assert isinstance(spec, DataSpec)
    assert spec.task in registry.names("task")
    axes = {"image": 3, "sequence": 2, "table": 1, "tokens": 1, "dense": 3, "graph": 2}
    assert len(spec.in_shape) == axes[spec.kind]
    assert len(spec.class_names) in (0, spec.num_outputs)
    assert data.counts().train > 2 * data.counts().test > 0
    assert not list(tmp_path.iterdir())


def test_importing_costs_torch_only() -> None:
    heavy = ["torchvision", "sklearn", "lightning", "hydra", "omegaconf", "PIL"]
    code = (
        "import sys, kanzoo.data.folder, kanzoo.data.sequence, kanzoo.data.dense, kanzoo.data.text;"
        "import kanzoo.data.series, kanzoo.data.tabular; from kanzoo.data.vision import MNIST;"
        f"MNIST().check(); print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=CONF.parents[1],
    )
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- splits


def test_split_order_is_stratified_in_every_stretch() -> None:
    targets = torch.tensor([0] * 100 + [1] * 300 + [2] * 7)
    order = split_order(targets, "key")
    assert torch.equal(order.sort().values, torch.arange(407))
    for start, stop in [(0, 40), (0, 123), (50, 200), (300, 407)]:
        counts = torch.bincount(targets[order[start:stop]], minlength=3)
        expected = torch.tensor([100, 300, 7]) * (stop - start) / 407
        assert (counts - expected).abs().max() <= (1 if start == 0 else 2)
    assert not torch.equal(order, split_order(targets, "other key"))


def test_digits_splits_hold_every_scan_once(digits: Digits) -> None:
    from sklearn.datasets import load_digits

    assert digits.splits is not None
    assert [len(s.y) for s in digits.splits.values()] == [1077, 360, 360]
    pixels = torch.cat([split.x for split in digits.splits.values()]).flatten(1)
    original = torch.from_numpy(load_digits().data).mul(255 / 16).round().to(torch.uint8)
    assert sorted(map(tuple, pixels.tolist())) == sorted(map(tuple, original.tolist()))
    for split in digits.splits.values():
        share = torch.bincount(split.y) / len(split.y)
        assert (share - 0.1).abs().max() < 0.01


def test_limits_keep_a_subset_and_leave_the_other_splits_alone(digits: Digits) -> None:
    small = Digits(limit_train=100, limit_val=50, limit_test=40)
    smaller = Digits(limit_train=30)
    small.load()
    smaller.load()
    assert digits.splits is not None
    assert small.splits is not None
    assert smaller.splits is not None

    def rows(split: Split) -> set[tuple[int, ...]]:
        return set(map(tuple, split.x.flatten(1).tolist()))

    assert [len(s.y) for s in small.splits.values()] == [100, 50, 40]
    assert torch.bincount(small.splits["train"].y).min() >= 8
    for part, whole in digits.splits.items():
        assert rows(small.splits[part]) <= rows(whole)
    assert rows(smaller.splits["train"]) <= rows(small.splits["train"])
    assert torch.equal(smaller.splits["val"].x, digits.splits["val"].x)


def test_split_seed_draws_all_parts_where_no_test_set_is_official(digits: Digits) -> None:
    def rows(dataset: Digits, *parts: str) -> list[list[float]]:
        assert dataset.splits is not None
        return sorted(x for part in parts for x in dataset.splits[part].x.flatten(1).tolist())

    other, free = Digits(split_seed=1), Digits(split_seed=None)
    free.draw_by(1)
    for dataset in (other, free):
        dataset.load()
        assert all(rows(dataset, part) != rows(digits, part) for part in ("val", "test"))
        assert rows(dataset, *PARTS) == rows(digits, *PARTS)
        assert torch.equal(dataset.splits["test"].x, other.splits["test"].x)
    assert free.split_facts()["test_set"] == "resampled"
    other.draw_by(7)  # a given seed is kept, and then all runs share one test set
    assert (other.split_seed, other.split_facts()["test_set"]) == (1, "fixed")


def test_an_official_test_set_is_the_same_for_all_seeds_also_where_it_is_limited() -> None:
    class Official(Digits):
        test_set = "official"

        def test_order(self, targets: Tensor, name: str) -> Tensor:
            return split_order(targets, name)

    first, second = (Official(split_seed=seed, limit_test=40) for seed in (0, 1))
    for dataset in (first, second):
        dataset.load()
    assert torch.equal(first.splits["test"].x, second.splits["test"].x)
    assert not torch.equal(first.splits["val"].x, second.splits["val"].x)


# ---------------------------------------------------------------- batches


def test_batches_depend_on_seed_and_epoch_only(digits: Digits) -> None:
    first = digits.loaders(seed=0, device=CPU).train
    again = digits.loaders(seed=0, device=CPU).train
    other = digits.loaders(seed=1, device=CPU).train
    epochs = [images_of(first, e) for e in range(3)]
    torch.manual_seed(99)
    assert same(images_of(again, 2), epochs[2])  # without having run epochs 0 and 1
    assert same(images_of(again, 0), epochs[0])
    assert not same(epochs[0], epochs[1])
    assert not same(images_of(other, 0), epochs[0])
    labels = [torch.cat([y for _, y in e]) for e in epochs]
    assert not torch.equal(labels[0], labels[1])


def test_noise_depends_on_seed_and_epoch() -> None:
    def noise(seed: int, epoch: int) -> tuple[float, ...]:
        sampler = EpochSampler(20, seed=seed, shuffle=True)
        sampler.set_epoch(epoch)
        return tuple(sampler.noise(3).flatten().tolist())

    keys = [(seed, epoch) for seed in range(4) for epoch in range(4)]
    assert len({noise(*key) for key in keys}) == len(keys)
    assert noise(2, 3) == noise(2, 3)


def test_global_random_state_is_untouched() -> None:
    def draws(use_data: bool) -> tuple[list[float], float]:
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002
        if use_data:
            for loader in Digits(augment=True).loaders(seed=5, device=CPU):
                images_of(loader, 1)
        return torch.rand(5).tolist(), float(np.random.random())  # noqa: NPY002

    assert draws(use_data=True) == draws(use_data=False)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_the_batches_of_one_process(digits: Digits, world_size: int) -> None:
    alone = digits.loaders(seed=0, device=CPU)
    ranks = [
        digits.loaders(seed=0, device=CPU, rank=r, world_size=world_size) for r in range(world_size)
    ]
    for part in ("train", "val", "test"):
        whole = images_of(getattr(alone, part), 3)
        shares = [images_of(getattr(rank, part), 3) for rank in ranks]
        assert {len(share) for share in shares} == {len(whole)}
        for i, (x, y) in enumerate(whole):
            for r, share in enumerate(shares):
                assert torch.equal(share[i][0], x[r::world_size])  # augmented pixels, too
                assert torch.equal(share[i][1], y[r::world_size])


@pytest.mark.parametrize("size", [4, 7, 64, 65, 66, 130, 191])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_bounds_cover_evaluation_once_and_keep_ranks_in_step(size: int, world_size: int) -> None:
    seen = []
    bounds = batch_bounds(size, 64, world_size, training=False)
    for start, stop in bounds:
        assert stop - start >= world_size
        seen += list(range(start, stop))
    assert seen == list(range(size))
    training = batch_bounds(size, 64, world_size, training=True)
    lengths = {stop - start for start, stop in training}
    assert len(lengths) == 1
    length = lengths.pop()
    assert length % world_size == 0
    assert length == 64 if size >= 64 else size - world_size < length <= size
    assert len(training) == max(1, size // 64)


def test_evaluation_sees_every_sample_once_in_order(digits: Digits) -> None:
    loaders = digits.loaders(seed=0, device=CPU)
    assert digits.splits is not None
    for part in ("val", "test"):
        loader = getattr(loaders, part)
        batches = images_of(loader)
        assert len(batches) == len(loader)
        assert torch.equal(torch.cat([y for _, y in batches]), digits.splits[part].y)
        assert loader.num_samples == len(digits.splits[part].y)


def test_training_sees_each_sample_at_most_once_an_epoch() -> None:
    x = torch.arange(1000)
    sampler = EpochSampler(1000, seed=0, shuffle=True)

    class Plain(MemoryDataset):
        num_train, num_test = 1001, 10

        @property
        def spec(self) -> DataSpec:
            return DataSpec((), 1, "regression")

        def read(self) -> tuple[Split, Split]:
            return Split(torch.arange(1001), torch.rand(1001)), Split(x[:10], torch.rand(10))

    data = Plain(batch_size=64, val_size=1)
    loader = data.loaders(seed=0, device=CPU).train
    assert sampler.size == loader.num_samples
    seen = torch.cat([x for x, _ in images_of(loader)])
    assert len(seen) == len(seen.unique()) == 15 * 64
    assert seen.dtype == torch.int64


def test_an_interrupted_epoch_goes_on_at_the_next_batch(digits: Digits) -> None:
    whole = images_of(digits.loaders(seed=0, device=CPU).train, 2)
    stopped = digits.loaders(seed=0, device=CPU).train
    stopped.sampler.set_epoch(2)
    batches = iter(stopped)
    for _ in range(5):
        next(batches)
    state = stopped.state_dict()
    assert all(type(value) is int for value in state.values())
    resumed = digits.loaders(seed=0, device=CPU).train
    resumed.load_state_dict(state)
    assert same(images_of(resumed, 2), whole[5:])
    assert same(images_of(resumed, 2), whole)  # only the first iteration is shortened
    resumed.load_state_dict(state)
    assert len(images_of(resumed, 3)) == len(whole)


# ---------------------------------------------------------------- pixels


def test_normalised_training_images_have_mean_zero_and_deviation_one(digits: Digits) -> None:
    plain = Digits(batch_size=1077)
    x = images_of(plain.loaders(seed=0, device=CPU).train)[0][0].double()
    assert x.mean().abs() < 1e-5
    assert (x.std(correction=0) - 1).abs() < 1e-5


def test_channel_statistics_equal_the_plain_formula() -> None:
    images = torch.randint(0, 256, (50, 3, 5, 7), dtype=torch.uint8)
    images[:, 2] = 9
    mean, deviation = channel_statistics(images)
    pixels = images.double().transpose(0, 1).flatten(1)
    assert torch.allclose(mean, pixels.mean(dim=1))
    assert torch.allclose(deviation[:2], pixels[:2].std(dim=1, correction=0))
    assert deviation[2] == 1


@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_equals_a_loop_over_images(flip: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (400, 3, 6, 5), dtype=torch.uint8, generator=generator)
    noise = torch.rand(400, 3, generator=generator)
    noise[0] = 1 - 2**-24  # the largest single-precision number below 1
    noise[1] = 0
    result = crop_and_flip(images, noise, padding=2, flip=flip)
    shifts, mirrored = set(), 0
    for image, (u, v, w), found in zip(images, noise.tolist(), result, strict=True):
        top, left = int(u * 5), int(v * 5)
        expected = F.pad(image, (2, 2, 2, 2))[:, top : top + 6, left : left + 5]
        if flip and w < 0.5:
            expected = torch.stack(expected.unbind(2)[::-1], dim=2)
            mirrored += 1
        assert torch.equal(found, expected)
        shifts.add((top, left))
    assert len(shifts) == 25
    assert (150 < mirrored < 250) == flip


def test_augmentation_touches_training_images_only(digits: Digits) -> None:
    plain = Digits(batch_size=64).loaders(seed=0, device=CPU)
    augmented = digits.loaders(seed=0, device=CPU)
    assert same(images_of(plain.val), images_of(augmented.val))
    assert same(images_of(plain.test), images_of(augmented.test))
    for (x, y), (z, w) in zip(images_of(plain.train), images_of(augmented.train), strict=True):
        assert torch.equal(y, w)  # the same order
        moved = (x != z).flatten(1).any(dim=1).float().mean()
        assert 0.7 < moved < 1  # one shift in nine is none


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, ["batch_size", "0"]),
        ({"batch_size": -4}, ["batch_size", "-4"]),
        ({"batch_size": "many"}, ["batch_size", "'many'"]),
        ({"batch_size": 12.5}, ["batch_size", "12.5"]),
        ({"batch_size": True}, ["batch_size", "True"]),
        ({"val_size": 0}, ["val_size", "0"]),
        ({"val_size": 1.0}, ["val_size", "1.0"]),
        ({"val_size": -0.2}, ["val_size", "-0.2"]),
        ({"val_size": float("nan")}, ["val_size", "nan"]),
        ({"val_size": 1437}, ["val_size", "1436"]),
        ({"val_size": 1e-9}, ["val_size"]),
        ({"val_size": None}, ["val_size", "None"]),
        ({"limit_train": 0}, ["limit_train", "0"]),
        ({"limit_train": 1078}, ["limit_train", "1077", "1078"]),
        ({"limit_val": 361}, ["limit_val", "360", "361"]),
        ({"limit_test": 1e3}, ["limit_test", "1000.0"]),
        ({"split_seed": -1}, ["split_seed", "-1"]),
        ({"augment": "yes"}, ["augment", "'yes'"]),
    ],
)
def test_bad_options_are_named(options: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ValueError, match=words[0]) as caught:
        Digits(**options).check()  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_ranks_must_divide_the_batch_and_find_samples() -> None:
    data = Digits(batch_size=64)
    with pytest.raises(ValueError, match="multiple of 3"):
        data.check(world_size=3)
    with pytest.raises(ValueError, match="batch_size=64"):
        data.loaders(seed=0, device=CPU, world_size=3)
    with pytest.raises(ValueError, match="test has 3 samples"):
        Digits(limit_test=3).check(world_size=4)
    with pytest.raises(ValueError, match="rank"):
        data.loaders(seed=0, device=CPU, rank=2, world_size=2)
    with pytest.raises(ValueError, match="3 samples cannot be shared by 4"):
        batch_bounds(3, 64, 4, training=True)


def one_line_error(data: Dataset, action: str = "load") -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        getattr(data, action)()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("cls", [MNIST, FashionMNIST, CIFAR10, CIFAR100])
def test_missing_files_without_download(cls: type[DownloadedImages], tmp_path: Path) -> None:
    data = cls(root=tmp_path / "none", download=False)
    message = one_line_error(data, "check")
    assert str(tmp_path / "none" / cls.folder) in message
    assert next(iter(cls.files)) in message
    assert not list(tmp_path.iterdir())


def test_failing_download_is_one_line_and_leaves_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: MNIST, root: Path) -> None:
        (root / "MNIST").mkdir()
        raise RuntimeError("Error downloading:\nTried there, got:\nno route")

    monkeypatch.setattr(MNIST, "fetch", fail)
    message = one_line_error(MNIST(root=tmp_path))
    assert "no route" in message
    assert str(tmp_path / "MNIST" / "raw") in message
    assert not list(tmp_path.iterdir())


def test_folder_marked_read_only_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MNIST, "fetch", lambda self, root: pytest.fail("tried to download"))
    tmp_path.chmod(0o555)
    before = tmp_path.stat().st_mtime_ns
    for action in ("check", "load"):
        assert "no write permission" in one_line_error(MNIST(root=tmp_path), action)
    assert tmp_path.stat().st_mtime_ns == before
    tmp_path.chmod(0o755)


def small_mnist(root: Path, counts: tuple[int, int] = (60, 20)) -> type[MNIST]:
    """Write a tiny set in MNIST's format, and return the class that expects it."""
    from kanzoo.data.files import File

    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    files = {}
    for part, count in zip(("train", "t10k"), counts, strict=True):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
            name = f"{part}-{kind}-ubyte"
            (raw / name).write_bytes(header + values.tobytes())
            files[name] = File((raw / name).stat().st_size)

    class SmallMNIST(MNIST):
        num_train, num_test = counts

    SmallMNIST.files = files
    return SmallMNIST


def test_download_is_moved_into_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = small_mnist(tmp_path / "origin")
    calls = []

    def copy(self: MNIST, root: Path) -> None:
        calls.append(root)
        (tmp_path / "origin" / "MNIST").rename(root / "MNIST")

    monkeypatch.setattr(cls, "fetch", copy)
    cls(root=tmp_path / "data").load()
    cls(root=tmp_path / "data").load()
    assert len(calls) == 1
    cls(root=tmp_path / "data", download=False).load()


def test_complete_data_are_only_read(tmp_path: Path) -> None:
    cls = small_mnist(tmp_path)
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    data = cls(root=tmp_path, download=True, batch_size=10)
    images_of(data.loaders(seed=0, device=CPU).train)
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


def test_truncated_file_is_found_without_loading(tmp_path: Path) -> None:
    data = small_mnist(tmp_path)(root=tmp_path)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:1000])
    for action in ("check", "load"):
        message = one_line_error(data, action)
        assert str(path) in message
        assert "1000 bytes" in message
        assert "delete" in message


def test_garbled_header_names_the_file(tmp_path: Path) -> None:
    data = small_mnist(tmp_path)(root=tmp_path)
    path = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    for position, value in [(0, 7), (3, 200), (7, 255)]:
        damaged = bytearray(content)
        damaged[position] = value
        path.write_bytes(damaged)
        assert str(path) in one_line_error(data)


def test_wrong_checksum_names_the_file_before_unpickling(tmp_path: Path) -> None:
    from kanzoo.data.files import File

    class Small(CIFAR10):
        files = {name: File(4, known.md5) for name, known in CIFAR10.files.items()}  # noqa: RUF012

    folder = tmp_path / Small.folder
    folder.mkdir()
    for name in Small.files:
        (folder / name).write_bytes(b"cos.")
    message = one_line_error(Small(root=tmp_path))
    assert str(folder / "data_batch_1") in message
    assert "md5" in message


# ---------------------------------------------------------------- real data


@pytest.mark.parametrize("cls", [MNIST, pytest.param(CIFAR10, marks=pytest.mark.slow)])
def test_real_sets_equal_torchvision(cls: type[DownloadedImages]) -> None:
    from torchvision import datasets

    root = real_root()
    data = cls(root=root, batch_size=500, split_seed=0)
    data.load()
    assert data.splits is not None
    train, val, test = data.splits.values()

    def official(train: bool) -> tuple[Tensor, Tensor]:
        source = getattr(datasets, cls.source)(root, train=train, download=False)
        images = torch.as_tensor(source.data)
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        return images, torch.as_tensor(source.targets)

    x, y = official(train=False)
    assert torch.equal(test.x, x)
    assert torch.equal(test.y, y)
    x, y = official(train=True)
    hashes = torch.from_numpy(np.random.default_rng(0).random(x[0].numel()))

    def fingerprints(images: Tensor) -> Tensor:
        return torch.cat([c.flatten(1).double() @ hashes for c in images.split(5000)])

    both = torch.cat([fingerprints(train.x), fingerprints(val.x)])
    assert torch.allclose(both.sort().values, fingerprints(x).sort().values)
    assert torch.equal(torch.bincount(train.y) + torch.bincount(val.y), torch.bincount(y))
    share = torch.bincount(val.y) / torch.bincount(y)
    assert (share - 0.1).abs().max() < 0.001
    images = images_of(data.loaders(seed=0, device=CPU).train)[0][0]
    assert images.mean().abs() < 0.05
    assert (images.std() - 1).abs() < 0.05


# ---------------------------------------------------------------- image folders


def folder_data(root: Path, **options: object) -> ImageFolder:
    return ImageFolder(
        **{"root": root, "image_size": 16, "batch_size": 8, "num_workers": 0, **options}  # type: ignore[arg-type]
    )


def test_folder_splits_and_spec(folder: Path) -> None:
    data = folder_data(folder, val_size=0.2, test_size=6)
    data.check()
    assert data.spec == DataSpec((3, 16, 16), 3, "classification", ("ant", "bee", "cow"))
    assert data.counts() == (43, 11, 6)
    assert data.samples is not None
    paths = [path for part in data.samples.values() for path, _ in part]
    assert len(set(paths)) == 60
    assert [label for _, label in data.samples["test"]] == [0, 0, 1, 1, 2, 2]
    limited = folder_data(folder, limit_train=9, val_size=0.2, test_size=6)
    assert limited.counts() == (9, 11, 6)
    assert limited.samples is not None
    assert limited.samples["val"] == data.samples["val"]


def test_folder_pixels_belong_to_their_class(folder: Path) -> None:
    for loader in folder_data(folder).loaders(seed=0, device=CPU):
        for x, y in images_of(loader):
            assert x.shape[1:] == (3, 16, 16)
            assert torch.equal(x.mean(dim=(2, 3)).argmax(dim=1), y)


def test_folder_workers_change_nothing(folder: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    here = folder_data(folder).loaders(seed=0, device=CPU)
    there = folder_data(folder, num_workers=2).loaders(seed=0, device=CPU)
    half = [folder_data(folder).loaders(seed=0, device=CPU, rank=r, world_size=2) for r in (0, 1)]
    epochs = [images_of(here.train, epoch) for epoch in (0, 1)]
    assert same(images_of(there.train, 1), epochs[1])
    assert not same(*epochs)
    for rank in (0, 1):
        share = [(x[rank::2], y[rank::2]) for x, y in epochs[1]]
        assert same(images_of(half[rank].train, 1), share)
    assert len(torch.cat([y for _, y in images_of(here.test)])) == here.test.num_samples
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_folder_names_a_corrupt_image(folder: Path, tmp_path: Path, num_workers: int) -> None:
    (tmp_path / "train").symlink_to(folder / "train")
    (tmp_path / "test" / "ant").mkdir(parents=True)
    bad = tmp_path / "test" / "ant" / "bad.png"
    bad.write_bytes((folder / "train" / "ant" / "0.png").read_bytes()[:200])
    loader = folder_data(tmp_path, num_workers=num_workers).loaders(seed=0, device=CPU).test
    with pytest.raises(ValueError, match=r"bad\.png") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


def test_folder_bad_layouts(folder: Path, tmp_path: Path) -> None:
    assert str(tmp_path / "train") in one_line_error(folder_data(tmp_path), "check")
    assert "does not exist" in one_line_error(folder_data(tmp_path / "no"), "check")
    (tmp_path / "train" / "ant").mkdir(parents=True)
    assert "it holds 1" in one_line_error(folder_data(tmp_path), "check")
    (tmp_path / "train" / "bee").mkdir()
    assert "holds no image" in one_line_error(folder_data(tmp_path), "check")
    other = tmp_path / "other"
    (other / "val" / "bat").mkdir(parents=True)
    (other / "train").symlink_to(folder / "train")
    message = one_line_error(folder_data(other), "check")
    assert "bat" in message
    assert "ant, bee, cow" in message
    for name, value in [("image_size", 0), ("num_workers", -1), ("test_size", 1.5), ("augment", 1)]:
        assert name in one_line_error(folder_data(folder, **{name: value}), "check")
    assert "limit_train" in one_line_error(folder_data(folder, limit_train=1000))


# ---------------------------------------------------------------- Lightning


@pytest.fixture
def recorder() -> type:
    """A LightningModule that notes the epoch and the labels of every training batch."""
    from lightning.pytorch import LightningModule

    class Recorder(LightningModule):
        def __init__(self, stop_after: int | None = None) -> None:
            super().__init__()
            self.net = torch.nn.Linear(64, 10)
            torch.nn.init.zeros_(self.net.weight)
            torch.nn.init.zeros_(self.net.bias)
            self.seen: list[tuple[int, list[int]]] = []
            self.stop_after = stop_after

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            x, y = batch
            self.seen.append((self.current_epoch, y.tolist()))
            return F.cross_entropy(self.net(x.flatten(1)), y)

        def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
            self.log("val", F.cross_entropy(self.net(batch[0].flatten(1)), batch[1]))

        def on_train_batch_end(self, *_: object) -> None:
            if self.stop_after is not None and self.trainer.global_step == self.stop_after:
                raise KeyboardInterrupt

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Recorder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stop_after", [3, 8, 11, 16])
def test_lightning_resumes_with_exactly_the_same_batches(
    digits: Digits, recorder: type, tmp_path: Path, stop_after: int
) -> None:
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint

    def fit(model: object, ckpt_path: Path | None = None) -> tuple[Trainer, Loaders]:
        loaders = Digits(batch_size=128, augment=True).loaders(seed=0, device=CPU)
        keep = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1, save_top_k=0)
        trainer = Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            callbacks=[keep],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, loaders.train, loaders.val, ckpt_path=ckpt_path)  # type: ignore[arg-type]
        return trainer, loaders

    reference = recorder()
    fit(reference)
    assert [epoch for epoch, _ in reference.seen] == [0] * 8 + [1] * 8 + [2] * 8
    (tmp_path / "last.ckpt").unlink()

    stopped = recorder(stop_after)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(stopped)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"]
    assert saved == stop_after
    resumed = recorder()
    fit(resumed, tmp_path / "last.ckpt")
    assert stopped.seen[:saved] + resumed.seen == reference.seen
    assert torch.equal(resumed.net.weight, reference.net.weight)


def test_memory_loader_needs_no_transform_of_its_own() -> None:
    from kanzoo.data.loader import Identity

    x, y = torch.rand(10, 4), torch.rand(10, 2)
    sampler = EpochSampler(10, seed=0, shuffle=True)
    loader = MemoryLoader(x, y, Identity(), sampler, batch_size=5, training=True)
    for a, b in loader:
        rows = [(x == row).all(dim=1).nonzero().item() for row in a]
        assert torch.equal(b, y[rows])
