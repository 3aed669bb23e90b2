"""The report tells the whole study, escapes everything, needs nothing else, and scales."""

import json
import re
import shutil
import subprocess
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from pages import Page
from rich.console import Console
from test_compare import SHORT, configured

from kanzoo.compare import _job
from kanzoo.files import csv_of
from kanzoo.interpret.edges import EdgeCurves
from kanzoo.settings import MetricConfig
from kanzoo.study.decomposition import PARTS
from kanzoo.study.inference import holm
from kanzoo.study.report import panels, plots, tables
from kanzoo.study.report.write import verdict_table, write_report
from kanzoo.study.results import judged
from kanzoo.study.stats import verdicts

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or ""
ARMS = {"mlp": 0.0, "kan_bspline": 0.012, "kan_rbf": -0.001}
COSTS = {"mlp": (9_994, 1.0), "kan_bspline": (10_058, 2.1), "kan_rbf": (9_870, 1.4)}
MODELS = {"mlp": 0.953, "resnet": 0.981, "vit": 0.942}


def fake_study(
    root: Path,
    *,
    models: dict[str, float] = MODELS,
    data: tuple[str, ...] = ("digits",),
    seeds: int = 5,
    epochs: int = 12,
) -> pd.DataFrame:
    """Seeded runs as a real study leaves them, metrics.csv included where epochs > 0."""
    rng = np.random.default_rng(0)
    rows = []
    for name in data:
        for model, level in models.items():
            split = rng.normal(0, 0.004, seeds)
            for arm, effect in ARMS.items():
                for seed in range(seeds):
                    params, slow = COSTS[arm]
                    test = level + split[seed] + effect + rng.normal(0, 0.003)
                    run = f"{name}/{model}-{arm}/seed{seed}"
                    rows.append(
                        {
                            "data": name, "model": model, "arm": arm, "layers": arm.split("_")[0],
                            "basis": arm.partition("_")[2], "match": "params", "seed": seed,
                            "status": "finished", "reason": "", "metric": "accuracy", "mode": "max",
                            "test": test, "val": test + rng.normal(0, 0.002), "params": params,
                            "flops": 2.1 * params * slow, "step_time_ms": slow * rng.normal(3, 0.1),
                            "peak_memory_mb": 40 * slow, "train_seconds": 9 * slow,
                            "epochs": epochs, "sizes": "" if arm == "mlp" else "width 64 -> 21",
                            "run_dir": run, "command": f"python scripts/train.py model={model} "
                            f"layers={arm} data={name} seed={seed}",
                        }
                    )  # fmt: skip
                    if epochs:
                        history(root / run, test, epochs, rng)
    return pd.DataFrame(rows)


def history(folder: Path, final: float, epochs: int, rng: np.random.Generator) -> None:
    """Sparse rows: a training row and a validation row an epoch."""
    lines = ["epoch,step,train/loss,val/loss,val/accuracy"]
    for epoch in range(epochs):
        rest = np.exp(-0.5 * (epoch + 1))
        lines.append(f"{epoch},{10 * epoch + 5},{2.3 * rest + 0.02:.5f},,")
        value = final - rest * 0.7 + rng.normal(0, 0.002)
        lines.append(f"{epoch},{10 * epoch + 9},,{2.4 * rest + 0.08:.5f},{value:.5f}")
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("\n".join(lines))


def edge_plots() -> list[EdgeCurves]:
    x = np.linspace(-2, 2, 81)
    waves = np.stack([np.sin((k + 1) * x / 2) * np.exp(-(x**2) / 4) for k in range(6)])
    return [
        EdgeCurves("mlp · kan_bspline · layer 1", x, waves, "seed 0, six strongest edges"),
        EdgeCurves("vit · kan_bspline · block 0 ffn", x, np.tanh(waves * 2), "seed 0"),
    ]


def report(root: Path, results: pd.DataFrame, **changes: object) -> dict[str, Path]:
    found = verdicts(results, "mlp", margin=0.01, n_resamples=500)
    arguments = {
        "title": "Do KANs beat their MLP twins on digits?",
        "question": "Does replacing the MLP layers of three architectures by KAN layers, at equal "
        "parameters, improve test accuracy?",
        "protocol": [
            "Every arm trains on the same split and identical batches; seeds pair the arms.",
            "Widths are solved so that trainable parameters agree within 2 %.",
            "Epochs are chosen on validation data; the test set is evaluated once.",
        ],
        "settings": {"baseline": "mlp", "alpha": 0.05, "margin": 0.01, "resampling seed": 0},
        "environment": {"python": "3.11.9", "torch": "2.14.0", "processor": "2 cores"},
        "command": "python scripts/compare.py study=demo",
        "edges": edge_plots(),
    }
    return write_report(root / "report", results, found, **{**arguments, **changes})


