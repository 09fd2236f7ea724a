r"""makemore's transformer as a whole (Vaswani et al. 2017, layer norm first as in GPT-2), with cross entropy.

Each of L layers adds to the residual stream x what attention makes of it, and then what two linear layers
with GELU (Hendrycks and Gimpel 2016, the tanh form) between them make of it; both branches begin with layer
norm and end with dropout, a mask to multiply with. The parameters of the layers are stacked. Words, targets
and loss are those of `rnn_model`.

Layer norm: y = gain xhat + bias with xhat = (x - mean) / std over the d numbers of a position; for xhat's
gradient D, x's is (D - mean(D) - xhat mean(D xhat)) / std. A softmax row p with gradient D sends back
p (D - sum(p D)). Shapes: n words, T positions, V symbols, d numbers a position, H heads of k = d / H.
"""

import torch
from torch import Tensor

SHAPES = {
    "E": "V d",
    "P": "T d",
    "gain1": "L d",
    "bias1": "L d",
    "Wqkv": "L d 3d",
    "bqkv": "L 3d",
    "Wproj": "L d d",
    "bproj": "L d",
    "gain2": "L d",
    "bias2": "L d",
    "Wfc": "L d 4d",
    "bfc": "L 4d",
    "Wout": "L 4d d",
    "bout": "L d",
    "gainf": "d",
    "biasf": "d",
    "Wo": "d V",
}
"""The axes of each parameter; 3d are three blocks of d."""

EPSILON = 1e-5
SLOPE = (2 / torch.pi) ** 0.5  # GELU: z (1 + tanh(SLOPE (z + CUBIC z^3))) / 2
CUBIC = 0.044715


def normalise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return layer norm's xhat (n, T, d), and 1 / std (n, T, 1)."""
    centred = x - x.mean(2, keepdim=True)
    inv_std = (centred.square().mean(2, keepdim=True) + EPSILON) ** -0.5
    return centred * inv_std, inv_std


def denormalise(dxhat: Tensor, xhat: Tensor, inv_std: Tensor) -> Tensor:
    """Return the gradient of layer norm's x for that of its xhat."""
    sideways = xhat * (dxhat * xhat).mean(2, keepdim=True)
    return inv_std * (dxhat - dxhat.mean(2, keepdim=True) - sideways)


def apart(x: Tensor, heads: int) -> Tensor:
    """Return (n, T, d) as (n, H, T, k), a block of columns a head."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def together(x: Tensor) -> Tensor:
    """Return (n, H, T, k) as (n, T, d); the gradient of `apart`, as `apart` is this one's."""
    return x.transpose(1, 2).flatten(2)


def product(x: Tensor, dy: Tensor) -> Tensor:
    """Return the gradient of W in y = x W, over all words and positions."""
    return x.flatten(0, 1).T @ dy.flatten(0, 1)


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
        y1 = gain1[i] * xhat1 + bias1[i]  # (n, T, d)
        qkv = y1 @ Wqkv[i] + bqkv[i]  # (n, T, 3 d)
        q, k, v = (apart(part, heads) for part in qkv.split(d, 2))  # (n, H, T, k) each
        scores = (q @ k.mT * scale).masked_fill(later, -torch.inf)  # (n, H, T, T)
        weights = scores.softmax(3)  # (n, H, T, T)
        mixed = together(weights @ v)  # (n, T, d)
        x = x + masks[i, 0] * (mixed @ Wproj[i] + bproj[i])  # (n, T, d)
        xhat2, inv_std2 = normalise(x)  # (n, T, d), (n, T, 1)
        y2 = gain2[i] * xhat2 + bias2[i]  # (n, T, d)
        z = y2 @ Wfc[i] + bfc[i]  # (n, T, 4 d)
        tanh = torch.tanh(SLOPE * (z + CUBIC * z**3))  # (n, T, 4 d)
        g = 0.5 * z * (1 + tanh)  # (n, T, 4 d), GELU
        x = x + masks[i, 1] * (g @ Wout[i] + bout[i])  # (n, T, d)
        saved.append((xhat1, inv_std1, y1, q, k, v, weights, mixed, xhat2, inv_std2, y2, z, tanh, g))
    xhatf, inv_stdf = normalise(x)  # (n, T, d), (n, T, 1)
    yf = gainf * xhatf + biasf  # (n, T, d)
    logits = yf @ Wo  # (n, T, V)
    logprobs = logits.log_softmax(2)  # (n, T, V)
    targets = Yb.clamp(min=0)[:, :, None]  # (n, T, 1)
    counted = (Yb >= 0)[:, :, None]  # (n, T, 1)
    loss = -(logprobs.gather(2, targets) * counted).sum() / counted.sum()
    return locals()


