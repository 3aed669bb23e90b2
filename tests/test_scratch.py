"""Memory that is used again."""

import threading

import torch

from kanzoo.kernels.native import scratch as module
from kanzoo.kernels.native.scratch import scratch


def test_memory_is_used_again_and_grows() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    first = scratch("test", like, 3, 4)
    assert first.shape == (3, 4)
    assert first.dtype == torch.float64
    assert scratch("test", like, 2, 2).data_ptr() == first.data_ptr()
    larger = scratch("test", like, 100)
    assert larger.numel() == 100
    assert scratch("test", like, 3, 4).data_ptr() == larger.data_ptr()


def test_names_dtypes_and_threads_have_their_own() -> None:
    like = torch.zeros(1)
    found = [scratch("one", like, 8), scratch("two", like, 8)]
    found.append(scratch("one", like, 8, dtype=torch.int64))
    thread = threading.Thread(target=lambda: found.append(scratch("one", like, 8)))
    thread.start()
    thread.join()
    assert len({t.data_ptr() for t in found}) == 4
    assert found[2].dtype == torch.int64


def test_what_is_large_or_fake_is_not_kept() -> None:
    like = torch.zeros(1)
    size = module.MOST_BYTES // 4 + 1
    assert scratch("large", like, size).numel() == size
    assert "large torch.float32" not in module._thread.__dict__
    meta = scratch("meta", torch.zeros(1, device="meta"), 5)
    assert meta.device.type == "meta"
