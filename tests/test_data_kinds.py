"""Sequences, texts, series, tables and dense images: splits, batches, references, bad files."""

import json
import math
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import compose
from torch import Tensor

from kanzoo import registry
from kanzoo.data import Dataset, Split
from kanzoo.data.dense import BRIGHT, DigitsDenoise, DigitsSegment, Noise
from kanzoo.data.sequence import SequentialCIFAR10, SequentialDigits
from kanzoo.data.series import ETTh1, Series
from kanzoo.data.tabular import BreastCancer, CaliforniaHousing, Diabetes, Wine
from kanzoo.data.text import IGNORE, PythonDocs, RandomWindows, Shakespeare, Text, tile
from kanzoo.data.vision import Digits

CPU = torch.device("cpu")
NAMES = [
    name for name in registry.names("data") if name not in ("imagefolder", "csv", "series_csv")
]
NO_FILES = ("functions",)  # have a root for what they do not need
EMBEDDED = [n for n in NAMES if n in NO_FILES or "root" not in registry.options("data", n)]
GENERIC = [*EMBEDDED, "etth1", "shakespeare"]
Batches = list[tuple[Tensor, Tensor]]


def real_root() -> str:
    root = os.environ.get("KANZOO_DATA")
    if not root:
        pytest.skip("KANZOO_DATA does not name a folder with the real data sets")
    return root


@cache
def loaded(name: str) -> Any:
    """A data set as its YAML file describes it, loaded once."""
    if name not in EMBEDDED:
        real_root()
    dataset = registry.instantiate(compose("train", [f"data={name}"])["data"])
    dataset.load()
    return dataset


def batches(dataset: Dataset, part: str, *, seed: int = 0, epoch: int = 0, **share: int) -> Batches:
    loader = getattr(dataset.loaders(seed=seed, device=CPU, **share), part)
    loader.sampler.set_epoch(epoch)
    return list(loader)


def same(first: Batches, second: Batches) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d)
        for (a, b), (c, d) in zip(first, second, strict=True)
    )


def objective_of(dataset: Dataset) -> Any:
    return registry.instantiate({**registry.options("task", dataset.spec.task)})


def scores(dataset: Dataset, part: str, predict: Any) -> dict[str, float]:
    """The task's metrics of a prediction from the input, in uneven batches."""
    objective = objective_of(dataset)
    metrics = objective.metrics(dataset.spec.num_outputs)
    for x, y in batches(dataset, part):
        metrics.update(predict(x), y)
    return {key: float(value) for key, value in metrics.compute().items()}


def one_line(dataset: Dataset, action: str = "load") -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        getattr(dataset, action)()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- every data set


@pytest.mark.parametrize("name", GENERIC)
def test_batches_are_what_the_spec_says(name: str) -> None:
    dataset = loaded(name)
    spec, size = dataset.spec, dataset.batch_size
    for part in ("train", "val"):
        x, y = batches(dataset, part)[0]
        size = len(x)
        assert x.shape[1:] == spec.in_shape
        assert x.dtype == (torch.int64 if spec.kind == "tokens" else torch.float32)
        expected = {
            "classification": (size,),
            "regression": (size, spec.num_outputs),
            "pde": (size, 4),
            "forecast": (size, spec.num_outputs),
            "language": (size, *spec.in_shape),
            "denoise": (size, spec.num_outputs, *spec.in_shape[1:]),
            "segmentation": (size, *spec.in_shape[1:]),
        }[spec.task]
        assert y.shape == expected
        if spec.task in ("classification", "language", "segmentation"):
            assert y.dtype == torch.int64
            assert y.min() >= 0
            assert y.max() < spec.num_outputs
            objective_of(dataset).loss(torch.zeros(size, *output_shape(dataset)), y)
        if spec.kind == "tokens":
            assert 0 <= x.min() <= x.max() < spec.num_outputs


def output_shape(dataset: Dataset) -> tuple[int, ...]:
    spec = dataset.spec
    if spec.kind == "tokens":
        return (*spec.in_shape, spec.num_outputs)
    return (spec.num_outputs, *(spec.in_shape[1:] if spec.kind == "dense" else ()))


@pytest.mark.parametrize("name", GENERIC)
def test_batches_depend_on_seed_and_epoch_only(name: str) -> None:
    dataset = loaded(name)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = batches(dataset, "train", epoch=2)
    assert torch.equal(before, torch.get_rng_state())
    again = registry.instantiate(compose("train", [f"data={name}"])["data"])
    assert same(first, batches(again, "train", epoch=2))
    assert not same(first, batches(dataset, "train", epoch=1))
    assert not same(first, batches(dataset, "train", epoch=2, seed=1))
    for part in ("val", "test"):  # also the noise of images
        assert same(batches(dataset, part), batches(again, part, seed=3, epoch=4))


