"""Series of one's own: windows, covariates, several series, gaps and uneven times."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from kanzoo.data.series_file import SeriesFile


def loaded(frame: pd.DataFrame, tmp_path: Path, **options: Any) -> SeriesFile:
    path = tmp_path / "series.csv"
    frame.to_csv(path, index=False, sep=";", decimal=",")
    options = {"input_length": 4, "horizon": 2, "relative": "none", **options}
    data = SeriesFile(path=str(path), **options)
    data.check()
    data.load()
    return data


def example(count: int = 50) -> pd.DataFrame:
    steps = np.arange(count, dtype=float)
    times = pd.date_range("2020-01-01", periods=count, freq="h")
    return pd.DataFrame({"when": times, "load": steps, "heat": steps**2, "note": "x"})


def test_windows_hold_the_past_of_all_and_the_future_of_targets(tmp_path: Path) -> None:
    frame = example().sample(frac=1, random_state=0)
    data = loaded(frame, tmp_path, target="load", covariates=["heat"], time="when")
    assert (data.spec.in_shape, data.spec.num_outputs) == ((4, 2), 2)
    assert tuple(data.counts()) == (32 - 4 - 1, 7, 9)
    mean, deviation = np.arange(32).mean(), np.arange(32).std()
    for part, first in (("train", 4), ("val", 32), ("test", 40)):
        x, y = data.splits[part]
        load = x[:, :, 0] * deviation + mean
        torch.testing.assert_close(load[0], torch.arange(first - 4.0, first))
        torch.testing.assert_close(y[0] * deviation + mean, torch.arange(first, first + 2.0))
        assert data.reference()["test"]["mse"] > 0
    relative = loaded(frame, tmp_path, target="load", covariates=["heat"], relative="last")
    x, y = relative.make_transform("test", torch.device("cpu"))(*relative.splits["test"], None)
    assert not x[:, -1].any()
    assert y.shape == (9, 2)


def test_windows_stay_in_their_series(tmp_path: Path) -> None:
    other = example(40).assign(load=lambda f: f.load + 1000)
    both = pd.concat([example().assign(note="a"), other.assign(note="b")])
    data = loaded(both, tmp_path, target=["load"], series="note", time="when")
    single = loaded(example(), tmp_path, target="load")
    assert data.counts().test == single.counts().test + 8 - 2 + 1
    for x, y in data.splits.values():
        values = torch.cat([x[:, :, 0], y], dim=1)
        assert values.diff(dim=1).std() < 1e-4  # no jump by 1000


def test_times_that_are_missing_are_filled_if_asked(tmp_path: Path) -> None:
    frame = example().drop(index=[7, 8])
    with pytest.raises(ValueError, match=r"not evenly spaced.*data.missing=fill"):
        loaded(frame, tmp_path, target="load", time="when")
    data = loaded(frame, tmp_path, target="load", time="when", missing="fill")
    months = example().assign(when=pd.date_range("2020-01-01", periods=50, freq="MS"))
    assert len(loaded(months, tmp_path, target="load", time="when").read()) == 50
    assert data.read()[5:10, 0].tolist() == [5.0, 6.0, 6.0, 6.0, 9.0]


def test_times_of_other_calendars_are_even(tmp_path: Path) -> None:
    start = pd.Timestamp("2020-01-15 10:00")
    kinds = [
        pd.Series([start + pd.DateOffset(months=k) for k in range(50)]),
        pd.Series(pd.date_range(start, periods=50, freq="B")),
        pd.Series(pd.date_range(start, periods=50, freq="h").strftime("%m/%d/%Y %H:%M")),
        pd.Series(np.round(np.arange(50) / 3, 3)),
    ]
    for when in kinds:
        data = loaded(example().assign(when=when), tmp_path, target="load", time="when")
        assert data.read()[:, 0].tolist() == list(range(50))


def test_numbers_are_times_as_well(tmp_path: Path) -> None:
    frame = example().assign(when=np.arange(1950, 2000)).drop(index=[7, 8])
    with pytest.raises(ValueError, match=r"not evenly spaced by 1.*fill"):
        loaded(frame, tmp_path, target="load", time="when")
    data = loaded(frame, tmp_path, target="load", time="when", missing="fill")
    assert data.read()[5:10, 0].tolist() == [5.0, 6.0, 6.0, 6.0, 9.0]
    uneven = example().assign(when=np.sqrt(np.arange(50)))
    with pytest.raises(ValueError, match="not multiples"):
        loaded(uneven, tmp_path, target="load", time="when", missing="fill")
    with pytest.raises(ValueError, match="must be a number"):
        loaded(frame, tmp_path, target="load", time="when", frequency="h")
    for name in ("when", "note"):
        gap = example().assign(**{name: lambda f, name=name: f[name].where(f.index != 4)})
        with pytest.raises(ValueError, match=f"'{name}' has 1 gaps"):
            loaded(gap, tmp_path, target="load", time="when", series="note")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"target": "lod"}, "load"),
        ({"target": "note"}, "'note' holds 'x'"),
        ({"target": "load", "time": "note"}, "times are as 2020"),
        ({"target": "load", "time": "when", "frequency": "7 parsecs"}, "frequency"),
        ({"target": "load", "horizon": 30}, "too short"),
        ({"target": None}, "data.target"),
        ({"target": "load", "missing": "drop"}, "fill"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        loaded(example(), tmp_path, **options)
    assert "\n" not in str(caught.value)
