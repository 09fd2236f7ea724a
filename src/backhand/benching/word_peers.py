"""The models of whole words as one would write them in PyTorch: autograd, torch's AdamW, torch.compile."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from backhand.engines.axes import shape_of
from backhand.engines.textbooks import textbook

Parameters = dict[str, Tensor]

Model = Callable[[Parameters, Tensor, int], Tensor]
"""Returns logits (n, T, V) for parameters, words (n, T) and the number of the step."""


def shapes_of(kind: str, *, V: int, e: int, m: int, T: int = 16, L: int = 2) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's parameters; a transformer has rows of m numbers, T positions and L layers."""
    sizes = {"V": V, "e": e, "m": m, "d": m, "T": T, "L": L, "1": 1}
    return {name: shape_of(axes, sizes) for name, axes in textbook(kind).axes.items()}


def draw(shapes: dict[str, tuple[int, ...]], generator: torch.Generator | None = None) -> Parameters:
    """Random parameters, of a size with which a model learns."""
    return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}


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


def plain_model(kind: str, heads: int = 4) -> Model:
    """Return the logits of a model without dropout."""
    if kind == "transformer":
        return lambda p, X, step: transformer(p, X, heads)
    recurrent = {"rnn": rnn, "gru": gru}[kind]
    return lambda p, X, step: recurrent(p, X)


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
    p = {name: values.detach().clone().to(dtype).requires_grad_() for name, values in parameters.items()}
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
