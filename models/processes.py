"""The rank of this process among those that train one model together, and the device it trains on."""

import logging
import os
import warnings
from dataclasses import dataclass

import torch

from conf.base import BadInput
from models.lightning import L

environments = L.fabric.plugins.environments


@dataclass(frozen=True)
class Place:
    """The rank of this process, 0 … ranks - 1, and the cluster environment by which Lightning finds the others."""

    rank: int
    ranks: int
    environment: environments.ClusterEnvironment

    @property
    def chief(self) -> bool:
        """Whether this process writes the run folder, prints and logs."""
        return self.rank == 0


def place_of(trainer) -> Place:
    """This process's place, for the settings of a trainer."""
    return place(trainer.devices, trainer.nodes)


def place(devices: int, nodes: int) -> Place:
    """This process's place, whether it was started by torchrun, srun or Lightning, or will start the others.

    With one process per run, tasks of srun that train one model each are all rank 0.

    Raises:
        BadInput: torchrun or srun started another number of processes than devices x nodes.
    """
    ranks, environ = devices * nodes, os.environ
    requested = f"trainer.devices x trainer.nodes is {devices} x {nodes}"
    if environments.TorchElasticEnvironment.detect():
        if int(environ["WORLD_SIZE"]) != ranks:
            raise BadInput(f"torchrun started {environ['WORLD_SIZE']} process(es), and {requested}: they must be equal")
        return Place(int(environ["RANK"]), ranks, environments.TorchElasticEnvironment())
    if ranks > 1 and int(environ.get("SLURM_NTASKS", 1)) > 1 and environments.SLURMEnvironment.detect():
        if (environ["SLURM_NTASKS"], environ.get("SLURM_NTASKS_PER_NODE")) != (str(ranks), str(devices)):
            raise BadInput(
                f"Slurm started {environ['SLURM_NTASKS']} tasks, and {requested}: ask it for --nodes={nodes} "
                f"--ntasks-per-node={devices}"
            )
        # Requeued by hand or not at all: Lightning's own way would resume from a checkpoint of its own.
        return Place(int(environ["SLURM_PROCID"]), ranks, environments.SLURMEnvironment(auto_requeue=False))
    environment = environments.LightningEnvironment()
    rank = environment.node_rank() * devices + environment.local_rank() if ranks > 1 else 0
    return Place(rank, ranks, environment)


def select_device(trainer, begun: str | None = None) -> tuple[str, str]:
    """The accelerator (cpu or gpu) and the precision of trainer settings on this machine.

    Args:
        begun: the precision of a run that goes on, which `auto` keeps wherever it does.

    Raises:
        BadInput: there are no GPUs, or not as many.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    accelerator, precision = trainer.accelerator, trainer.precision
    if accelerator == "gpu" and not gpus:
        raise BadInput("trainer.accelerator=gpu: no GPU is visible to torch; allowed here: cpu, auto")
    if accelerator == "auto":
        accelerator = "gpu" if gpus else "cpu"
    if accelerator == "gpu" and trainer.devices > gpus:
        raise BadInput(f"trainer.devices={trainer.devices}: torch sees {gpus} GPU(s)")
    if precision == "auto":
        usual = "bf16-mixed" if accelerator == "gpu" else "32-true"
        precision = begun or usual
        if precision != usual:
            print(f"the run goes on in {precision}, in which it began; trainer.precision=auto is {usual} here")
    if accelerator == "cpu" and precision.startswith("bf16") and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        print(f"trainer.precision={precision} crawls on this CPU, which has no bfloat16 arithmetic; 32-true is faster")
    return accelerator, precision


def select_strategy(name: str, ranks: int):
    """The strategy for Lightning's Trainer: auto and ddp by name, fsdp from models/sharding.py."""
    if name != "fsdp":
        return name
    from models.sharding import Sharded

    return Sharded(ranks)


def quiet_lightning() -> None:
    """Silence Lightning's information messages; its warnings still appear."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own use of torch's trees


def leave_group() -> None:
    """Leave the process group, whose threads might abort the process at its end."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