@pytest.mark.parametrize("name", GENERIC)
def test_ranks_share_every_sample_once(name: str) -> None:
    dataset = loaded(name)
    for part, size in dataset.counts()._asdict().items():
        whole = batches(dataset, part, epoch=1)
        shares = [batches(dataset, part, epoch=1, rank=r, world_size=2) for r in (0, 1)]
        for i, (x, y) in enumerate(whole):
            for rank in (0, 1):
                assert torch.equal(shares[rank][i][0], x[rank::2])
                assert torch.equal(shares[rank][i][1], y[rank::2])
        if part != "train":
            assert sum(len(y) for _, y in whole) == size
            assert torch.equal(torch.cat([y for _, y in whole]), transformed(dataset, part).y)


def transformed(dataset: Any, part: str) -> Split:
    x, y = dataset.splits[part]
    return Split(*dataset.make_transform(part, CPU)(x, y, None))


@pytest.mark.parametrize("name", GENERIC)
def test_limits_keep_samples_of_the_same_splits(name: str) -> None:
    node = compose("train", [f"data={name}"])["data"]
    whole = loaded(name)
    limited = registry.instantiate({**node, "limit_val": 9, "limit_test": 8})
    limited.load()
    for part, size in (("val", 9), ("test", 8)):
        targets = limited.splits[part].y
        assert len(targets) == size
        known = {tuple(y.flatten().tolist()) for y in whole.splits[part].y}
        assert {tuple(y.flatten().tolist()) for y in targets} <= known
    if whole.spec.task == "pde":
        limited = registry.instantiate({**node, "limit_train": 20})
        assert "n_inside" in one_line(limited, "check")
        return
    few = registry.instantiate({**node, "limit_train": 20, "limit_val": 9, "limit_test": 8})
    assert tuple(few.counts()) == (20, 9, 8)
    assert sum(len(y) for _, y in batches(few, "train")) == 20
    too_many = registry.instantiate({**node, "limit_val": whole.counts().val + 1})
    assert str(whole.counts().val) in one_line(too_many, "check")


@pytest.mark.parametrize("name", GENERIC)
def test_reference_is_what_its_prediction_scores(name: str) -> None:
    dataset = loaded(name)
    spec, reference = dataset.spec, dataset.reference()
    assert dataset.reference_name
    assert set(reference) == {"val", "test"}
    shape = (4,) if spec.task == "pde" else output_shape(dataset)
    constant = torch.zeros(shape)
    if spec.task == "classification":
        labels = dataset.splits["train"].y.tolist()
        constant[max(set(labels), key=labels.count)] = 1
    elif spec.task == "segmentation":
        constant[0] = 1
    elif spec.task == "language":
        letters = dataset.decode(dataset.train_text)
        counts = [letters.count(character) + 1 for character in dataset.characters]
        constant += (torch.tensor(counts) / sum(counts)).log()
    elif spec.task == "regression":
        constant += dataset.splits["train"].y.mean(0)
    assert spec.task != "forecast" or dataset.relative == "last"  # then the naive forecast is 0
    for part in ("val", "test"):
        found = scores(
            dataset,
            part,
            (lambda x: x)
            if spec.task == "denoise"
            else lambda x: constant.repeat(len(x), *(1 for _ in shape)),
        )
        found.pop("ece", None)  # a constant answer has no confidence to be calibrated
        near_zero = 1e-6 if spec.task == "regression" else None  # r2 of a mean
        assert found == pytest.approx(reference[part], rel=1e-4, abs=near_zero)


def test_the_reference_stands_in_the_result(tmp_path: Path) -> None:
    from kanzoo.run.fit import train
    from kanzoo.run.load import load_run
    from kanzoo.rundir import RunDir

    words = ["data=diabetes", "model.width=8", "trainer.max_epochs=2", "logger=csv"]
    config = compose("train", [*words, "callbacks.progress=false", f"runs={tmp_path}"])
    result = train(config)
    assert (result["metric"], result["mode"]) == ("rmse", "min")
    assert result["reference"] == loaded("diabetes").reference()
    assert result["test"].keys() == {"loss", "rmse", "mae", "r2"}
    assert result["test"]["loss"] == pytest.approx(result["test"]["rmse"] ** 2, rel=1e-5)
    folder = RunDir.of(config).path
    assert "task: regression" in (folder / "config.yaml").read_text()
    saved = json.loads((folder / "result.json").read_text())
    assert saved["reference"]["test"].keys() == {"rmse", "mae", "r2"}
    assert load_run(folder).evaluate("test") == result["test"]


