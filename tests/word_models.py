"""The models of whole words as one would write them in PyTorch, trained by autograd and torch's AdamW."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Parameters = dict[str, Tensor]

Model = Callable[[Parameters, Tensor, int], Tensor]
"""Returns logits (n, T, V) for parameters, words (n, T) and the number of the step."""


def shapes_of(kind: str, *, V: int, e: int, m: int, T: int = 16) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's parameters; of a transformer, m numbers in a row of each of two layers."""
    if kind == "transformer":
        return transformer_shapes(V, T, 2, m)
    ends = {"Wo": (m, V), "bo": (V,)}
    if kind == "rnn":
        return {"E": (V, e), "h0": (1, m), "Wx": (e, m), "Wh": (m, m), "b": (m,), **ends}
    gates = {"Wx": (e, 3 * m), "Wh": (m, 2 * m), "Wn": (m, m), "b": (3 * m,)}
    return {"E": (V, e), "h0": (1, m), **gates, **ends}


def transformer_shapes(V: int, T: int, L: int, d: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a transformer's parameters."""
    attention = {"Wqkv": (L, d, 3 * d), "bqkv": (L, 3 * d), "Wproj": (L, d, d), "bproj": (L, d)}
    wide = {"Wfc": (L, d, 4 * d), "bfc": (L, 4 * d), "Wout": (L, 4 * d, d), "bout": (L, d)}
    norms = [{f"gain{i}": (L, d), f"bias{i}": (L, d)} for i in (1, 2)]
    ends = {"gainf": (d,), "biasf": (d,), "Wo": (d, V)}
    return {"E": (V, d), "P": (T, d), **norms[0], **attention, **norms[1], **wide, **ends}


def draw(shapes: dict[str, tuple[int, ...]]) -> Parameters:
    """Random parameters, of a size with which a model learns."""
    return {name: torch.randn(shape) * 0.2 for name, shape in shapes.items()}


def rnn(p: Parameters, X: Tensor) -> Tensor:
    """Logits of makemore's rnn."""
    h, states = p["h0"].expand(len(X), -1), []
    for x in p["E"][X].unbind(1):
        h = torch.tanh(x @ p["Wx"] + h @ p["Wh"] + p["b"])
        states.append(h)
    return torch.stack(states, 1) @ p["Wo"] + p["bo"]


def gru(p: Parameters, X: Tensor) -> Tensor:
    """Logits of makemore's gru."""
    m = p["h0"].shape[1]
    h, states = p["h0"].expand(len(X), -1), []
    for x in p["E"][X].unbind(1):
        a = x @ p["Wx"] + p["b"]
        r, z = torch.sigmoid(a[:, : 2 * m] + h @ p["Wh"]).split(m, 1)
        candidate = torch.tanh(a[:, 2 * m :] + (r * h) @ p["Wn"])
        h = (1 - z) * h + z * candidate
        states.append(h)
    return torch.stack(states, 1) @ p["Wo"] + p["bo"]


def transformer(p: Parameters, X: Tensor, heads: int, masks: Tensor | None = None) -> Tensor:
    """Logits of makemore's transformer, whose branches are multiplied with masks (L, 2, n, T, d)."""
    (n, T), (L, d) = X.shape, p["gain1"].shape
    x = p["E"][X] + p["P"][:T]
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    for i in range(L):
        first, second = (1, 1) if masks is None else masks[i]
        y = F.layer_norm(x, (d,), p["gain1"][i], p["bias1"][i])
        parts = (y @ p["Wqkv"][i] + p["bqkv"][i]).split(d, 2)
        q, k, v = (part.view(n, T, heads, d // heads).transpose(1, 2) for part in parts)
        scores = (q @ k.mT * (d // heads) ** -0.5).masked_fill(later, -torch.inf)
        mixed = (scores.softmax(3) @ v).transpose(1, 2).reshape(n, T, d)
        x = x + first * (mixed @ p["Wproj"][i] + p["bproj"][i])
        y = F.layer_norm(x, (d,), p["gain2"][i], p["bias2"][i])
        y = F.gelu(y @ p["Wfc"][i] + p["bfc"][i], approximate="tanh")
        x = x + second * (y @ p["Wout"][i] + p["bout"][i])
    return F.layer_norm(x, (d,), p["gainf"], p["biasf"]) @ p["Wo"]


def train(
    model: Model,
    parameters: Parameters,
    Xs: Tensor,
    Ys: Tensor,
    rates: Sequence[float],
    weight_decay: float,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Parameters]:
    """Train a copy by autograd and AdamW; return the losses, and the copy."""
    p = {name: values.to(dtype).requires_grad_() for name, values in parameters.items()}
    adamw = torch.optim.AdamW(p.values(), betas=(0.9, 0.99), eps=1e-8, weight_decay=weight_decay)
    losses = []
    for step, (X, Y, rate) in enumerate(zip(Xs, Ys, rates, strict=True)):
        adamw.param_groups[0]["lr"] = rate
        loss = F.cross_entropy(model(p, X, step).flatten(0, 1), Y.flatten(), ignore_index=-1)
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        losses.append(loss.detach())
    return torch.stack(losses), {name: values.detach() for name, values in p.items()}


def batch(words: Sequence[Sequence[int]], T: int) -> tuple[Tensor, Tensor]:
    """Words of symbols from 1 as X and Y (n, T), as makemore has them; what is longer than T - 1 is cut."""
    X, Y = torch.zeros(len(words), T, dtype=torch.int64), torch.full((len(words), T), -1)
    for i, whole in enumerate(words):
        word = torch.tensor(list(whole[: T - 1]), dtype=torch.int64)
        X[i, 1 : len(word) + 1] = Y[i, : len(word)] = word
        Y[i, len(word)] = 0
    return X, Y


def random_batches(steps: int, n: int, T: int, V: int) -> tuple[Tensor, Tensor]:
    """Minibatches of random words, from empty ones to those that fill all positions, many beginning alike."""
    batches = []
    for _ in range(steps):
        words = [torch.randint(1, V, (size,)).tolist() for size in torch.randint(0, T, (n,)).tolist()]
        for i in range(1, n, 3):
            words[i] = words[i - 1][: len(words[i])] + words[i]
        batches.append(batch(words, T))
    return torch.stack([X for X, _ in batches]), torch.stack([Y for _, Y in batches])