def backward(
    Xb: Tensor,
    E: Tensor,
    P: Tensor,
    gain1: Tensor,
    Wqkv: Tensor,
    bqkv: Tensor,
    Wproj: Tensor,
    gain2: Tensor,
    Wfc: Tensor,
    bfc: Tensor,
    Wout: Tensor,
    gainf: Tensor,
    Wo: Tensor,
    heads: int,
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
    dpicked = -counted.to(E.dtype) / counted.sum()  # (n, T, 1), of each target's log probability
    dlogprobs = torch.zeros_like(logprobs).scatter(2, targets, dpicked)  # (n, T, V)
    dlogits = dlogprobs - logprobs.exp() * dlogprobs.sum(2, keepdim=True)  # (n, T, V)
    dWo = product(yf, dlogits)  # (d, V)
    dyf = dlogits @ Wo.T  # (n, T, d)
    dbiasf = dyf.sum((0, 1))  # (d,)
    dgainf = (dyf * xhatf).sum((0, 1))  # (d,)
    dx = denormalise(dyf * gainf, xhatf, inv_stdf)  # (n, T, d)
    dgain1, dbias1, dgain2, dbias2, dbproj, dbout = (torch.zeros_like(gain1) for _ in range(6))  # (L, d)
    dWqkv, dbqkv = torch.zeros_like(Wqkv), torch.zeros_like(bqkv)  # (L, d, 3 d), (L, 3 d)
    dWproj = torch.zeros_like(Wproj)  # (L, d, d)
    dWfc, dbfc = torch.zeros_like(Wfc), torch.zeros_like(bfc)  # (L, d, 4 d), (L, 4 d)
    dWout = torch.zeros_like(Wout)  # (L, 4 d, d)
    for i in reversed(range(len(gain1))):
        xhat1, inv_std1, y1, q, k, v, weights, mixed, xhat2, inv_std2, y2, z, tanh, g = saved[i]
        dbranch = masks[i, 1] * dx  # (n, T, d), of the linear layers
        dbout[i] = dbranch.sum((0, 1))
        dWout[i] = product(g, dbranch)
        dg = dbranch @ Wout[i].T  # (n, T, 4 d)
        inner = SLOPE * (1 + 3 * CUBIC * z**2)  # (n, T, 4 d), of tanh's argument along z
        dz = 0.5 * dg * (1 + tanh + z * (1 - tanh**2) * inner)  # (n, T, 4 d), directly and through tanh
        dbfc[i] = dz.sum((0, 1))
        dWfc[i] = product(y2, dz)
        dy2 = dz @ Wfc[i].T  # (n, T, d)
        dbias2[i] = dy2.sum((0, 1))
        dgain2[i] = (dy2 * xhat2).sum((0, 1))
        dx = dx + denormalise(dy2 * gain2[i], xhat2, inv_std2)  # (n, T, d), past the branch and through it
        dbranch = masks[i, 0] * dx  # (n, T, d), of attention
        dbproj[i] = dbranch.sum((0, 1))
        dWproj[i] = product(mixed, dbranch)
        dmixed = apart(dbranch @ Wproj[i].T, heads)  # (n, H, T, k)
        dv = weights.mT @ dmixed  # (n, H, T, k)
        dweights = dmixed @ v.mT  # (n, H, T, T)
        dscores = weights * (dweights - (weights * dweights).sum(3, keepdim=True))  # 0 where masked
        dq = scale * dscores @ k  # (n, H, T, k)
        dk = scale * dscores.mT @ q  # (n, H, T, k)
        dqkv = torch.cat([together(dq), together(dk), together(dv)], 2)  # (n, T, 3 d)
        dbqkv[i] = dqkv.sum((0, 1))
        dWqkv[i] = product(y1, dqkv)
        dy1 = dqkv @ Wqkv[i].T  # (n, T, d)
        dbias1[i] = dy1.sum((0, 1))
        dgain1[i] = (dy1 * xhat1).sum((0, 1))
        dx = dx + denormalise(dy1 * gain1[i], xhat1, inv_std1)  # (n, T, d)
    dP = torch.zeros_like(P)  # (positions, d), of which words may use fewer
    dP[: Xb.shape[1]] = dx.sum(0)
    dE = torch.zeros_like(E).index_add(0, Xb.flatten(), dx.flatten(0, 1))  # (V, d)
    named = (*SHAPES, "logprobs", "logits", "yf")  # the rest is of one layer, or on the way
    return {name: value for name, value in locals().items() if name[0] == "d" and name[1:] in named}


def inputs(generator: torch.Generator) -> dict[str, object]:
    """Draw 3 words, of 2, 4 and 0 letters out of 5; 2 layers of 2 heads, dropout of a fifth."""
    L, d = 2, 6
    attention = {"Wqkv": (L, d, 3 * d), "bqkv": (L, 3 * d), "Wproj": (L, d, d), "bproj": (L, d)}
    wide = {"Wfc": (L, d, 4 * d), "bfc": (L, 4 * d), "Wout": (L, 4 * d, d), "bout": (L, d)}
    first, second = ({f"gain{i}": (L, d), f"bias{i}": (L, d)} for i in (1, 2))
    ends = {"gainf": (d,), "biasf": (d,), "Wo": (d, 6)}
    shapes = {"E": (6, d), "P": (7, d), **first, **attention, **second, **wide, **ends}
    Xb = torch.tensor([[0, 3, 1, 0, 0], [0, 3, 2, 5, 4], [0, 0, 0, 0, 0]])
    Yb = torch.tensor([[3, 1, 0, -1, -1], [3, 2, 5, 4, 0], [0, -1, -1, -1, -1]])
    parameters = {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}
    kept = torch.rand(L, 2, 3, 5, d, generator=generator) > 0.2
    return {"Xb": Xb, "Yb": Yb, **parameters, "heads": 2, "kept": kept, "dropout": 0.2}
