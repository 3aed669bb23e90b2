"""The code of docs/pykan.md runs from top to bottom, and every method of pykan has its row."""

import re
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "pykan.md").read_text(encoding="utf-8")
METHODS = """refine saveckpt loadckpt copy rewind checkout update_grid_from_samples fix_symbolic
    unfix_symbolic unfix_symbolic_all get_range plot get_reg disable_symbolic_in_fit get_params fit
    prune_node prune_edge prune prune_input remove_edge remove_node attribute node_attribute
    feature_interaction suggest_symbolic auto_symbolic symbolic_formula expand_depth expand_width
    perturb module tree speed get_act get_fun history n_edge evaluate swap connection_cost auto_swap
    kanpiler add_symbolic set_mode initialize_from_another_model"""


def test_the_page_for_users_of_pykan_runs(tmp_path: Path) -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in lines if "| here" not in line
    ]
    named = set(re.findall(r"\w+", " ".join(row[0] for row in rows)))
    assert set(re.findall(r"\w+", METHODS)) <= named
    scope: dict[str, Any] = {"folder": tmp_path}
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(block, scope)
    codes = [code for row in rows for code in re.findall(r"`([^`]+)`", row[1])]
    assert len(codes) > 30
    for code in codes:
        exec(code, scope)
    assert scope["formula"].relative_error < 1e-6
    assert scope["fit"].function.name == "sin"
    assert all(row[1] or row[2] for row in rows)  # what is not here says why
