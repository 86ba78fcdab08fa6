"""Fully sharded training: every process keeps its rows of every weight and of the optimizer's moments, no more."""

from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from models.checkpoint_files import load_checkpoint, save_part
from models.gpt import GPT
from models.lightning import L


def shard(gpt: GPT, mesh: DeviceMesh) -> None:
    """Shard a GPT in place, block by block (Zhao et al. 2023, "PyTorch FSDP"; torch's fully_shard).

    A block's weights are whole only while it computes. What all blocks share is whole from the start of the forward
    pass to the end of the backward pass: the embedding, which is the head too, the last norm, and what the positional
    scheme learns.
    """
    for block in gpt.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(gpt, mesh=mesh)


class Sharded(L.pytorch.strategies.ModelParallelStrategy):
    """Lightning's strategy for sharded models over all processes, with checkpoints that any number of them resumes.

    Saving writes this process's rows into a folder (models/checkpoints.py). Loading reads all of them and keeps its
    own, so that the number of processes may change, and so may the strategy: the whole is an ordinary checkpoint.
    """

    def __init__(self, ranks: int):
        super().__init__(data_parallel_size=ranks, tensor_parallel_size=1)

    def lightning_module_state_dict(self) -> dict:
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict:
        return optimizer.state_dict()

    def save_checkpoint(self, checkpoint: dict, filepath, storage_options=None) -> None:
        local = tree_map(lambda leaf: leaf.to_local() if isinstance(leaf, DTensor) else leaf, checkpoint)
        save_part(Path(filepath), local, self.global_rank, self.world_size, self.barrier)

    def load_checkpoint(self, checkpoint_path, weights_only=None) -> dict:
        checkpoint = load_checkpoint(Path(checkpoint_path))
        module, weights = self.lightning_module, checkpoint["state_dict"]
        module.load_state_dict({name: _rows(weights[name], like) for name, like in module.state_dict().items()})
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for number, moments in state["state"].items():
                state["state"][number] = {key: _rows(value, parameters[number]) for key, value in moments.items()}
            optimizer.load_state_dict(state)
        return checkpoint


def _rows(whole: Tensor, like: DTensor) -> Tensor:
    """This process's share of a tensor, shared out as a parameter is; a scalar is everybody's."""
    if not whole.dim():
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
