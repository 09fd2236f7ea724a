"""makemore's transformer as a whole, fused: cross entropy in one line, and less kept for the backward.

The same model as `transformer_model`, which has the derivations. In one go here: cross entropy, as in
`mlp_fused`; GELU, whose forward leaves its derivative instead of three tensors (`slope`, for the lines
`inner` and `dz`); a linear layer with its bias (`addmm`); and the gradients of queries, keys and values as
parts of one tensor, which need not be put together.
"""

import torch
from torch import Tensor

from .transformer_model import CUBIC, SHAPES, SLOPE, apart, denormalise, normalise, product, together


def linear(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """Return x W + b for x (n, T, k), as one product."""
    return torch.addmm(b, x.flatten(0, 1), W).unflatten(0, x.shape[:2])


def gelu(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return GELU of z, and its derivative there."""
    half = 0.5 * (1 + torch.tanh(SLOPE * (z + CUBIC * z**3)))
    # 1 - tanh^2 = 4 half (1 - half)
    return z * half, half + 2 * z * half * (1 - half) * SLOPE * (1 + 3 * CUBIC * z**2)


def forward(
    Xb: Tensor,
    Yb: Tensor,
    E: Tensor,
    P: Tensor,
    gain1: Tensor,
    bias1: Tensor,
    Wqkv: Tensor,
    bqkv: Tensor,
    Wproj: Tensor,
    bproj: Tensor,
    gain2: Tensor,
    bias2: Tensor,
    Wfc: Tensor,
    bfc: Tensor,
    Wout: Tensor,
    bout: Tensor,
    gainf: Tensor,
    biasf: Tensor,
    Wo: Tensor,
    heads: int,
    kept: Tensor,
    dropout: float,
) -> dict[str, object]:
    """Compute the loss of words Xb, Yb (n, T).

    Dropout keeps what is True in kept, (L, 2, n, T, d) or what broadcasts to it, the share 1 - dropout.
    """
    T, d = Xb.shape[1], E.shape[1]
    scale = (d // heads) ** -0.5
    later = torch.ones(T, T, dtype=torch.bool, device=Xb.device).triu(1)  # (T, T)
    masks = kept.to(E.dtype) * (1 / (1 - dropout))  # (L, 2, n, T, d), the mean kept
    x = E[Xb] + P[:T]  # (n, T, d)
    saved = []  # of each layer, what its backward needs
    for i in range(len(gain1)):
        xhat1, inv_std1 = normalise(x)  # (n, T, d), (n, T, 1)
        qkv = linear(gain1[i] * xhat1 + bias1[i], Wqkv[i], bqkv[i])  # (n, T, 3 d)
        q, k, v = (apart(part, heads) for part in qkv.split(d, 2))  # (n, H, T, k) each
        weights = (q @ k.mT * scale).masked_fill(later, -torch.inf).softmax(3)  # (n, H, T, T)
        mixed = together(weights @ v)  # (n, T, d)
        x = x + masks[i, 0] * linear(mixed, Wproj[i], bproj[i])  # (n, T, d)
        xhat2, inv_std2 = normalise(x)  # (n, T, d), (n, T, 1)
        g, slope = gelu(linear(gain2[i] * xhat2 + bias2[i], Wfc[i], bfc[i]))  # (n, T, 4 d) each
        x = x + masks[i, 1] * linear(g, Wout[i], bout[i])  # (n, T, d)
        saved.append((xhat1, inv_std1, q, k, v, weights, mixed, xhat2, inv_std2, slope, g))
    xhatf, inv_stdf = normalise(x)  # (n, T, d), (n, T, 1)
    yf = gainf * xhatf + biasf  # (n, T, d)
    logits = yf @ Wo  # (n, T, V)
    targets = Yb.clamp(min=0)[:, :, None]  # (n, T, 1)
    counted = (Yb >= 0)[:, :, None]  # (n, T, 1)
    logprobs = logits.log_softmax(2)  # (n, T, V)
    loss = -(logprobs.gather(2, targets) * counted).sum() / counted.sum()
    return locals()


def backward(
    Xb: Tensor,
    E: Tensor,
    P: Tensor,
    gain1: Tensor,
    bias1: Tensor,
    Wqkv: Tensor,
    bqkv: Tensor,
    Wproj: Tensor,
    gain2: Tensor,
    bias2: Tensor,
    Wfc: Tensor,
    bfc: Tensor,
    Wout: Tensor,
    gainf: Tensor,
    Wo: Tensor,
    masks: Tensor,
    scale: float,
    saved: list[tuple[Tensor, ...]],
    xhatf: Tensor,
    inv_stdf: Tensor,
    yf: Tensor,
    logprobs: Tensor,
    targets: Tensor,
    counted: Tensor,
) -> dict[str, object]:
    """Compute the gradient of every parameter, and of what stands between the last layer and the loss."""
    weight = counted.to(E.dtype) / counted.sum()  # (n, T, 1): 1 / c where there is a target
    dlogits = logprobs.exp().scatter_add(2, targets, -torch.ones_like(weight)) * weight  # (n, T, V)
    dWo = product(yf, dlogits)  # (d, V)
    dyf = dlogits @ Wo.T  # (n, T, d)
    dbiasf = dyf.sum((0, 1))  # (d,)
    dgainf = (dyf * xhatf).sum((0, 1))  # (d,)
    dx = denormalise(dyf * gainf, xhatf, inv_stdf)  # (n, T, d)
    dgain1, dbias1, dgain2, dbias2, dbproj, dbout = (torch.empty_like(gain1) for _ in range(6))  # (L, d)
    dWqkv, dbqkv = torch.empty_like(Wqkv), torch.empty_like(bqkv)  # (L, d, 3 d), (L, 3 d)
    dWproj = torch.empty_like(Wproj)  # (L, d, d)
    dWfc, dbfc = torch.empty_like(Wfc), torch.empty_like(bfc)  # (L, d, 4 d), (L, 4 d)
    dWout = torch.empty_like(Wout)  # (L, 4 d, d)
    for i in reversed(range(len(gain1))):
        xhat1, inv_std1, q, k, v, weights, mixed, xhat2, inv_std2, slope, g = saved[i]
        dbranch = masks[i, 1] * dx  # (n, T, d), of the linear layers
        dbout[i] = dbranch.sum((0, 1))
        dWout[i] = product(g, dbranch)
        dz = (dbranch @ Wout[i].T) * slope  # (n, T, 4 d)
        dbfc[i] = dz.sum((0, 1))
        dWfc[i] = product(gain2[i] * xhat2 + bias2[i], dz)
        dy2 = dz @ Wfc[i].T  # (n, T, d)
        dbias2[i] = dy2.sum((0, 1))
        dgain2[i] = (dy2 * xhat2).sum((0, 1))
        dx = dx + denormalise(dy2 * gain2[i], xhat2, inv_std2)  # (n, T, d)
        dbranch = masks[i, 0] * dx  # (n, T, d), of attention
        dbproj[i] = dbranch.sum((0, 1))
        dWproj[i] = product(mixed, dbranch)
        heads = q.shape[1]
        dmixed = apart(dbranch @ Wproj[i].T, heads)  # (n, H, T, k)
        dweights = dmixed @ v.mT  # (n, H, T, T)
        dscores = weights * (dweights - (weights * dweights).sum(3, keepdim=True)) * scale  # (n, H, T, T)
        dq, dk, dv = dscores @ k, dscores.mT @ q, weights.mT @ dmixed  # (n, H, T, k) each
        dqkv = together(torch.cat([dq, dk, dv], 1))  # (n, T, 3 d)
        dbqkv[i] = dqkv.sum((0, 1))
        dWqkv[i] = product(gain1[i] * xhat1 + bias1[i], dqkv)
        dy1 = dqkv @ Wqkv[i].T  # (n, T, d)
        dbias1[i] = dy1.sum((0, 1))
        dgain1[i] = (dy1 * xhat1).sum((0, 1))
        dx = dx + denormalise(dy1 * gain1[i], xhat1, inv_std1)  # (n, T, d)
    dP = torch.zeros_like(P)  # (positions, d), of which words may use fewer
    dP[: Xb.shape[1]] = dx.sum(0)
    dE = torch.zeros_like(E).index_add(0, Xb.flatten(), dx.flatten(0, 1))  # (V, d)
    named = (*SHAPES, "logits", "yf")  # the rest is of one layer, or on the way
    return {name: value for name, value in locals().items() if name[0] == "d" and name[1:] in named}