# ---------------------------------------------------------------- sequences


def test_sequences_are_the_images_in_reading_order() -> None:
    rows, pixels = (SequentialDigits(steps=steps, augment=True) for steps in ("rows", "pixels"))
    images = Digits(augment=True)
    for part in ("train", "test"):
        for (x, y), (r, ry), (p, py) in zip(
            *(batches(d, part, epoch=3) for d in (images, rows, pixels)), strict=True
        ):
            assert torch.equal(y, ry)
            assert torch.equal(y, py)
            assert torch.equal(x[:, 0], r)
            assert torch.equal(x.reshape(len(x), 64, 1), p)
    colours = SequentialCIFAR10()
    assert colours.spec.in_shape == (32, 96)
    assert SequentialCIFAR10(steps="pixels").spec.in_shape == (1024, 3)
    x = torch.arange(2 * 3 * 2 * 4).view(2, 3, 2, 4)
    from kanzoo.data.loader import Identity
    from kanzoo.data.sequence import Steps

    y = torch.zeros(2)
    by_row, _ = Steps(Identity(), "rows")(x, y, None)
    by_pixel, _ = Steps(Identity(), "pixels")(x, y, None)
    assert by_row[1, 1].tolist() == x[1, :, 1].flatten().tolist()
    assert by_pixel[1, 5].tolist() == x[1, :, 1, 1].tolist()
    assert "rows" in one_line(SequentialDigits(steps="row"), "check")


# ---------------------------------------------------------------- text


@pytest.mark.parametrize("name", ["python_docs", "shakespeare"])
def test_the_parts_of_a_text_are_the_text(name: str) -> None:
    data = loaded(name)
    text = data.read()
    assert (len(text), len(set(text))) == (data.length, data.vocabulary_size)
    parts = [data.decode(data.train_text)]
    for part in ("val", "test"):
        x, y = data.splits[part]
        known = y != IGNORE
        assert torch.equal(x[known][1:], y[known][:-1])
        parts.append(data.decode(torch.cat([x[0, :1], y[known]])))
    assert "".join(parts) == text
    shares = [len(part) / len(text) for part in parts]
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=1e-4)


def test_training_windows_are_pieces_of_the_training_text() -> None:
    data = PythonDocs(block_size=50, batch_size=100)
    data.load()
    letters = data.decode(data.train_text)
    windows = [w for x, _ in batches(data, "train") for w in x]
    assert len(windows) == len(batches(data, "train")) * 100
    for x, y in batches(data, "train", epoch=1)[:3]:
        assert torch.equal(x[:, 1:], y[:, :-1])
        for row in torch.cat([x, y[:, -1:]], dim=1):
            assert data.decode(row) in letters


def test_random_windows_reach_every_place_about_equally() -> None:
    text = torch.arange(1000)
    count, block = 99, 10  # as many as fit
    windows = RandomWindows(text, count, block, CPU)
    generator = torch.Generator().manual_seed(0)
    starts = []
    for _ in range(400):
        x, y = windows(torch.arange(count), text, torch.rand(count, 1, generator=generator))
        assert torch.equal(y, x + 1)
        assert (x[:, 0].diff() > 0).all()  # a window in every stretch
        starts.append(x[:, 0])
    hits = torch.bincount(torch.cat(starts), minlength=990)
    assert len(hits) == 990  # the last window ends at the last character
    assert hits.min() > 10
    assert hits.max() < 90  # 40 expected
    extreme = torch.full((count, 1), 1 - 2**-24)
    assert windows(torch.arange(count), text, extreme)[1].max() == 999


@pytest.mark.parametrize(("length", "block"), [(101, 10), (102, 10), (110, 10), (8, 20)])
def test_tiles_predict_every_character_but_the_first_once(length: int, block: int) -> None:
    text = torch.arange(100, 100 + length)
    x, y = tile(text, block)
    assert len(x) == math.ceil((length - 1) / block)
    assert torch.equal(y[y != IGNORE], text[1:])
    assert torch.equal(x[y != IGNORE], text[:-1])


