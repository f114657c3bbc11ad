"""Training in one process or in several.

torchrun starts several processes and sets RANK and WORLD_SIZE; DistributedDataParallel averages their gradients.
Hugging Face's accelerate would replace about twenty lines of this, but neither `leave` nor `shard`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from training.config.options import ConfigError


@dataclass(frozen=True)
class Processes:
    """This process among `world_size` that train one model, and its device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def shard(self, rows: Tensor) -> Tensor:
        """Return this process's rows of a batch that every process has."""
        return rows[self.rank :: self.world_size]

    def parallel(self, module: nn.Module) -> nn.Module:
        """Average the gradients of `module` over the processes; on a GPU compile it with CUDA graphs."""
        if self.device.type == "cuda":
            module.compile(mode="reduce-overhead", dynamic=False)
        if self.world_size == 1:
            return module
        return DistributedDataParallel(module, [self.device] if self.device.type == "cuda" else None)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum of `tensor` over the processes."""
        if self.world_size > 1:
            tensor = tensor.clone()
            distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true in any of the processes."""
        return bool(self.all_reduce(torch.tensor(float(flag), device=self.device)))

    def leave(self) -> None:
        """End this process, unless it is the main one, without finalising the interpreter.

        A gloo thread releases the last reduced tensor late, and aborts the process if Python finalises meanwhile.
        Destroying the group does not wait for that thread: DistributedDataParallel keeps it alive (torch 2.14).
        """
        if not self.is_main_process:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run the body in the main process first, because it downloads or decodes for all of them."""
        if self.world_size > 1 and not self.is_main_process:
            distributed.barrier()
        yield
        if self.world_size > 1 and self.is_main_process:
            distributed.barrier()


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, if any; raises ConfigError for a device that cannot be used."""
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = resolve_device(device)
    if count == 1:
        yield Processes(0, 1, chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(rank, count, chosen)
    finally:
        distributed.destroy_process_group()


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` is the GPU, or the CPU without one. Raises ConfigError."""
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"--device is {name}, which cannot be used here; auto or cpu can.") from error
