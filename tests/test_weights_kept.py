"""Networks that an earlier version saved load unchanged: `tests/networks` holds some."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import kanzoo

SAVED = sorted(Path(__file__).with_name("networks").glob("*.json"))


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_networks_that_were_saved_before_load_and_compute_what_they_did(
    path: Path, tmp_path: Path
) -> None:
    pair = load_file(path.with_suffix(".pair.safetensors"))
    net = kanzoo.load(path)
    assert not net.training
    torch.testing.assert_close(net(pair["x"]), pair["y"])
    # As of a version whose classes lay elsewhere.
    moved = tmp_path / path.name
    text, count = re.subn(r"\"kanzoo\.[\w.]+\.(\w+)\"", r'"kanzoo.elsewhere.\1"', path.read_text())
    assert count == 1 + ("kan" in path.stem)
    moved.write_text(text)
    shutil.copy(path.with_suffix(".safetensors"), tmp_path)
    torch.testing.assert_close(kanzoo.load(moved)(pair["x"]), pair["y"])
