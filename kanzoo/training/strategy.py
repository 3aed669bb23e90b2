"""How training is shared by several processes: whole copies (DDP), or shards of weights (FSDP2)."""

from typing import Any, cast

from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import nn

from kanzoo.rundir import Config
from kanzoo.trainer_settings import TrainerConfig


def strategy_of(options: TrainerConfig) -> str | Strategy:
    """What Lightning's trainer is given for a trainer's options."""
    if options.strategy == "fsdp":
        return ShardedStrategy()
    if options.strategy == "ddp":
        # Batches that only add to gradients leave them where they are, which a static graph lacks.
        is_static = options.accumulate_grad_batches == 1
        return DDPStrategy(static_graph=is_static, gradient_as_bucket_view=True)
    return options.strategy


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes, on any device; checkpoints are those of a single process."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, net: nn.Module) -> None:
        """Keep of every block of a network, and of the rest, a shard in each process."""
        from torch.distributed.fsdp import FSDPModule, fully_shard

        if isinstance(net, FSDPModule):
            return
        if self._layer_sync is not None:
            self._layer_sync.apply(net)
        mesh = self.device_mesh["data_parallel"]
        lists = [m for m in net.children() if isinstance(m, nn.Sequential | nn.ModuleList)]
        for block in (block for blocks in lists for block in blocks.children()):
            if any(True for _ in block.parameters()):
                fully_shard(cast(Any, block), mesh=mesh)
        fully_shard(cast(Any, net), mesh=mesh)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Config:
        """Restore weights and optimisers from a file, which every process reads."""
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            set_model_state_dict,
            set_optimizer_state_dict,
        )
        from torch.distributed.fsdp import FullyShardedDataParallel, OptimStateKeyType

        content = self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, content.pop("state_dict"), options=options)
        for optimizer, numbered in zip(self.optimizers, content["optimizer_states"], strict=False):
            state = FullyShardedDataParallel.rekey_optim_state_dict(
                numbered, OptimStateKeyType.PARAM_NAME, self.model
            )
            set_optimizer_state_dict(self.model, optimizer, state, options=options)
        return content


def is_sharded(strategy: Strategy) -> bool:
    """Whether a process holds shards of weights only, outside of the network's own forward."""
    return isinstance(strategy, ShardedStrategy)