def with_failures(root: Path, **changes: Any) -> pd.DataFrame:
    results = fake_study(root, **changes)
    bad = results.sample(3, random_state=1).index
    results.loc[bad, ["status", "test"]] = ["failed", np.nan]
    results.loc[bad, "reason"] = "loss became NaN at step 17"
    return results


@pytest.fixture
def study(tmp_path: Path) -> pd.DataFrame:
    return with_failures(tmp_path)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, dict[str, Path]]:
    """A study and its report, for tests that only read it."""
    root = tmp_path_factory.mktemp("study")
    results = with_failures(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kanzoo.page.style.pdf_of", lambda figure: b"%PDF-")
        return results.copy(), report(root, results)


def test_the_files_and_nothing_else(tmp_path):
    """Figures of an earlier report go, what else lies beside them stays."""
    study = fake_study(tmp_path, models={"mlp": 0.9}, epochs=1)
    figures = tmp_path / "report" / "figures"
    report(tmp_path, study, title="earlier")
    (figures / "mine.svg").write_text("")
    (figures / "curves-99-old.pdf").write_text("")
    files = report(tmp_path, study)
    names = [name for name in files if not name.startswith("figures/")]
    assert sorted(names) == [
        "index.html", "report.md", "results.csv", "table.csv", "table.tex", "verdicts.json",
    ]  # fmt: skip
    found = {p for p in (tmp_path / "report").rglob("*") if p.is_file()}
    assert found == {*files.values(), figures / "mine.svg"}


@pytest.mark.pdf
def test_figures_are_the_panels_of_the_page(tmp_path):
    """As SVG that is XML with its texts under the pointer, and as PDF; in the light colours."""
    study = fake_study(tmp_path, models={"mlp": 0.9}, epochs=2)
    files = report(tmp_path, study)
    page = Page(files["index.html"].read_text())
    figures = {name for name in files if name.startswith("figures/")}
    assert figures == {link for link in page.links if link.startswith("figures/")}
    assert len(figures) == 2 * page.tags.count("svg")
    for name in figures:
        content = files[name].read_bytes()
        if name.endswith(".pdf"):
            assert content.startswith(b"%PDF")
            continue
        root = ElementTree.fromstring(content)
        assert list(root.iter("{http://www.w3.org/2000/svg}title")), name
        assert b"var(--" not in content
    (forest,) = (files[name] for name in figures if re.search(r"effects-01.*svg", name))
    assert "kan_bspline: +0.0" in forest.read_text()


def test_rows_lead_to_their_runs(tmp_path):
    study = with_failures(tmp_path, models={"mlp": 0.9}, epochs=1)
    online = "https://wandb.ai/team/zoo/runs/demo-1"
    study["wandb"] = ""
    usable = study.index[study.status == "finished"]
    study.loc[usable[:2], "wandb"] = [online, "javascript:alert(1)"]
    page = Page(report(tmp_path, study)["index.html"].read_text())
    assert [link for link in page.links if "wandb" in link or "script" in link] == [online]
    runs = {link for link in page.links if link.startswith("../")}
    assert all((tmp_path / "report" / link).is_dir() for link in runs)
    cells = {str(Path(run).parent) for run in study["run_dir"]}
    arms = {cell for cell in cells if not cell.endswith("-mlp")}
    assert runs == {f"../{run}/" for run in [*study["run_dir"], *arms]}


def test_the_tables_for_papers_hold_the_verdicts(written):
    study, files = written
    found = verdicts(study, "mlp", margin=0.01, n_resamples=500)
    read = pd.read_csv(files["table.csv"])
    np.testing.assert_array_equal(read["ci_low"], [v.ci_low for v in found])
    assert read["verdict"].tolist() == [v.verdict for v in found]
    rows = latex_rows(files["table.tex"].read_text())
    assert len(rows) == 1 + len(found)
    assert {len(row) for row in rows} == {len(rows[0])}
    bold = rows[0].index("Verdict")
    assert [row[bold] for row in rows[1:]] == [v.verdict for v in found]


def latex_rows(text: str) -> list[list[str]]:
    """Cells of a LaTeX table after a check of what a compiler would refuse."""
    text = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert text.isascii()
    begun = re.findall(r"\\(begin|end)\{(\w+)\}", text)
    assert begun == [("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table")]
    plain = re.sub(r"\\[\\{}&%$#_]", "", text)
    assert not re.search(r"[%#_^~]", plain)
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1]
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0].replace(r"\midrule", "")
    rows = [re.split(r"(?<!\\)&", row) for row in body.split(r"\\")[:-1]]
    assert {len(row) for row in rows} == {len(columns)}
    return [[cell.strip() for cell in row] for row in rows]


