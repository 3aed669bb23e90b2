"""Tables of one's own: dialects, gaps, categories, classes, groups and times."""

import logging
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_diabetes

from kanzoo.data.columns import Columns, dates
from kanzoo.data.csv_file import CSV
from kanzoo.data.frames import read_frame
from kanzoo.data.tabular import Diabetes

FRAME = pd.DataFrame({"größe": [1.5, -2.25, 3.0], "art": ["a", "b, c", "a"], "n": [1, 2, 3]})


def loaded(frame: pd.DataFrame, tmp_path: Path, task: str = "regression", **options: Any) -> CSV:
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False)
    dataset = CSV(path=str(path), target="y", dtype="float64", split_seed=0, **options)
    dataset.use_task(task)
    dataset.check()
    dataset.load()
    return dataset


def example(count: int = 60) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "kind": random.choice(["red", "green", "blue"], count),
            "day": pd.date_range("2020-01-01", periods=count).astype(str),
            "who": np.arange(count) // 4,
            "x": random.normal(5, 2, count),
        }
    )
    return frame.assign(y=np.arange(count, dtype=float))


@pytest.mark.parametrize(
    ("separator", "decimal", "encoding"),
    [(",", ".", "utf-8"), (";", ",", "cp1252"), ("\t", ".", "utf-16"), ("|", ",", "utf-8-sig")],
)
def test_the_dialect_is_found_and_said(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    separator: str,
    decimal: str,
    encoding: str,
) -> None:
    path = tmp_path / "table.csv"
    FRAME.to_csv(path, sep=separator, decimal=decimal, encoding=encoding, index=False)
    with caplog.at_level(logging.INFO, logger="kanzoo"):
        pd.testing.assert_frame_equal(read_frame("path", str(path)), FRAME)
    assert bool(caplog.records) == (separator != ",")
    assert separator == "," or repr(separator) in caplog.text


ROWS = [(i, i + 0.5, i * 2) for i in range(9)]


def written(form: str, head: str = "a,b,y\n") -> str:
    return head + "\n".join(form.format(a, b, y) for a, b, y in ROWS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (written("{},{},{},"), ""),  # a separator at the ends of rows
        (written("{},{},{},", "a,b,y,\n"), ""),
        (written("{} {} {}", "# a b y\n"), "separator ' '"),  # as NumPy writes them
        (written("  {}   {} {}", "a     b  y\n"), "separator ' '"),
        (written("r{0},{0},{1},{2}"), "first column"),  # as R writes them
        (written("{0},{0},{1},{2}", ",a,b,y\n"), "first column"),  # as pandas does
        (written("{};{};{}", "sep=;\na;b;y\n"), "separator ';'"),
        (written("{},{},{}", "# by me, in 2020\n#\na,b,y\n"), "2 lines before"),
        (written("{},{},{}", "Instrument 7\n\na,b,y\n"), "1 lines before"),
        (written("{},{},{}", 'a,b,y\n"# paused"\n'), ""),
        (written("{},{}D+00,\u2212{}").replace("\u22120", "0"), ""),
    ],
)
def test_layouts_are_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, said: str
) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with caplog.at_level(logging.INFO, logger="kanzoo"):
        frame = read_frame("path", str(path))
    assert list(frame.columns) == ["a", "b", "y"]
    assert said in caplog.text
    signs = [1, 1, -1 if "\u2212" in text else 1]
    np.testing.assert_array_equal(frame, np.array(ROWS) * signs)


