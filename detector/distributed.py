"""Distributed training: processes started by torchrun, one per GPU with NCCL, or on the CPU with gloo."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the other processes, if torchrun started this one. Yields the device of this process."""
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set in any process. Every process must call this."""
    if world_size() == 1:
        return flag
    votes = torch.tensor(float(flag), device=device)
    dist.all_reduce(votes)
    return bool(votes > 0)


def on_first_rank(work: Callable[[], T]) -> T:
    """Run `work` on rank 0 and return its result on all ranks. Its error is raised on all ranks too."""
    if world_size() == 1:
        return work()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = work()
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def gather(part: list[T]) -> list[T]:
    """The parts of all processes, concatenated, on every process."""
    if world_size() == 1:
        return part
    parts: list[list[T]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, part)
    return [item for part in parts for item in part]


def broadcast_buffers(model: nn.Module) -> None:
    """Copy rank 0's running statistics to all ranks, since they differ a little."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def sync_batch_norm(model: M, device: torch.device) -> M:
    """The model with batch norms synchronized over processes, which PyTorch supports on GPUs only."""
    if world_size() == 1 or device.type != "cuda":
        return model
    return cast(M, nn.SyncBatchNorm.convert_sync_batchnorm(model))


def data_parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """The model wrapped in DistributedDataParallel, if there are several processes."""
    if world_size() == 1:
        return model
    return nn.parallel.DistributedDataParallel(model, [device] if device.type == "cuda" else None)


def reduce_gradients(model: nn.Module, share: bool) -> AbstractContextManager[None]:
    """A context for a backward pass. `share`: average the gradients over processes now; else only accumulate them."""
    if share or not isinstance(model, nn.parallel.DistributedDataParallel):
        return nullcontext()
    return model.no_sync()


class _SumOverRanks(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return sum_over_ranks(values.clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return sum_over_ranks(grad.clone())


def sum_with_gradient(values: Tensor) -> Tensor:
    """The sum over processes, whose gradient is the sum of all processes' gradients."""
    return _SumOverRanks.apply(values) if world_size() > 1 else values


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over processes; the host does not wait for it."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values