def test_the_page_is_one_sound_file(written):
    text = written[1]["index.html"].read_text()
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    near = ("#", "../", "figures/", "table.")
    assert all(link.startswith(near) or link == "data:," for link in page.links)
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids))
    fragments = {link[1:] for link in page.links if link.startswith("#")}
    assert fragments | set(re.findall(r"url\(#([\w-]+)\)", text)) <= set(page.ids)


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")
def test_a_browser_has_nothing_to_complain_about(tmp_path, study):
    """No console message, nothing fetched, no scrolling sideways: the page, or tables at 1,400."""
    page = report(tmp_path, study)["index.html"]
    probe = page.with_name("probe.html")  # the page itself must not run scripts
    frames = (
        f'<iframe style="width:{width}px;height:3000px;border:0" srcdoc="{quoted(page)}"></iframe>'
        for width in (390, 1400)
    )
    probe.write_text(
        "".join(frames) + "<p id=w></p><script>onload=()=>{const [f,g]="
        "document.querySelectorAll('iframe');const d=f.contentDocument.documentElement;"
        "document.getElementById('w').textContent='beyond '+(d.scrollWidth-d.clientWidth)+"
        "', fetched '+f.contentWindow.performance.getEntriesByType('resource').length+"
        "', wide '+[...g.contentDocument.querySelectorAll('.scroll')]"
        ".filter(e=>e.scrollWidth>e.clientWidth).length}</script>"
    )
    shown = {}
    for path in (page, probe):
        done = subprocess.run(
            [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
             "--disable-background-networking", "--no-first-run",
             f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        assert "CONSOLE" not in done.stderr
        shown[path] = done.stdout
    assert shown[page].count("</svg>") == 12
    assert "<parsererror" not in shown[page]
    found = re.findall(r"beyond \d+, fetched \d+, wide \d+", shown[probe])
    assert found == ["beyond 0, fetched 0, wide 0"]


def quoted(page: Path) -> str:
    return page.read_text().replace("&", "&amp;").replace('"', "&quot;")


def test_the_page_holds_the_whole_study(written):
    study, files = written
    page = Page(files["index.html"].read_text())
    order = ["verdicts", "protocol", "effects", "costs", "curves", "edges", "budgets", "failures",
             "reproduce"]  # fmt: skip
    assert [name for name in page.ids if name in order] == order
    assert page.tags.count("svg") == 3 + 4 + 3 + 2
    assert page.text.count("loss became NaN at step 17") == 3
    assert "42 / 45" in page.text
    assert study.loc[study.status == "finished", "command"].map(page.text.__contains__).all()


def test_colours_come_from_the_page(written):
    text = written[1]["index.html"].read_text()
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.S))
    assert not re.search(r"#[0-9a-f]{6}", drawn)
    used = set(re.findall(r"var\((--[\w]+)", text)) - {"--tone"}
    light, dark = (set(re.findall(r"(--\w+): #", part)) for part in
                   text.split("</style>")[0].split("prefers-color-scheme: dark"))  # fmt: skip
    assert used <= light
    assert light == dark