def test_python_docs_hold_no_paragraph_twice() -> None:
    text = loaded("python_docs").read()
    paragraphs = [" ".join(p.split()) for p in text.split("\n\n")]
    assert len(paragraphs) == len(set(paragraphs)) > 500
    assert "Python" in loaded("python_docs").spec.version
    train, test = text[: len(text) * 9 // 10], text[len(text) * 95 // 100 :]
    known = {train[i : i + 60] for i in range(len(train) - 60)}
    repeated = [test[i : i + 60] in known for i in range(0, len(test) - 60, 10)]
    assert sum(repeated) / len(repeated) < 0.03


@pytest.mark.parametrize("block_size", [0, "wide", 10**6])
def test_bad_block_sizes_are_named(block_size: Any) -> None:
    assert "block_size" in one_line(PythonDocs(block_size=block_size), "check")


# ---------------------------------------------------------------- series


def raw_etth1() -> np.ndarray:
    import pandas as pd

    table = pd.read_csv(Path(real_root()) / "ETT" / "ETTh1.csv")
    return table.drop(columns="date").to_numpy()


@pytest.mark.parametrize(("length", "horizon"), [(96, 24), (336, 336), (10, 1)])
def test_etth1_windows_lie_where_the_field_puts_them(length: int, horizon: int) -> None:
    rows = raw_etth1()
    assert rows.shape == (17_420, 7)
    data = ETTh1(root=real_root(), input_length=length, horizon=horizon, relative="none")
    data.load()
    assert data.splits is not None
    train = rows[:8640]
    values = (rows - train.mean(0)) / train.std(0)
    # First and last row of the inputs and forecasts of each part.
    begins = {"train": 0, "val": 8640 - length, "test": 11520 - length}
    ends = {"train": 8640, "val": 11520, "test": 14400}
    counts = data.counts()._asdict()
    for part, begin in begins.items():
        x, y = data.splits[part]
        assert len(x) == len(y) == counts[part] == ends[part] - begin - length - horizon + 1
        for i in (0, 1, len(x) // 2, len(x) - 1):
            start = begin + i + length
            np.testing.assert_allclose(x[i], values[start - length : start], atol=1e-5)
            np.testing.assert_allclose(y[i], values[start : start + horizon].flatten(), atol=1e-5)
        assert begin + len(x) - 1 + length + horizon == ends[part]
    x = data.splits["train"].x
    assert x.untyped_storage().nbytes() < 17_420 * 7 * 4 + 1  # views of one copy


def test_the_naive_forecast_is_the_published_one() -> None:
    """Repeating the last value: 1.295 and 0.713 at horizon 96 (Zeng et al., 2022, table 2)."""
    data = ETTh1(root=real_root(), horizon=96)
    data.load()
    assert data.reference()["test"] == pytest.approx({"mse": 1.295, "mae": 0.713}, abs=0.002)


def test_differences_leave_errors_as_they_are() -> None:
    absolute = ETTh1(root=real_root(), relative="none", limit_test=300, limit_train=64)
    relative = ETTh1(root=real_root(), relative="last", limit_test=300, limit_train=64)
    for part in ("train", "test"):
        for (x, y), (dx, dy) in zip(batches(absolute, part), batches(relative, part), strict=True):
            last = x[:, -1:]
            torch.testing.assert_close(dx + last, x)
            torch.testing.assert_close(dy + last.repeat(1, 24, 1).flatten(1), y)
            assert not dx[:, -1].any()
    assert absolute.reference() == relative.reference()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"horizon": 0}, "horizon"),
        ({"horizon": 2881}, "2880"),
        ({"input_length": -1}, "input_length"),
        ({"input_length": 8640}, "8616"),
        ({"relative": "lsat"}, "'last'"),
    ],
)
def test_bad_series_options_are_named(options: dict[str, Any], word: str) -> None:
    assert word in one_line(ETTh1(**options), "check")


