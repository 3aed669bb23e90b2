"""Batch normalisation over the batch of all processes, on any device."""

import logging
from typing import Any, ClassVar, cast

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kanzoo.rundir import is_first_process

log = logging.getLogger("kanzoo")


class SyncNorms(TorchSyncBatchNorm):
    """Lets the batch normalisations of a network see the batches of all processes in training.

    `wanted` is False, True, or "auto": where it can be. PyTorch's own does it on GPUs only, where
    it is the faster one.
    """

    def __init__(self, wanted: bool | str, *, on_gpus: bool) -> None:
        self.wanted = wanted
        self.on_gpus = on_gpus

    def apply(self, model: nn.Module) -> nn.Module:
        norms = [norm for norm in model.modules() if isinstance(norm, _BatchNorm)]
        norms = [norm for norm in norms if not isinstance(norm, nn.SyncBatchNorm)]
        able = [n for n in norms if self.wanted and (self.on_gpus or type(n) in SYNCED)]
        left = ", ".join(sorted({type(norm).__name__ for norm in norms if norm not in able}))
        if left and self.wanted is True:
            raise ValueError(f"trainer.sync_batchnorm=true cannot be had for {left}: take auto")
        if left and is_first_process():
            log.warning(
                "%s: every process takes statistics of its share of a batch, so that results "
                "depend on their number (trainer.sync_batchnorm)",
                left,
            )
        if self.on_gpus and self.wanted:
            return super().apply(model)
        for norm in able:
            norm.__class__ = SYNCED[type(norm)]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        for norm in model.modules():
            if isinstance(norm, _Synced):
                norm.__class__ = norm.plain  # type: ignore[assignment]
        return super().revert(model)


class _Synced(_BatchNorm):
    """Batch normalisation whose statistics in training are those of all processes together."""

    plain: ClassVar[type[_BatchNorm]]

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        size = wide.new_tensor([wide.numel() // max(wide.shape[1], 1)])
        sums = cast(Tensor, _SumOfAll.apply(torch.cat([wide.sum(axes), size])))
        count = sums[-1].detach()
        centred = wide - (sums[:-1] / count).view(shape)
        variance = cast(Tensor, _SumOfAll.apply(centred.square().sum(axes))) / count
        self._follow(sums[:-1] / count, variance * (count / (count - 1)))
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics as PyTorch does."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:  # the mean of all batches so far
            share = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)


class _Synced1d(_Synced, nn.BatchNorm1d):
    plain = nn.BatchNorm1d


class _Synced2d(_Synced, nn.BatchNorm2d):
    plain = nn.BatchNorm2d


class _Synced3d(_Synced, nn.BatchNorm3d):
    plain = nn.BatchNorm3d


SYNCED: dict[type[nn.Module], type[_Synced]] = {
    synced.plain: synced for synced in (_Synced1d, _Synced2d, _Synced3d)
}


class _SumOfAll(torch.autograd.Function):
    """The sum over all processes; so is its gradient, which all of them depend on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        total = grad.clone()
        dist.all_reduce(total)
        return total