def test_everything_is_escaped(tmp_path):
    attack = "<script>alert('x')</script>"
    results = fake_study(tmp_path, models={attack: 0.9}, data=(f'{attack}"',), epochs=0)
    results["arm"] = results["arm"].replace({"kan_rbf": f"{attack}$x$&|"})
    results["command"] = results["sizes"] = results["metric"] = attack
    results["machine"] = results["run_dir"] = results["test_set"] = attack
    results.loc[3, "status"] = "failed"
    results["reason"] = f"{attack}\n| a `b`"
    files = report(
        tmp_path,
        results,
        title=attack,
        question=attack,
        protocol=[attack],
        command=attack,
        settings={attack: attack},
        environment={attack: {attack: attack}},
        edges=[EdgeCurves(attack, np.array([0, 1]), np.array([[0, 1]]), attack)],
    )
    latex_rows(files["table.tex"].read_text())
    text = files["index.html"].read_text()
    assert "<script" not in text
    assert "alert('x')" in Page(text).text
    markdown = files["report.md"].read_text().replace(f"```\n{attack}\n```", "")
    assert "<script" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {8, 15}


def test_no_cell_is_a_formula_of_a_spreadsheet(tmp_path):
    results = fake_study(tmp_path, epochs=0)
    results.loc[3, "status"] = "failed"
    results.loc[3, "reason"] = "=HYPERLINK(A1)"
    table = pd.read_csv(report(tmp_path, results)["results.csv"])
    assert table["reason"].dropna().tolist() == ["'=HYPERLINK(A1)"]
    attacks = ["+1+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1"]
    read = pd.read_csv(StringIO(csv_of(pd.DataFrame({"a": attacks}))), dtype=str)
    assert read["a"].tolist() == [f"'{attack}".replace("\r", " ") for attack in attacks]
    harmless = pd.DataFrame({"a": ["-0.5", "x=1", ""], "b": [-1.5, 2.0, 3.0]})
    assert csv_of(harmless) == harmless.to_csv(index=False)


def test_verdicts_json_is_strict_and_complete(tmp_path):
    study = with_failures(tmp_path, models={"mlp": 0.9}, epochs=0)
    study.loc[study.arm == "kan_rbf", "status"] = "failed"
    text = report(tmp_path, study)["verdicts.json"].read_text()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    rows = json.loads(text, parse_constant=refuse)
    keys = (
        "data model arm baseline match metric n_seeds mean_difference ci_low ci_high p_value "
        "p_adjusted margin verdict params_ratio flops_ratio step_time_ratio memory_ratio"
    )
    assert len(rows) == 2
    assert all(set(keys.split()) <= set(row) for row in rows)
    assert {row["mean_difference"] for row in rows if row["arm"] == "kan_rbf"} == {None}


def test_results_csv_is_every_run_in_one_order(tmp_path, written):
    study, files = written
    first = files["results.csv"].read_text()
    second = report(tmp_path, study.sample(frac=1, random_state=3))["results.csv"].read_text()
    assert first == second
    read = pd.read_csv(StringIO(first))
    assert len(read) == len(study)
    assert set(study.columns) <= set(read.columns)
    merged = read.merge(study, on=["data", "model", "arm", "seed"], suffixes=("", "_given"))
    np.testing.assert_array_equal(merged["test"], merged["test_given"])


@pytest.mark.slow
@pytest.mark.pdf
def test_the_same_study_gives_the_same_bytes(tmp_path):
    study = fake_study(tmp_path, models={"mlp": 0.9}, epochs=1)
    first = {name: path.read_bytes() for name, path in report(tmp_path, study).items()}
    second = {name: path.read_bytes() for name, path in report(tmp_path, study).items()}
    assert first == second


