"""How training is shared by several processes: copies of weights (DDP), or shards (FSDP2)."""

import atexit
import gc
import logging
import time
from collections.abc import Callable
from typing import Any, cast

import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import (
    DDPStrategy,
    ModelParallelStrategy,
    ParallelStrategy,
    Strategy,
)
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import nn

from kanzoo.rundir import Config
from kanzoo.trainer_settings import TrainerConfig
from kanzoo.training.watch import watch_children, watch_parent

MOMENT = 0.1  # seconds in which threads that wait for the interpreter are given it
log = logging.getLogger("kanzoo")


def strategy_of(options: TrainerConfig) -> str | Strategy:
    """What Lightning's trainer is given for a trainer's options."""
    if options.strategy == "fsdp":
        return ShardedStrategy()
    if options.strategy == "ddp":
        # Batches that only add to gradients leave them where they are, which a static graph lacks.
        is_static = options.accumulate_grad_batches == 1
        return CopiesStrategy(static_graph=is_static, gradient_as_bucket_view=True)
    return options.strategy


class Launcher(_SubprocessScriptLauncher):
    """Lightning's, whose processes look after each other."""

    def launch(
        self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any
    ) -> Any:
        environment = self.cluster_environment
        environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not environment.creates_processes_externally:
            self._call_children_scripts()
            watch_children(self.procs)
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


class _Together(ParallelStrategy):
    """What strategies of several processes have in common."""

    num_nodes: int
    num_processes: int

    def _configure_launcher(self) -> None:
        environment = self.cluster_environment
        assert environment is not None
        if not environment.creates_processes_externally:
            self._launcher = Launcher(environment, self.num_processes, self.num_nodes)
        elif isinstance(environment, LightningEnvironment) and environment.local_rank() > 0:
            watch_parent(environment.local_rank())

    def setup_environment(self) -> None:
        environment = self.cluster_environment
        assert environment is not None
        if self.num_nodes > 1 and environment.local_rank() == 0 and not dist.is_initialized():
            rank, address, port = self.node_rank, environment.main_address, environment.main_port
            log.info(
                "node %d of %d waits for the others at %s:%d; start the same command on each",
                *(rank, self.num_nodes, address, port),
            )
            if rank == 0 and isinstance(environment, LightningEnvironment):
                log.info(
                    "with MASTER_ADDR=%s MASTER_PORT=%d and NODE_RANK=1 to %d in its environment",
                    *(address, port, self.num_nodes - 1),
                )
        is_first = not dist.is_initialized()
        super().setup_environment()
        if is_first:
            atexit.register(_leave)


def _leave() -> None:
    """Let threads of gloo drop their tensors while the interpreter runs.

    One that waits for an interpreter that ends takes the process with it, by SIGABRT
    (pytorch/pytorch#190489).
    """
    if dist.is_initialized():
        dist.destroy_process_group()
    gc.collect()  # a group that nothing holds waits for its threads
    time.sleep(MOMENT)  # PyTorch's caches hold groups of shards


class CopiesStrategy(_Together, DDPStrategy):
    """DDP: every process holds all weights, and gradients are summed."""


class ShardedStrategy(_Together, ModelParallelStrategy):
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

        content = self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, content.pop("state_dict"), options=options)
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for optimizer, saved in zip(self.optimizers, content["optimizer_states"], strict=False):
            # Parameters are numbered by their place in the groups, whatever it is in the network.
            numbers = [number for group in saved["param_groups"] for number in group["params"]]
            ours = [names[p] for group in optimizer.param_groups for p in group["params"]]
            name_of = dict(zip(numbers, ours, strict=True))
            state: Config = {
                "state": {name_of[number]: values for number, values in saved["state"].items()},
                "param_groups": [
                    {**group, "params": [name_of[number] for number in group["params"]]}
                    for group in saved["param_groups"]
                ],
            }
            set_optimizer_state_dict(self.model, optimizer, state, options=options)
        return content


def is_sharded(strategy: Strategy) -> bool:
    """Whether a process holds shards of weights only, outside of the network's own forward."""
    return isinstance(strategy, ShardedStrategy)
