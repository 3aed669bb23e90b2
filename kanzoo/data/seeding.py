"""Random generators that are functions of a key, and the one order from which splits are cut."""

import hashlib

import torch
from torch import Tensor


def keyed_seed(*key: str | int) -> int:
    """Return a seed that depends on `key` only and differs between keys that differ little."""
    # PyTorch's CPU generator uses no more than the lower 32 bits of a seed.
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=4).digest(), "little")


def keyed_generator(*key: str | int) -> torch.Generator:
    """Return a CPU generator whose state depends on `key` only; no global generator is touched."""
    return torch.Generator().manual_seed(keyed_seed(*key))


def split_order(targets: Tensor, *key: str | int) -> Tensor:
    """Return a permutation of the samples in which every stretch mixes the classes fairly.

    `targets` is `(N,)` of class indices: a stretch of the order then holds each class in
    proportion, within two samples (a stretch from the start, within one). Targets of any other
    kind are shuffled plainly.
    """
    generator = keyed_generator(*key)
    shuffled = torch.randperm(len(targets), generator=generator)
    if targets.ndim != 1 or targets.is_floating_point():
        return shuffled
    _, classes, counts = torch.unique(targets[shuffled], return_inverse=True, return_counts=True)
    grouped = classes.argsort(stable=True)
    rank = torch.empty_like(grouped)  # position of a sample among those of its class
    rank[grouped] = torch.arange(len(targets)) - (counts.cumsum(0) - counts)[classes[grouped]]
    # Sample i of a class with n members lies somewhere in [i / n, (i + 1) / n) of the order.
    jitter = torch.rand(len(targets), generator=generator, dtype=torch.float64)
    return shuffled[((rank + jitter) / counts[classes]).argsort(stable=True)]
