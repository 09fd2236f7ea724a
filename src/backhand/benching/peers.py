"""What one would use instead of an engine, written as an `Engine`: the lecture's loop, torch.compile, JAX."""

import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from backhand.engines import ENGINES, Engine, Running
from backhand.engines.stepping import Parameters
from backhand.passes import mlp_fused

NAMES = ("C", "W1", "b1", "W2", "b2", "bngain", "bnbias")


def lecture(
    parameters: Parameters, Xs: Tensor, Ys: Tensor, rates: Sequence[float], running: Running | None = None
) -> Tensor:
    """Train as the lecture's loop does: PyTorch's autograd, an operation at a time."""
    C, W1, b1, W2, b2, bngain, bnbias = leaves = [
        parameters[name].detach().clone().requires_grad_() for name in NAMES
    ]
    losses = []
    for Xb, Yb, rate in zip(Xs, Ys, rates, strict=True):
        embcat = C[Xb].view(Xb.shape[0], -1)
        hprebn = embcat @ W1 + b1
        bnmean, bnvar = hprebn.mean(0, keepdim=True), hprebn.var(0, keepdim=True, unbiased=True)
        h = torch.tanh(bngain * (hprebn - bnmean) * (bnvar + 1e-5) ** -0.5 + bnbias)
        loss = F.cross_entropy(h @ W2 + b2, Yb)
        for p in leaves:
            p.grad = None
        loss.backward()
        for p in leaves:
            assert p.grad is not None
            p.data += -rate * p.grad
        losses.append(loss.item())
    for name, p in zip(NAMES, leaves, strict=True):
        parameters[name].copy_(p.detach())
    return torch.tensor(losses)


@cache
def compiled_step() -> Callable[..., Tensor]:
    """Return torch.compile's version of the hand-written step.

    The update is `p.sub_(rate * grad)`: of `p.add_(grad, alpha=-rate)`, where `grad` is a product,
    torch.compile (2.13, on a CPU) loses the alpha, and the model climbs.
    """

    def step(Xb: Tensor, Yb: Tensor, rate: Tensor, *values: Tensor) -> Tensor:
        f = mlp_fused.forward(Xb, Yb, *values)
        asked = ("Xb", "Yb", "C", "W1", "W2", "bngain", "emb", "embcat", "bnvar_inv", "bnraw", "h", "logits")
        gradients = mlp_fused.backward(**{name: f[name] for name in asked})
        for name, p in zip(NAMES, values, strict=True):
            p.sub_(rate * gradients[f"d{name}"])
        return f["loss"]

    return torch.compile(step, dynamic=False)


@torch.no_grad()
def compiled(
    parameters: Parameters, Xs: Tensor, Ys: Tensor, rates: Sequence[float], running: Running | None = None
) -> Tensor:
    """Train with the hand-written step under torch.compile."""
    step, values = compiled_step(), [parameters[name] for name in NAMES]
    rate = torch.tensor(rates)
    return torch.stack([step(*b, *values).clone() for b in zip(Xs, Ys, rate, strict=True)])


@cache
def jax_scan() -> tuple[Any, Any]:
    """Return jax.numpy, and the steps as one jitted `lax.scan`; on one core."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    jax: Any = import_module("jax")
    jnp = jax.numpy

    def loss_of(values: tuple[Any, ...], Xb: Any, Yb: Any) -> Any:
        C, W1, b1, W2, b2, bngain, bnbias = values
        hprebn = C[Xb].reshape(len(Xb), -1) @ W1 + b1
        bnmean, bnvar = hprebn.mean(0, keepdims=True), hprebn.var(0, keepdims=True, ddof=1)
        h = jnp.tanh(bngain * (hprebn - bnmean) * (bnvar + 1e-5) ** -0.5 + bnbias)
        logprobs = jax.nn.log_softmax(h @ W2 + b2)
        return -jnp.take_along_axis(logprobs, Yb[:, None], 1).mean()

    def step(values: tuple[Any, ...], minibatch: tuple[Any, Any, Any]) -> Any:
        Xb, Yb, rate = minibatch
        loss, gradients = jax.value_and_grad(loss_of)(values, Xb, Yb)
        return tuple(p - rate * g for p, g in zip(values, gradients, strict=True)), loss

    return jnp, jax.jit(lambda values, *batches: jax.lax.scan(step, values, batches))


def jax_peer(
    parameters: Parameters, Xs: Tensor, Ys: Tensor, rates: Sequence[float], running: Running | None = None
) -> Tensor:
    """Train with JAX: jit and lax.scan over the steps, gradients by its autodiff."""
    jnp, scan = jax_scan()
    values = tuple(jnp.asarray(parameters[name].numpy()) for name in NAMES)
    batches = (jnp.asarray(Xs.int().numpy()), jnp.asarray(Ys.int().numpy()), jnp.asarray(rates, "float32"))
    values, losses = scan(values, *batches)
    for name, p in zip(NAMES, values, strict=True):
        parameters[name].copy_(torch.tensor(p.__array__()))
    return torch.tensor(losses.__array__())


def on_gpu(
    parameters: Parameters, Xs: Tensor, Ys: Tensor, rates: Sequence[float], running: Running | None = None
) -> Tensor:
    """Train with the fused engine as a CUDA graph; minibatches and parameters are taken there and back."""
    moved = {name: p.cuda() for name, p in parameters.items()}
    losses = ENGINES["fused"](moved, Xs.cuda(), Ys.cuda(), rates, running).cpu()
    for name, p in moved.items():
        parameters[name].copy_(p)
    return losses


PEERS: dict[str, Engine] = {"lecture's loop": lecture, "torch.compile": compiled, "JAX jit + scan": jax_peer}
if torch.cuda.is_available():
    PEERS["fused, CUDA graph"] = on_gpu
