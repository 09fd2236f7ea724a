"""Train each pass in two processes, beside one: python bridging.py ddp|fsdp2 FILE PASS...

Prints a JSON object: for each pass, "same" or what is not. FILE is where the processes find each other.
"""

import importlib
import json
import sys
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import backhand
from test_bridge import drawn, floats


class Net(nn.Module):
    """A pass whose inputs are all parameters; FSDP2 takes no scalars, so that each has an axis in front."""

    def __init__(self, textbook: ModuleType) -> None:
        super().__init__()
        given = drawn(textbook)  # in float64, in which a sum in another order is the same to nine digits
        self.inputs: dict[str, Any] = given | {name: given[name].double() for name in floats(given)}
        self.wired = backhand.differentiable(textbook)
        self.leaves = nn.ParameterDict({name: self.inputs[name][None] for name in floats(self.inputs)})

    def forward(self, factor: Tensor) -> Tensor:
        leaves = {name: leaf[0] for name, leaf in self.leaves.items()}
        return factor * self.wired(**{**self.inputs, **leaves}).square().sum()


def compared(textbook: ModuleType, kind: str, rank: int) -> str:
    """Say whether two processes, of which the second weighs twice, have gradients of one that weighs 1.5."""
    alone, net = Net(textbook), Net(textbook)
    alone(torch.tensor(1.5, dtype=torch.float64)).backward()
    if kind == "ddp":
        whole = nn.parallel.DistributedDataParallel(net)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        whole = fully_shard(net, mesh=init_device_mesh("cpu", (2,)))
    whole(torch.tensor(rank + 1.0, dtype=torch.float64)).backward()
    for (name, p), q in zip(net.leaves.items(), alone.leaves.values(), strict=True):
        gradient = p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
        told = {"msg": lambda m, name=name: f"{name}: {m}"}
        torch.testing.assert_close(gradient, q.grad, rtol=1e-9, atol=1e-9, **told)
    return "same"


def work(rank: int, kind: str, meeting: str, names: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    found = {}
    for name in names:
        try:
            found[name] = compared(importlib.import_module(f"backhand.passes.{name}"), kind, rank)
        except Exception as error:
            found[name] = repr(error)
    if rank == 0:
        sys.stdout.write(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, (sys.argv[1], sys.argv[2], sys.argv[3:]), nprocs=2)
