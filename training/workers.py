"""One process or several that train together: what each computes, and what they agree on.

Several are started by torchrun, which tells each its place in the environment; torch's DistributedDataParallel averages
their gradients. Hugging Face's accelerate would replace about twenty lines of this, but not `leave` nor `share`.
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

from training.config import ConfigError


@dataclass(frozen=True)
class Workers:
    """This process's place among `count` that train one model, and the device that it computes on."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Does this process write and print?"""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's rows of a batch that all of them know."""
        return rows[self.rank :: self.count]

    def parallel(self, module: nn.Module) -> nn.Module:
        """`module`, its gradients averaged over the processes; compiled, with CUDA graphs, on a GPU."""
        if self.device.type == "cuda":
            module.compile(mode="reduce-overhead", dynamic=False)
        if self.count == 1:
            return module
        return DistributedDataParallel(module, [self.device] if self.device.type == "cuda" else None)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of `tensor` over the processes."""
        if self.count > 1:
            tensor = tensor.clone()
            distributed.all_reduce(tensor)
        return tensor

    def leave(self) -> None:
        """End this process, unless it is the first, without Python's own end.

        A thread of gloo's lets go of the last sum's tensor after it has come, and aborts the process if Python ends
        meanwhile. Destroying the group does not wait for it: DistributedDataParallel holds on to it (torch 2.14).
        """
        if not self.first:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let the first process go through the body before the others do: it downloads or decodes for all."""
        if self.count > 1 and not self.first:
            distributed.barrier()
        yield
        if self.count > 1 and self.first:
            distributed.barrier()


@contextmanager
def join_workers(device: str) -> Iterator[Workers]:
    """This process among those that torchrun started, or alone; raises ConfigError for a device that is not there."""
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = resolve_device(device)
    if count == 1:
        yield Workers(0, 1, chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Workers(rank, count, chosen)
    finally:
        distributed.destroy_process_group()


def resolve_device(name: str) -> torch.device:
    """The device called `name`, the machine's GPU or else its processor for `auto`; raises ConfigError."""
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"--device is {name}, which cannot be used here; auto or cpu can.") from error
