"""The models of whole words as one would write them in JAX: jit, `lax.scan` over the steps, AdamW by hand.

JAX is no dependency: where it is not installed, importing it fails when the contender is first run.
"""

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backhand.engines.adamw import BETA1, BETA2, EPSILON

from .word_peers import Parameters

Arrays = dict[str, Any]
"""JAX's, by the names of parameters."""


def rnn(jax: Any, p: Arrays, X: Any, heads: int) -> Any:
    """Logits of makemore's rnn; what the inputs add is one product for all positions."""
    h, states = jax.numpy.broadcast_to(p["h0"], (len(X), p["h0"].shape[1])), []
    inputs = p["E"][X] @ p["Wx"] + p["b"]  # (n, T, m)
    for t in range(X.shape[1]):
        h = jax.numpy.tanh(inputs[:, t] + h @ p["Wh"])
        states.append(h)
    return jax.numpy.stack(states, 1) @ p["Wo"] + p["bo"]


def gru(jax: Any, p: Arrays, X: Any, heads: int) -> Any:
    """Logits of makemore's gru."""
    m = p["h0"].shape[1]
    h, states = jax.numpy.broadcast_to(p["h0"], (len(X), m)), []
    inputs = p["E"][X] @ p["Wx"] + p["b"]  # (n, T, 3 m)
    for t in range(X.shape[1]):
        rz = jax.nn.sigmoid(inputs[:, t, : 2 * m] + h @ p["Wh"])
        r, z = rz[:, :m], rz[:, m:]
        candidate = jax.numpy.tanh(inputs[:, t, 2 * m :] + (r * h) @ p["Wn"])
        h = (1 - z) * h + z * candidate
        states.append(h)
    return jax.numpy.stack(states, 1) @ p["Wo"] + p["bo"]


def transformer(jax: Any, p: Arrays, X: Any, heads: int) -> Any:
    """Logits of makemore's transformer."""
    jnp, (n, T), (L, d) = jax.numpy, X.shape, p["gain1"].shape

    def normal(x: Any, gain: Any, bias: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        return centred * (jnp.square(centred).mean(-1, keepdims=True) + 1e-5) ** -0.5 * gain + bias

    x = p["E"][X] + p["P"][:T]
    earlier = jnp.tril(jnp.ones((T, T), bool))
    for i in range(L):
        parts = normal(x, p["gain1"][i], p["bias1"][i]) @ p["Wqkv"][i] + p["bqkv"][i]
        q, k, v = parts.reshape(n, T, 3, heads, d // heads).transpose(2, 0, 3, 1, 4)
        scores = jnp.where(earlier, q @ k.swapaxes(2, 3) * (d // heads) ** -0.5, -jnp.inf)
        mixed = (jax.nn.softmax(scores) @ v).swapaxes(1, 2).reshape(n, T, d)
        x = x + mixed @ p["Wproj"][i] + p["bproj"][i]
        y = normal(x, p["gain2"][i], p["bias2"][i])
        x = x + jax.nn.gelu(y @ p["Wfc"][i] + p["bfc"][i], approximate=True) @ p["Wout"][i] + p["bout"][i]
    return normal(x, p["gainf"], p["biasf"]) @ p["Wo"]


MODELS: dict[str, Callable[..., Any]] = {"rnn": rnn, "gru": gru, "transformer": transformer}


@cache
def scanned(kind: str, heads: int, rate: float, weight_decay: float) -> tuple[Any, Any]:
    """Return jax.numpy, and the steps as one jitted `lax.scan`; on one core."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    jax: Any = import_module("jax")
    jnp, tree = jax.numpy, jax.tree.map

    def loss_of(p: Arrays, X: Any, Y: Any) -> Any:
        logprobs = jax.nn.log_softmax(MODELS[kind](jax, p, X, heads))
        of_targets = jnp.take_along_axis(logprobs, jnp.maximum(Y, 0)[:, :, None], 2)[:, :, 0]
        return -jnp.where(Y >= 0, of_targets, 0).sum() / (Y >= 0).sum()

    def step(state: Any, minibatch: tuple[Any, Any]) -> Any:
        p, first, second, t = state
        loss, g = jax.value_and_grad(loss_of)(p, *minibatch)
        first = tree(lambda m, g: BETA1 * m + (1 - BETA1) * g, first, g)
        second = tree(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, second, g)
        pace, root = rate / (1 - BETA1**t), (1 - BETA2**t) ** 0.5

        def update(p: Any, m: Any, v: Any) -> Any:
            return p * (1 - rate * weight_decay) - pace * m / (jnp.sqrt(v) / root + EPSILON)

        return (tree(update, p, first, second), first, second, t + 1), loss

    def steps(p: Arrays, Xs: Any, Ys: Any) -> Any:
        zeros = tree(jnp.zeros_like, p)
        return jax.lax.scan(step, (p, zeros, zeros, 1.0), (Xs, Ys))[1]

    return jnp, jax.jit(steps)


def losses(
    kind: str, parameters: Parameters, Xs: Tensor, Ys: Tensor, heads: int, rate: float, weight_decay: float
) -> Tensor:
    """Train a copy of the parameters; return the loss of each step."""
    jnp, steps = scanned(kind, heads, rate, weight_decay)
    p = {name: jnp.asarray(values.numpy()) for name, values in parameters.items()}
    return torch.from_numpy(np.array(steps(p, jnp.asarray(Xs.int().numpy()), jnp.asarray(Ys.int().numpy()))))