def test_statistics_come_from_the_training_rows() -> None:
    class Steps(Series):
        num_channels = 2
        borders = (50, 70, 90)

        def read(self) -> Tensor:
            return self.rows

    first, second = (Steps(input_length=5, horizon=3, relative="none") for _ in range(2))
    first.rows = torch.randn(100, 2, dtype=torch.float64)
    second.rows = first.rows.clone()
    second.rows[50:] *= 100
    first.load()
    second.load()
    assert first.splits is not None
    assert second.splits is not None
    assert torch.equal(first.splits["train"].x, second.splits["train"].x)
    torch.testing.assert_close(100 * first.splits["test"].y, second.splits["test"].y, atol=400,
                               rtol=0)  # fmt: skip
    mean, deviation = first.rows[:50].mean(0), first.rows[:50].std(0, correction=0)
    torch.testing.assert_close(
        second.splits["val"].y[0].view(3, 2), ((second.rows[50:53] - mean) / deviation).float()
    )


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("cls", "load"),
    [(BreastCancer, "load_breast_cancer"), (Wine, "load_wine"), (Diabetes, "load_diabetes")],
)
def test_tables_hold_every_row_once_standardised_by_training(cls: type, load: str) -> None:
    import sklearn.datasets

    options = {"scaled": False} if cls is Diabetes else {}
    rows, targets = getattr(sklearn.datasets, load)(return_X_y=True, **options)
    data = cls()
    outside, test = data.read()
    raw = torch.cat([outside.x, test.x])
    assert sorted(map(tuple, raw.tolist())) == sorted(map(tuple, rows.tolist()))
    data.load()
    x, y = data.splits["train"]
    assert x.mean(0).abs().max() < 1e-5
    assert (x.std(0, correction=0) - 1).abs().max() < 1e-5
    # Column by column, one line maps raw to standardised values, in the test rows too.
    deviation = (test.x[0] - test.x[1:]).abs().max(0)
    scale = (data.splits["test"].x[0] - data.splits["test"].x[1:]).abs().max(0).values
    scale = deviation.values / scale
    shift = test.x[0] - scale * data.splits["test"].x[0]
    torch.testing.assert_close(data.splits["test"].x * scale + shift, test.x, rtol=1e-4, atol=1e-4)
    restored = torch.cat([data.splits[p].x for p in ("train", "val")]) * scale + shift
    torch.testing.assert_close(
        restored.sum(0), outside.x.sum(0), rtol=1e-4, atol=1e-4
    )  # every row of the training part is in one of the two
    assert len(restored) == len(outside.x)
    if cls is Diabetes:
        assert y.mean().abs() < 1e-5
        assert (y.std(correction=0) - 1).abs() < 1e-5
        slope = (test.y[0] - test.y[1]) / (data.splits["test"].y[0] - data.splits["test"].y[1])
        known = torch.from_numpy(targets).double().std()
        assert float(slope) == pytest.approx(float(known), rel=0.1)
        offsets = test.y - slope * data.splits["test"].y
        assert offsets.std() < 1e-2
    else:
        share = torch.bincount(data.splits["test"].y) / len(test.y)
        np.testing.assert_allclose(share, np.bincount(targets) / len(targets), atol=0.02)


def test_california_housing_is_fetched_once_and_kept_as_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sklearn.datasets

    calls = []

    def fetch(data_home: str, return_X_y: bool) -> tuple[np.ndarray, np.ndarray]:
        calls.append(data_home)
        (Path(data_home) / "cache.pkz").write_bytes(b"rest")
        values = np.random.default_rng(0).random((20_640, 9))
        return values[:, :8], values[:, 8]

    monkeypatch.setattr(sklearn.datasets, "fetch_california_housing", fetch)
    for _ in range(2):
        data = CaliforniaHousing(root=tmp_path)
        data.load()
    assert data.splits is not None
    assert data.splits["train"].x.shape == (13_210, 8)
    assert len(calls) == 1
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [data.path / "california_housing.npy"]
    size = files[0].stat().st_size
    content = np.array([{"code": "runs"}], dtype=object)
    np.save(files[0], content, allow_pickle=True)
    with files[0].open("ab") as file:
        file.write(b"\0" * (size - files[0].stat().st_size))
    assert str(files[0]) in one_line(CaliforniaHousing(root=tmp_path))


# ---------------------------------------------------------------- dense


def test_noise_is_white_gaussian_and_its_ratio_as_known() -> None:
    noise = Noise(0.2, "some", CPU)
    clean = torch.rand(500, 3, 8, 8)
    start = torch.rand(500, 1)[:, 0]
    start[0] = 1 - 2**-24
    added = noise(clean, start) - clean
    assert added.mean().abs() < 0.005
    assert added.std() == pytest.approx(0.2, rel=0.02)
    assert added.square().square().mean() == pytest.approx(3 * 0.2**4, rel=0.1)
    rows = added.flatten(1)
    correlation = (rows[:, :-1] * rows[:, 1:]).mean() / 0.04
    assert correlation.abs() < 0.02
    psnr = -10 * rows.square().mean(1).log10()
    assert psnr.mean() == pytest.approx(-20 * math.log10(0.2), abs=0.1)
    for part in ("val", "test"):
        for std in (0.5, 0.1):
            data = DigitsDenoise(noise_std=std)
            data.load()
            expected = -20 * math.log10(std)
            assert data.reference()[part]["psnr"] == pytest.approx(expected, abs=0.2)


