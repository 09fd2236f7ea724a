"""The textbook over NumPy is that over torch: the same outputs, and autograd's gradients."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backhand.learning.course import course
from backhand.passes import (
    batch_norm,
    cross_entropy,
    layer_norm,
    matrix_product,
    product,
    rnn,
    used_twice,
)


def _rnn(x: Tensor, h0: Tensor, Wx: Tensor, Wh: Tensor, b: Tensor) -> Tensor:
    weights = [Wx.T, Wh.T, b, torch.zeros_like(b)]
    return torch._VF.rnn_tanh(x, h0[None], weights, True, 1, 0.0, False, False, True)[0]


def _lstm(x: Tensor, h0: Tensor, Wx: Tensor, Wh: Tensor, b: Tensor) -> Tensor:
    """torch's, whose gates are in another order: input, forget, new, output."""
    order = [part for i in (0, 1, 3, 2) for part in [slice(i * len(Wh), (i + 1) * len(Wh))]]
    first, second, bias = (torch.cat([w[..., part] for part in order], dim=-1) for w in (Wx, Wh, b))
    weights = [first.T, second.T, bias, torch.zeros_like(bias)]
    state = (h0[None], torch.zeros_like(h0)[None])
    return torch._VF.lstm(x, state, weights, True, 1, 0.0, False, False, True)[0]


def _of(module: object, out: str, *names: str) -> Callable[..., Tensor]:
    return lambda *values: module.forward(**dict(zip(names, values, strict=True)))[out]  # type: ignore[attr-defined]


TRUTHS: dict[str, Callable[..., Tensor]] = {
    "product": _of(product, "y", "a", "b"),
    "used_twice": _of(used_twice, "y", "a", "b"),
    "broadcasting": lambda x, gain, bias: gain * x + bias,
    "matrix_product": lambda x, w, b: _of(matrix_product, "y", "x", "W", "b")(x.flatten(1), w, b),
    "relu": torch.relu,
    "embedding": lambda ix, w: F.embedding(ix, w),
    "batch_norm": _of(batch_norm, "y", "x", "gain", "bias"),
    "layer_norm": _of(layer_norm, "y", "x", "gain", "bias"),
    "softmax_loss": _of(cross_entropy, "loss", "logits", "targets"),
    "convolution": lambda x, w, b: F.conv2d(x, w, b, padding=1),
    "convolution_by_columns": lambda x, w, b: F.conv2d(x, w, b, padding=1),
    "max_pool": lambda x: F.max_pool2d(x, 2),
    "rnn": _rnn,
    "lstm": _lstm,
}


@pytest.mark.parametrize("exercise", course(numpy=True), ids=lambda e: e.name)
def test_a_pass_over_numpy_is_that_over_torch(exercise):
    torch.set_default_dtype(torch.float64)
    try:
        module, rng = exercise.solution, np.random.default_rng(1)
        drawn = module.inputs(rng)
        tensors = {n: torch.from_numpy(v).requires_grad_(v.dtype == float) for n, v in drawn.items()}
        expected = TRUTHS[exercise.name](*tensors.values())
        out, cache = module.forward(**drawn)
        np.testing.assert_allclose(out, expected.detach().numpy(), rtol=1e-10)
        dout = rng.normal(size=np.shape(out)) if np.ndim(out) else np.ones(())
        leaves = [t for t in tensors.values() if t.requires_grad]
        truth = torch.autograd.grad(expected, leaves, torch.from_numpy(dout))
        given = module.backward(dout, cache) if np.ndim(out) else module.backward(cache)
        for own, right in zip(given if isinstance(given, tuple) else (given,), truth, strict=True):
            np.testing.assert_allclose(own, right.numpy(), rtol=1e-8, atol=1e-12)
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_recurrent_layer_is_the_textbooks_where_it_begins_at_zero():
    module = next(e.solution for e in course(numpy=True) if e.name == "rnn")
    drawn = module.inputs(np.random.default_rng(2))
    drawn["h0"] = np.zeros_like(drawn["h0"])
    x, _, Wx, Wh, b = (torch.from_numpy(v) for v in drawn.values())
    states = rnn.forward(x.transpose(0, 1), Wx, Wh, b, torch.eye(len(Wh), dtype=torch.float64))["ys"]
    np.testing.assert_allclose(module.forward(**drawn)[0], states.transpose(0, 1).numpy(), rtol=1e-10)