def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
    study = fake_study(tmp_path, models={"mlp": 0.9}, epochs=0)
    old = report(tmp_path, study)["index.html"].read_text()

    def crash(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(OSError, match="disk full"):
        report(tmp_path, study, title="new")
    assert (tmp_path / "report/index.html").read_text() == old


def test_curves_are_the_mean_of_the_logged_values(tmp_path):
    results = tables.tidy(fake_study(tmp_path, models={"mlp": 0.9}, epochs=4))
    colours = tables.arms_of(results, "mlp")
    found = panels._histories(results, "accuracy", tmp_path, colours)
    assert list(found) == ["val/accuracy", "train/loss", panels.GAP]
    for by_arm in found.values():
        assert {arm: len(series) for arm, series in by_arm.items()} == dict.fromkeys(ARMS, 5)
    run = results.iloc[0]
    logged = pd.read_csv(tmp_path / run.run_dir / "metrics.csv")
    scores = logged["val/accuracy"].dropna()
    np.testing.assert_array_equal(found["val/accuracy"][run.arm][0], scores)
    gap = logged["train/loss"].dropna().to_numpy() - logged["val/loss"].dropna().to_numpy()
    np.testing.assert_allclose(found[panels.GAP][run.arm][0], gap)


def test_missing_broken_or_empty_metrics_do_not_stop_the_report(tmp_path):
    study = with_failures(tmp_path, models={"mlp": 0.9})
    folders = [tmp_path / folder for folder in study["run_dir"]]
    (folders[0] / "metrics.csv").unlink()
    (folders[1] / "metrics.csv").write_bytes(b"\xff\xfe\x00,")
    (folders[2] / "metrics.csv").write_text("")
    page = Page(report(tmp_path, study)["index.html"].read_text())
    assert page.tags.count("svg") == 8


def test_a_study_in_which_everything_failed_still_reports(tmp_path, study):
    study["status"], study["test"], study["reason"] = "failed", np.nan, "out of memory"
    page = Page(report(tmp_path, study, edges=())["index.html"].read_text())
    assert "0 / 45" in page.text
    assert page.text.count("out of memory") == 45


def test_budgets_show_the_remaining_mismatch(tmp_path, study):
    study.loc[study.arm == "kan_rbf", "params"] = 10_400
    rows = tables.budget_rows(tables.tidy(study), "mlp")
    cells = {(row["model"], row["arm"]): row for row in rows}
    assert cells["vit", "kan_rbf"]["params"] == {"value": "10,400", "off": "+4.1 %", "bad": True}
    assert not cells["vit", "kan_bspline"]["params"]["bad"]
    assert cells["vit", "kan_bspline"]["flops"]["bad"] is False
    assert cells["vit", "mlp"]["params"]["off"] is None


def test_the_pareto_front_and_caps(tmp_path, monkeypatch):
    monkeypatch.setattr(panels, "MAX_PANELS", 2)
    results = fake_study(tmp_path, epochs=1)
    page = Page(report(tmp_path, results)["index.html"].read_text())
    assert page.tags.count("svg") == 8
    assert "Shown: 2 of 3" in page.text
    assert "Shown: 2 of 4" in page.text


def test_edge_plots_must_agree_in_length():
    with pytest.raises(ValueError, match=r"'first'.*do not agree"):
        plots.edges(EdgeCurves("first", np.array([0.0, 1.0]), np.array([[0.0, 1.0, 2.0]])))


def test_the_terminal_table_fits_100_columns(study):
    found = verdicts(study, "mlp", margin=0.01, n_resamples=200)
    console = Console(width=100, file=StringIO(), record=True)
    console.print(verdict_table(found))
    lines = console.export_text().rstrip().splitlines()
    assert len(lines) == 1 + len(found) + 1, "a row needs more than one line"
    assert "recipe" in lines[-1]
    assert max(map(len, lines)) <= 100
    assert "better" in "".join(lines)


@pytest.mark.parametrize(
    ("value", "text"),
    [(9994.0, "9,994"), (0.0, "0"), (123_456.0, "123 k"), (2.5e6, "2.5 M"), (float("nan"), "–")],  # noqa: RUF001
)
def test_quantities(value, text):
    assert tables.quantity(value) == text


def test_decimals_follow_the_spread():
    assert [tables.decimals(s) for s in (0.0031, 0.2, 15.0, 0.0)] == [4, 2, 0, 4]


@pytest.mark.slow
def test_a_large_study_is_read_lazily(tmp_path):
    """540 runs with curves for a few: only what is drawn is opened."""
    names = tuple(f"set{i:02d}" for i in range(12))
    results = fake_study(tmp_path, data=names, epochs=0)
    opened: list[Path] = []
    read = panels._history
    try:
        panels._history = lambda path: opened.append(path) or read(path)
        files = report(tmp_path, results)
    finally:
        panels._history = read
    assert len(opened) == panels.MAX_PANELS * len(ARMS) * 5
    assert len(files["report.md"].read_text()) < 65_536


# --- axes, phases, tuning ------------------------------------------------------------------------


def along_axes(root: Path) -> tuple[pd.DataFrame, list]:
    """A study over three grid sizes that concern the KAN arms only, judged on two metrics."""
    results = fake_study(root, models={"mlp": 0.9}, epochs=2)
    parts = []
    for size in ("3", "10", "20"):
        part = results[results["arm"] != "mlp"].assign(grid_size=size)
        parts.append(part.assign(test=part["test"] + 0.001 * int(size)))
    table = pd.concat([results[results["arm"] == "mlp"].assign(grid_size=""), *parts])
    table["test_ece"] = 0.05 + 0.2 * (table["arm"] == "kan_rbf") * (1 + 0.05 * table["seed"])
    values, further = judged(table, {"ece": MetricConfig("min", 0.01)})
    assert further == ("metric",)
    margins = {"accuracy": 0.01, "ece": 0.01}
    found = verdicts(values, "mlp", margin=margins, axes=["grid_size", *further], n_resamples=200)
    return table.reset_index(drop=True), found


def test_verdicts_along_axes_are_paired_with_the_baseline_that_the_axis_leaves_alone(tmp_path):
    table, found = along_axes(tmp_path)
    assert len(found) == 2 * 3 * 2
    assert [v.axes["grid_size"] for v in found[::4]] == ["3", "10", "20"]
    assert {v.n_seeds for v in found} == {5}
    mlp = table[table["arm"] == "mlp"]
    for v in found:
        assert v.mean_baseline == pytest.approx(
            mlp["test" if v.metric == "accuracy" else "test_ece"].mean()
        )
        row = v.to_dict()
        assert "axes" not in row
        assert row["grid_size"] == v.axes["grid_size"]
    worse = {v.arm for v in found if v.direction == "worse" and v.metric == "ece"}
    assert worse == {"kan_rbf"}, "a larger calibration error is worse"
    # Further metrics are the secondary family: what is adjusted is adjusted over all of a family.
    for family, metric in (("primary", "accuracy"), ("secondary", "ece")):
        rows = [v for v in found if v.family == family]
        assert {v.metric for v in rows} == {metric}
        adjusted = holm(np.array([v.p_value for v in rows]))
        np.testing.assert_allclose(adjusted, [v.p_adjusted for v in rows])


def test_the_page_shows_axes_phases_and_tuning(tmp_path):
    table, found = along_axes(tmp_path)
    table["phases"] = json.dumps([[0.9, 0.1], [0.4, 0.8]])
    tuning = {
        "trials": 20, "seeds": 2, "sampler": "a sequence", "space": [("optim.lr", "0.001 to 0.1")],
        "epochs": "50 %", "finalists": 2, "finalist_seeds": 1, "panels": [], "left_out_panels": 0,
        "extra": [("kan_rbf", "basis.grid_range", "one of <b>")], "left_out": 0,
        "rows": [{"data": "digits", "model": "mlp", "arm": "kan_rbf", "match": "params",
                  "axes": "grid size 3", "trials": 20, "failed": 1, "first": "0.9", "best": "0.95",
                  "number": 7, "settings": "optim.lr=0.01", "rates": "0.01 to 0.03",
                  "factor": "3×"}],  # noqa: RUF001
    }  # fmt: skip
    files = write_report(
        tmp_path / "report", table, found, title="t", question="q", protocol=["p"],
        settings={"baseline": "mlp"}, environment={}, command="c", axes=["grid_size"],
        tuning=tuning,
    )  # fmt: skip
    text = files["index.html"].read_text()
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    order = ["effects", "along", "phases", "costs", "curves", "budgets", "tuning", "failures"]
    assert [name for name in page.ids if name in order] == order
    effects, along, phases, costs, curves = 6, 2, 2 * 4, 4, 3
    assert page.tags.count("svg") == effects + along + phases + costs + curves
    assert "Declared exceptions" in page.text
    assert "one of <b>" in page.text
    assert "<b>" not in re.findall(r"one of.*?</li>", text)[0].replace("&lt;b&gt;", "")
    assert "±0.01" in page.text
    markdown = files["report.md"].read_text()
    assert "grid size 10" in markdown
    assert "20 trials for every arm" in markdown
    read = pd.read_csv(files["results.csv"])
    assert list(read["grid_size"].fillna(0).unique()) == [3, 10, 20, 0]
    rows = json.loads(files["verdicts.json"].read_text())
    assert {row["grid_size"] for row in rows} == {"3", "10", "20"}


def test_budgets_along_axes_compare_with_the_right_twin(tmp_path):
    table, _ = along_axes(tmp_path)
    table.loc[(table["arm"] == "kan_rbf") & (table["grid_size"] == "20"), "params"] = 11_000
    rows = tables.budget_rows(tables.tidy(table, ["grid_size"]), "mlp", ["grid_size"])
    off = {row["axes"]: row["params"]["off"] for row in rows if row["arm"] == "kan_rbf"}
    assert off == {"grid size 3": "−1.2 %", "grid size 10": "−1.2 %", "grid size 20": "+10.1 %"}  # noqa: RUF001


def test_corrupted_inputs_are_axes_of_what_is_judged(tmp_path):
    results = fake_study(tmp_path, models={"mlp": 0.9}, epochs=0)
    for column, lost in (("test_noise_0.5", 0.1), ("test_noise_2", 0.4), ("test_blur_1", 0.2)):
        results[column] = results["test"] - lost * (results["arm"] != "mlp")
    values, further = judged(results, {})
    assert further == ("corruption", "severity")
    assert len(values) == 4 * len(results)
    found = verdicts(values, "mlp", margin=0.01, axes=further, n_resamples=100)
    places = [(v.axes["corruption"], v.axes["severity"]) for v in found if v.arm == "kan_rbf"]
    assert places == [("blur", "1"), ("clean", "0"), ("noise", "0.5"), ("noise", "2")]
    by_place = {(v.arm, *v.axes.values()): v.mean_difference for v in found}
    clean = by_place["kan_rbf", "clean", "0"]
    assert by_place["kan_rbf", "noise", "2"] == pytest.approx(clean - 0.4)
    drawn, total = panels.along(found, "mlp", 0.05, tables.arms_of(results, "mlp"))
    kinds = ["digits · mlp · corruption blur", "digits · mlp · corruption noise"]
    assert sorted(panel.title for panel in drawn) == kinds
    assert total == 2
    results["no_skill"] = 0.1
    results.loc[results["status"].eq("finished").idxmax(), "test_blur_1"] = float("nan")
    values, _ = judged(results, {})
    lost = values[values["status"].eq("diverged") & values["corruption"].eq("blur")]
    assert lost["test"].tolist() == [0.1], "what is no number is no skill"


def test_a_metric_that_no_run_has_is_named(tmp_path):
    results = fake_study(tmp_path, models={"mlp": 0.9}, epochs=0)
    with pytest.raises(ValueError, match=r"'ecee' of study\.metrics"):
        judged(results, {"ecee": MetricConfig("min", 0.1)})


@pytest.mark.slow
@pytest.mark.usefixtures("inline")
def test_the_parts_of_a_difference_add_up_in_a_study(tmp_path):
    """A vision transformer on digits whose trunk and heads are kept: width, place and basis."""
    config = configured(
        tmp_path,
        models={"vit": ["model.width=64", "model.depth=1", "model.heads=4"]},
        arms={"mlp": ["layers=mlp"], "kan": ["layers=kan_activated", "basis=bspline"]},
        controls=["mlp-narrow", "kan-residual"],
        match=["params"],
        overrides=[*SHORT, "data.limit_train=256"],
    )
    _job(config)
    folder = tmp_path / "runs" / "smoke" / "report"
    scores = pd.read_csv(folder / "results.csv").groupby("arm")["test"].mean()
    difference = scores["kan"] - scores["mlp"]
    rows = json.loads((folder / "verdicts.json").read_text())
    parts = {row["contrast"]: row["mean_difference"] for row in rows if row["contrast"]}
    assert set(parts) == set(PARTS)
    assert sum(parts.values()) == pytest.approx(difference, abs=1e-12)
    markdown = (folder / "report.md").read_text().replace("\N{MINUS SIGN}", "-")
    (line,) = [x for x in markdown.splitlines() if "[" in x and x.count("|") == 7]
    *shown, total = (float(cell.split("\\")[0].split("[")[0]) for cell in line.split("|")[3:7])
    assert sum(shown) == pytest.approx(total, abs=1.5e-4)
    assert total == pytest.approx(difference, abs=5e-5)
    results = [json.loads(path.read_text()) for path in tmp_path.rglob("result.json")]
    assert {(r["options"]["width"], r["options"]["heads"]) for r in results} == {(64, 4)}
    page = Page((folder / "index.html").read_text())
    (sizes,) = {r["sizes"] for r in results if r["layers"] != "mlp" and r["basis"] == "bspline"}
    assert sizes.startswith("width 64 -> 64, heads 4, ffn 256 -> ")
    assert page.text.count(sizes) >= 2, "in the verdicts and in the budgets"
    assert results[0]["machine"] in page.text