def test_training_noise_is_fresh_and_the_target_is_clean() -> None:
    data, plain = DigitsDenoise(batch_size=1077), Digits()
    plain.load()
    data.load()
    assert plain.splits is not None
    assert data.splits is not None
    first, second = (batches(data, "train", epoch=e)[0] for e in (0, 1))

    def by_image(batch: tuple[Tensor, Tensor]) -> dict[tuple[float, ...], Tensor]:
        return {tuple(y.flatten().tolist()): x - y for x, y in zip(*batch, strict=True)}

    noise = by_image(first), by_image(second)
    assert noise[0].keys() == noise[1].keys()  # the same images
    assert not any(torch.equal(noise[0][key], noise[1][key]) for key in noise[0])
    for part in ("val", "test"):
        assert torch.equal(data.splits[part].y, plain.splits[part].x.float() / 255)
    pixels = {tuple(x) for x in (plain.splits["train"].x.flatten(1).float() / 255).tolist()}
    assert pixels == {tuple(y) for y in first[1].flatten(1).tolist()}


def test_augmentation_moves_image_and_target_together() -> None:
    for cls in (DigitsDenoise, DigitsSegment):
        data = cls(noise_std=1e-6, augment=True)
        plain = cls(noise_std=1e-6)
        for (x, y), (_, z) in zip(batches(data, "train"), batches(plain, "train"), strict=True):
            if cls is DigitsDenoise:
                torch.testing.assert_close(x, y, atol=1e-4, rtol=0)
            else:
                assert torch.equal(y > 0, x[:, 0] >= BRIGHT)
            assert not torch.equal(y, z)


def test_segments_are_the_ink_of_the_digit() -> None:
    data, plain = DigitsSegment(), Digits()
    data.load()
    plain.load()
    assert data.splits is not None
    assert plain.splits is not None
    assert data.spec.class_names == ("background", *"0123456789")
    x, labels = plain.splits["test"]
    for image, label, target in zip(x, labels, data.splits["test"].y, strict=True):
        expected = np.where(image[0].numpy() >= 127.5, 1 + int(label), 0)
        assert (target.numpy() == expected).all()


@pytest.mark.parametrize("std", [0, -1, float("inf"), "much", True])
def test_bad_noise_is_named(std: Any) -> None:
    assert "noise_std" in one_line(DigitsDenoise(noise_std=std), "check")


# ---------------------------------------------------------------- files


FILES = [(Shakespeare, "sha256"), (ETTh1, "md5")]


@pytest.mark.parametrize("cls", [Shakespeare, ETTh1, CaliforniaHousing])
def test_missing_files_without_download(cls: Any, tmp_path: Path) -> None:
    message = one_line(cls(root=tmp_path / "none", download=False), "check")
    assert str(tmp_path / "none" / cls.folder) in message
    assert next(iter(cls.files)) in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("cls", "checksum"), FILES)
def test_a_changed_file_is_refused(cls: Any, checksum: str, tmp_path: Path) -> None:
    source = Path(real_root()) / cls.folder / next(iter(cls.files))
    content = bytearray(source.read_bytes())
    data = cls(root=tmp_path)
    data.path.mkdir()
    content[5000] ^= 1
    data.file.write_bytes(content)
    message = one_line(data)
    assert str(data.file) in message
    assert checksum in message
    data.file.write_bytes(content[:-1])
    assert "bytes" in one_line(cls(root=tmp_path), "check")


@pytest.mark.parametrize(("cls", "checksum"), FILES)
def test_downloads_are_verified_before_they_are_kept(
    cls: Any, checksum: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(real_root()) / cls.folder / next(iter(cls.files))
    asked = []

    def fetch(url: str, target: str, progress: bool) -> None:
        asked.append(url)
        content = bytearray(source.read_bytes())
        content[100] ^= len(asked) == 1
        Path(target).write_bytes(content)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    message = one_line(cls(root=tmp_path))
    assert "download failed" in message
    assert checksum in message
    assert not list(tmp_path.iterdir())
    for _ in range(2):
        cls(root=tmp_path).load()
    assert asked == [cls.address] * 2
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [source.name]
    if issubclass(cls, Text):
        assert (tmp_path / "tinyshakespeare" / "input.txt").read_text().startswith("First Citizen")
