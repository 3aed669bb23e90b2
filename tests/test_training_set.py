"""What becomes of a training split: nested stratified shares, seeded wrong labels, phases."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from kanzoo.data.training_set import PartSampler, TrainingSet, phase_classes
from kanzoo.data.vision import Digits


def digits(**wanted: Any) -> Digits:
    dataset = Digits(batch_size=64)
    dataset.training_set = TrainingSet(**wanted)
    return dataset


def shown(dataset: Digits, *, seed: int = 0, epoch: int = 0) -> tuple[Tensor, Tensor]:
    """All training batches of an epoch."""
    loader = dataset.loaders(seed=seed, device=torch.device("cpu")).train
    loader.sampler.set_epoch(epoch)
    x, y = zip(*loader, strict=True)
    return torch.cat(x), torch.cat(y)


def rows(x: Tensor) -> set[bytes]:
    return {sample.numpy().tobytes() for sample in x}


def test_a_whole_training_set_is_left_as_it_is() -> None:
    x, y = shown(Digits(batch_size=64))
    same_x, same_y = shown(digits(fraction=1.0))
    assert torch.equal(x, same_x)
    assert torch.equal(y, same_y)


def test_smaller_shares_are_part_of_larger_ones_and_stratified() -> None:
    targets = digits()
    targets.load()
    y = targets.targets("train")
    indices = [set(TrainingSet(f).indices(y, 0).tolist()) for f in (0.05, 0.1, 0.5, 1.0)]
    assert [len(k) for k in indices] == [round(f * len(y)) for f in (0.05, 0.1, 0.5, 1.0)]
    for small, large in pairwise(indices):
        assert small < large
    counts = torch.bincount(y[list(indices[1])], minlength=10)
    expected = torch.bincount(y, minlength=10) * 0.1
    assert (counts - expected).abs().max() <= 1


def test_a_share_trains_for_as_many_steps_on_the_same_samples_in_every_epoch() -> None:
    dataset = digits(fraction=0.1)
    whole = shown(digits())[0]
    first, second = shown(dataset)[0], shown(dataset, epoch=1, seed=3)[0]
    assert len(first) == len(whole)
    assert rows(first) == rows(second)
    assert len(rows(first)) <= round(0.1 * 1077)
    counts = torch.unique(first.flatten(1), dim=0, return_counts=True)[1]
    assert counts.max() - counts.min() <= 2


@pytest.mark.parametrize("fraction", [1.0, 0.3])
def test_label_noise_is_exact_seeded_and_stays_in_training(fraction: float) -> None:
    clean, noisy = digits(fraction=fraction), digits(fraction=fraction, label_noise=0.3)
    clean.load()
    y = clean.targets("train")
    indices = noisy.training_set.indices(y, 0)
    wrong = noisy.training_set.labels(y, indices, 10, seed=5)
    assert int((wrong != y).sum()) == round(0.3 * len(indices))
    assert set((wrong != y).nonzero()[:, 0].tolist()) <= set(indices.tolist())
    assert torch.equal(wrong, noisy.training_set.labels(y, indices, 10, seed=5))
    assert not torch.equal(wrong, noisy.training_set.labels(y, indices, 10, seed=6))
    # The other classes, each as often.
    shifts = torch.cat(
        [noisy.training_set.labels(y, indices, 10, seed=s) - y for s in range(60)]
    ).remainder(10)
    found = torch.bincount(shifts, minlength=10)[1:].float()
    assert (found / found.mean() - 1).abs().max() < 5 / found.mean().sqrt()
    pair = [data.loaders(seed=5, device=torch.device("cpu")) for data in (clean, noisy)]
    for part in ("val", "test"):
        for (x, target), (same_x, same) in zip(*(getattr(p, part) for p in pair), strict=True):
            assert torch.equal(x, same_x)
            assert torch.equal(target, same)
    for (x, _), (same_x, _) in zip(*(p.train for p in pair), strict=True):
        assert torch.equal(x, same_x)


def test_more_label_noise_adds_to_less() -> None:
    y = torch.arange(10).repeat(20)
    indices = torch.arange(200)
    little, much = (TrainingSet(label_noise=n).labels(y, indices, 10, 1) for n in (0.2, 0.4))
    changed = little != y
    assert torch.equal(little[changed], much[changed])


def test_phases_show_their_classes_only_and_cover_them_over_the_epochs() -> None:
    dataset = digits(phases=3, epochs_per_phase=2)
    seen = [shown(dataset, epoch=epoch)[1] for epoch in range(6)]
    classes = [set(range(3)), set(range(3)), {3, 4, 5, 6}, {3, 4, 5, 6}, {7, 8, 9}, {7, 8, 9}]
    assert [set(y.tolist()) for y in seen] == classes
    assert len({len(y) for y in seen}) == 1
    assert set(shown(dataset, epoch=9)[1].tolist()) == {7, 8, 9}
    groups = dataset.groups("test", 3)
    assert sorted(torch.cat(groups).tolist()) == list(range(360))


def test_phases_differ_by_at_most_one_class() -> None:
    for phases in range(1, 11):
        parts = phase_classes(10, phases)
        assert [c for part in parts for c in part] == list(range(10))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_every_sample_of_a_larger_group_comes_in_some_epoch() -> None:
    sampler = PartSampler([torch.arange(10), torch.arange(10, 40)], seed=0, epochs_per_phase=1)
    found = set()
    for epoch in range(1, 60):
        sampler.set_epoch(epoch)
        order = sampler.order().tolist()
        assert len(set(order)) == len(order) == 10
        found |= set(order)
    assert found == set(range(10, 40))
    assert len(sampler.noise(2)) == 40


@pytest.mark.parametrize(
    ("wanted", "word"),
    [
        ({"fraction": 0}, "training_set.fraction"),
        ({"fraction": 1.5}, "training_set.fraction"),
        ({"fraction": True}, "training_set.fraction"),
        ({"label_noise": -0.1}, "training_set.label_noise"),
        ({"label_noise": 2}, "training_set.label_noise"),
        ({"phases": 0}, "training_set.phases"),
        ({"phases": 11}, "training_set.phases must be from 1 to 10"),
    ],
)
def test_impossible_training_sets_are_refused_before_loading(
    wanted: dict[str, Any], word: str
) -> None:
    dataset = digits(**wanted)
    with pytest.raises(ValueError, match=word):
        dataset.check()
    assert dataset.splits is None


def test_five_peaks_come_one_by_one() -> None:
    from kanzoo.data.peaks import FivePeaks, peaks

    dataset = FivePeaks()
    dataset.training_set = TrainingSet(phases=5, epochs_per_phase=1)
    loader = dataset.loaders(seed=0, device=torch.device("cpu")).train
    for phase in range(5):
        loader.sampler.set_epoch(phase)
        x = torch.cat([x for x, _ in loader])
        assert x.min() >= -1 + 0.4 * phase - 1e-6
        assert x.max() <= -0.6 + 0.4 * phase + 1e-6
    grid = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    y = peaks(grid)
    top = (y[1:-1] > y[:-2]) & (y[1:-1] > y[2:])
    torch.testing.assert_close(
        grid[1:-1][top], torch.tensor([-0.8, -0.4, 0, 0.4, 0.8], dtype=torch.float64)
    )
    assert y[1:-1][top].max() == pytest.approx(1.0, abs=1e-6)
    for wrong in (2, 3, 6):
        dataset.training_set = TrainingSet(phases=wrong)
        with pytest.raises(ValueError, match="must be 1 or 5"):
            dataset.check()
    dataset.training_set = TrainingSet(label_noise=0.1)
    with pytest.raises(ValueError, match="needs classes"):
        dataset.check()
