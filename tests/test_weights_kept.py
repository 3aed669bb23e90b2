"""Networks that an earlier version saved load unchanged: `tests/networks` holds some."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import kanzoo

SAVED = sorted(Path(__file__).with_name("networks").glob("*.json"))


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_networks_that_were_saved_before_load_and_compute_what_they_did(path: Path) -> None:
    pair = load_file(path.with_suffix(".pair.safetensors"))
    net = kanzoo.load(path)
    assert not net.training
    torch.testing.assert_close(net(pair["x"]), pair["y"])
