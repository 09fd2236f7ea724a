"""Autograd's graph walked from name to name gives what autograd's own engine gives."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from backhand.checking.running import private
from backhand.checking.running.graph import from_graph


def written_into_slices(x: torch.Tensor, w: torch.Tensor) -> dict[str, Any]:
    y = torch.zeros(4, 12, dtype=x.dtype)
    y[:, :6] = x
    y[:, 6:] = w * x
    z = y.sin()
    loss = (z * z).sum()
    return locals()


def several_results(x: torch.Tensor, w: torch.Tensor) -> dict[str, Any]:
    a, b = (x * w).split(3, 1)
    top = a.max(1).values
    spread, mean = torch.std_mean(b.cumsum(1))
    loss = top.sum() * spread + mean
    return locals()


def views_and_broadcasts(x: torch.Tensor, w: torch.Tensor) -> dict[str, Any]:
    u = torch.einsum("ij,kj->ik", x, w)
    t = u.expand(2, 4, 4).transpose(1, 2).contiguous().view(2, -1)
    loss = (t.exp() * x[0, 0]).sum()
    return locals()


def changed_in_place(x: torch.Tensor, w: torch.Tensor) -> dict[str, Any]:
    s = x.clone()
    s.add_(w)
    s[:, 0] *= 2
    loss = (s * x).sum()
    return locals()


def computed_again(x: torch.Tensor, w: torch.Tensor) -> dict[str, Any]:
    c = checkpoint(lambda a, b: (a * b).sin() * a, x, w, use_reentrant=False)
    loss = (c * c).sum()
    return locals()


def gathered_and_scattered(x: torch.Tensor, w: torch.Tensor) -> dict[str, Any]:
    index = torch.tensor([0, 2, 2])
    y = x[index] * w[:3]
    z = y.index_add(0, torch.tensor([0, 1, 1]), y.tanh())
    loss = z.logsumexp(1).sum()
    return locals()


def whole_layers(x: torch.Tensor, w: torch.Tensor) -> dict[str, Any]:
    normed = F.layer_norm(x, (6,))
    mixed = F.scaled_dot_product_attention(normed[None], w[None], (x * w)[None])
    loss = F.cross_entropy(mixed[0], torch.tensor([0, 1, 5, 0]))
    return locals()


@pytest.mark.parametrize(
    "forward",
    [
        written_into_slices,
        several_results,
        views_and_broadcasts,
        changed_in_place,
        computed_again,
        gathered_and_scattered,
        whole_layers,
    ],
)
@pytest.mark.parametrize("called", [True, False])
def test_what_arrives_through_all_consumers_is_autograds_gradient(
    forward: Any, called: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not called:  # but asked of autograd, and in an order of our own
        for part in ("NUMBERED", "RESULTS", "CALLED", "APPLIED"):
            monkeypatch.setattr(private, part, False)
    inputs = {name: torch.randn(4, 6, dtype=torch.float64, requires_grad=True) for name in ("x", "w")}
    values = {**inputs, **forward(**inputs)}
    trace = from_graph(
        inputs, values, {"loss": values["loss"]}, {"dloss": torch.ones((), dtype=torch.float64)}
    )
    inner = [name for name in trace.tensors if name != "loss"]
    assert len(inner) > 2
    found = trace.arriving(trace.gradients, inner)
    for name in inner:
        torch.testing.assert_close(found[name], trace.gradients[name], rtol=1e-12, atol=1e-14)