@pytest.mark.parametrize(
    ("values", "read"),
    [
        (['"1,234.5"', '"12,345"'], [1234.5, 12345]),
        (['"0,125"', '"1,250"'], [0.125, 1.25]),  # no thousand begins with 0
        (["1 234.5", "7"], [1234.5, 7]),
        (["?", "n.d.", "3"], [np.nan, np.nan, 3]),
        (["1.234;0,5", "2.000;1,5"], [1234, 2000]),  # beside decimal commas
        (["1.5;0,5", "2.25;1,5"], [1.5, 2.25]),
    ],
)
def test_numbers_are_read_as_they_are_written(
    tmp_path: Path, values: list[str], read: list[float]
) -> None:
    path = tmp_path / "table.csv"
    separator = ";" if ";" in values[0] else ","
    if separator == ",":
        values = [f"{value},{k}" for k, value in enumerate(values)]
    path.write_text("\n".join([f"a{separator}b", *values]))
    np.testing.assert_array_equal(read_frame("path", str(path))["a"], read)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (written("{},{},{}", "a,a,y\n"), "two columns 'a'"),
        (written("{},{},{}", ""), "no header"),
        (written("{},{},{}") + "\n1,2,3,4", "line 11 has 4 fields, the header 3"),
        (written("{},{},{}", "a,b,y\n1,2,3,4\n"), "more fields"),
        (written("{},{},{}") + "\0", "zero bytes"),
        ("PK\3\4", "Excel"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_frame("path", str(path))
    assert "\n" not in str(caught.value)


def test_texts_among_numbers_are_named_and_categories_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = example().assign(x=lambda f: f.x.astype(object))
    frame.loc[40, "x"] = "oops"
    with pytest.raises(ValueError, match="'x' holds numbers, but 'oops' in row 41"):
        loaded(frame, tmp_path)
    units = pd.concat([pd.DataFrame([{"who": "id", "x": "kg", "y": "m"}]), example()])
    with pytest.raises(ValueError, match=r"'who' holds numbers, but 'id' in row 1 .*units"):
        loaded(units.drop(columns=["kind", "day"]), tmp_path)
    grades = example().assign(x=["1", "2", "3", "3b"] * 15)
    with caplog.at_level(logging.INFO, logger="kanzoo"):
        assert "x=3b" in loaded(grades, tmp_path).columns
    assert "categories: kind (3), x (4)" in caplog.text
    empty = example().assign(x=np.nan)
    with pytest.raises(ValueError, match="'x' is empty"):
        loaded(empty, tmp_path, missing="mean")
    loaded(frame, tmp_path, features=["kind", "day"])  # what is not used may hold anything


def test_classes_keep_their_names_beside_gaps(tmp_path: Path) -> None:
    frame = example().assign(y=[1, 2, np.nan] * 20)
    data = loaded(frame, tmp_path, task="classification", missing="drop")
    assert data.classes == ("1", "2")


def test_parquet_is_read_alike(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    FRAME.to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(
        read_frame("path", str(tmp_path / "t.parquet")), FRAME, check_dtype=False
    )
    days = pd.date_range("2020-01-01", periods=3)
    kinds = {
        "day": days.date,
        "span": days - days[0],
        "month": pd.period_range("2020-01", periods=3, freq="M"),
        "exact": [Decimal("0.1"), Decimal("0.25"), None],
        "text": ["1,234.5", "?", "2"],
        "list": [[1], [2, 3], []],
    }
    pd.DataFrame(kinds).to_parquet(tmp_path / "kinds.parquet")
    frame = read_frame("path", str(tmp_path / "kinds.parquet"))
    encoder = Columns().fit(frame)
    assert encoder.names == ["span", "exact", "text", "day", "month"]
    first = (days[0] - pd.Timestamp(0)).days
    rows = [
        [0, 0.1, 1234.5, first, first],
        [1, 0.25, np.nan, first + 1, first + 31],
        [2, np.nan, 2, first + 2, first + 60],
    ]
    np.testing.assert_array_equal(encoder(frame), rows)


def test_categories_and_dates_are_features(tmp_path: Path) -> None:
    data = loaded(example(), tmp_path, standardise="none")
    assert set(data.columns) == {"who", "x", "day", "kind=red", "kind=green", "kind=blue"}
    rows, y = data.table
    day = rows[:, data.columns.index("day")]
    np.testing.assert_array_equal(day - day[0], y)
    red = rows[:, data.columns.index("kind=red")]
    np.testing.assert_array_equal(red, example().kind == "red")


def test_gaps_are_dropped_or_filled_by_the_training_rows(tmp_path: Path) -> None:
    frame = example().drop(columns="day")
    frame.loc[::3, "x"] = np.nan
    frame.loc[1, "y"] = np.nan
    with pytest.raises(ValueError, match=r"'x' has 20 missing values.*data.missing=drop"):
        loaded(frame, tmp_path)
    assert sum(loaded(frame, tmp_path, missing="drop").counts()) == 39
    data = loaded(frame, tmp_path, missing="indicator", standardise="none")
    assert data.columns[-1] == "x is missing"
    assert sum(data.counts()) == 59
    column = data.columns.index("x")
    x = data.splits["train"].x
    marked = x[:, -1] == 1
    mean = x[~marked, column].mean()
    for part in ("train", "test"):
        x = data.splits[part].x
        torch.testing.assert_close(x[x[:, -1] == 1, column], mean.expand(int(x[:, -1].sum())))
    assert "x is missing" not in loaded(frame, tmp_path, missing="mean").columns


def test_groups_stay_together_and_times_in_order(tmp_path: Path) -> None:
    frame = example()
    data = loaded(frame, tmp_path, group="who", standardise="none")
    assert "who" not in data.columns
    groups = [set((split.y[:, 0] // 4).tolist()) for split in data.splits.values()]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    assert sum(map(len, groups)) == 15
    mixed = frame.sample(frac=1, random_state=0)
    data = loaded(mixed, tmp_path, time="day", standardise="none")
    train, val, test = (data.splits[part].y for part in ("train", "val", "test"))
    assert train.max() < val.min()
    assert val.max() < test.min() == 48


@pytest.mark.parametrize(
    ("form", "is_known"), [("%d.%m.%Y", True), ("%d/%m/%Y", True), ("week %j", False)]
)
def test_days_are_read_as_they_are_written(tmp_path: Path, form: str, is_known: bool) -> None:
    days = pd.date_range("2020-01-01", periods=60)
    frame = example().assign(day=days.strftime(form)).sample(frac=1, random_state=0)
    if not is_known:
        with pytest.raises(ValueError, match="'day' holds"):
            loaded(frame, tmp_path, time="day")
        return
    data = loaded(frame, tmp_path, time="day", standardise="none")
    assert data.splits["train"].y.max() < data.splits["val"].y.min()
    x, y = loaded(frame, tmp_path, features=["day"]).table
    np.testing.assert_array_equal(x[:, 0] - x.min(), y)
    assert dates(pd.Series(["03/04/2020", None])) is None  # the fourth of March, or the third


def test_classes_have_their_labels(tmp_path: Path) -> None:
    frame = example()
    frame = frame.assign(y=np.where(frame.x > 5, "tall", "short"))
    with pytest.raises(ValueError, match="task=classification"):
        loaded(frame, tmp_path)
    data = loaded(frame, tmp_path, task="classification")
    assert (data.spec.task, data.spec.class_names) == ("classification", ("short", "tall"))
    y = torch.cat([split.y for split in data.splits.values()])
    assert y.bincount().tolist() == [(frame.x <= 5).sum(), (frame.x > 5).sum()]
    with pytest.raises(ValueError, match="are no classes"):
        loaded(example(), tmp_path, task="classification")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"missing": "zero"}, "missing"),
        ({"group": "wh"}, "'who'"),
        ({"group": "who", "time": "day"}, "name one"),
        ({"group": "kind", "test_size": 0.6}, "leaves a part empty|too few"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        loaded(example(), tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_built_in_tables_come_back_in_their_units() -> None:
    data = Diabetes(split_seed=0)
    data.load()
    assert data.splits is not None
    rows = []
    for part in data.splits.values():
        pairs = zip(part, data.moments.values(), strict=True)
        rows += np.concatenate(
            [v.double() * scale + mean for v, (mean, scale) in pairs], 1
        ).tolist()
    x, y = load_diabetes(return_X_y=True, scaled=False)
    np.testing.assert_allclose(sorted(rows), sorted(np.column_stack([x, y]).tolist()), rtol=1e-4)
