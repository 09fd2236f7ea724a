"""Pairs over rows of features, with their own `inputs`: activations, norms, attention, losses."""

import numpy as np


def inputs(rng):
    return {
        "x": rng.normal(size=(4, 5)),
        "y": rng.normal(size=(4, 5)),
        "gain": rng.normal(size=5),
        "w": rng.normal(size=(5, 3)),
        "b": rng.normal(size=3),
        "q": rng.normal(size=(4, 3)),
        "k": rng.normal(size=(6, 3)),
        "v": rng.normal(size=(6, 2)),
        "alpha": 0.3,
        "labels": rng.integers(0, 5, size=4),
        "h": rng.normal(size=(4, 3)),
        "Wz": rng.normal(size=(5, 3)),
        "Uz": rng.normal(size=(3, 3)),
        "Wn": rng.normal(size=(5, 3)),
        "Un": rng.normal(size=(3, 3)),
    }


def tanh_forward(x):
    out = np.tanh(x)
    return out, out


def tanh_backward(dout, cache):
    out = cache
    dx = dout * (1 - out**2)
    return dx


def elu_forward(x, alpha):
    out = np.where(x > 0, x, alpha * (np.exp(x) - 1))
    return out, (x, out, alpha)


def elu_backward(dout, cache):
    x, out, alpha = cache
    slope = np.where(x > 0, 1.0, out + alpha)
    dx = dout * slope
    return dx


def softplus_forward(x):
    return np.log1p(np.exp(x)), x


def softplus_backward(dout, cache):
    s = 1 / (1 + np.exp(-cache))
    dx = dout * s
    return dx


def silu_forward(x):
    s = 1 / (1 + np.exp(-x))
    return x * s, (x, s)


def silu_backward(dout, cache):
    x, s = cache
    ds = dout * x
    dx = dout * s + ds * s * (1 - s)
    return dx


def gelu_forward(x):
    inner = 0.8 * (x + 0.045 * x**3)
    t = np.tanh(inner)
    return 0.5 * x * (1 + t), (x, t)


def gelu_backward(dout, cache):
    x, t = cache
    dt = dout * 0.5 * x
    dinner = dt * (1 - t**2)
    dx = dout * 0.5 * (1 + t) + dinner * 0.8 * (1 + 0.135 * x**2)
    return dx


def softmax_forward(x):
    e = np.exp(x - np.max(x, axis=1, keepdims=True))
    p = e / np.sum(e, axis=1, keepdims=True)
    return p, p


def softmax_backward(dout, cache):
    p = cache
    inner = np.sum(dout * p, axis=1, keepdims=True)
    dx = p * (dout - inner)
    return dx


def log_softmax_forward(x):
    shifted = x - x.max(axis=1, keepdims=True)
    out = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return out, out


def log_softmax_backward(dout, cache):
    p = np.exp(cache)
    total = dout.sum(axis=1, keepdims=True)
    dx = dout - p * total
    return dx


def rmsnorm_forward(x, gain):
    inv = 1 / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + 1e-5)
    return x * inv * gain, (x, inv, gain)


def rmsnorm_backward(dout, cache):
    x, inv, gain = cache
    dgain = np.sum(dout * x * inv, axis=0)
    dhat = dout * gain
    dinv = np.sum(dhat * x, axis=1, keepdims=True)
    dmean = -0.5 * dinv * inv**3
    dx = dhat * inv + 2 * x * dmean / x.shape[1]
    return dx, dgain


def unit_rows_forward(x):
    length = np.sqrt(np.sum(x * x, axis=1, keepdims=True))
    return x / length, (x, length)


def unit_rows_backward(dout, cache):
    x, length = cache
    unit = x / length
    along = np.sum(dout * unit, axis=1, keepdims=True)
    dx = (dout - unit * along) / length
    return dx


def scale_forward(x, gain):
    return x * gain, (x, gain)


def scale_backward(dout, cache):
    x, gain = cache
    dgain = np.sum(dout * x, axis=0)
    dx = dout * gain
    return dx, dgain


def residual_forward(x, gain):
    h = np.tanh(x * gain)
    return x + h, (x, gain, h)


def residual_backward(dout, cache):
    x, gain, h = cache
    da = dout * (1 - h**2)
    dgain = np.sum(da * x, axis=0)
    dx = dout + da * gain
    return dx, dgain


def affine_relu_forward(x, w, b):
    a = x @ w + b
    return np.maximum(a, 0), (x, w, a)


def affine_relu_backward(dout, cache):
    x, w, a = cache
    da = dout * (a > 0)
    dx = da @ w.T
    dw = x.T @ da
    db = da.sum(axis=0)
    return dx, dw, db


def attention_forward(q, k, v):
    scores = q @ k.T / np.sqrt(q.shape[1])
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    return p @ v, (q, k, v, p)


def attention_backward(dout, cache):
    q, k, v, p = cache
    dv = p.T @ dout
    dp = dout @ v.T
    inner = np.sum(dp * p, axis=1, keepdims=True)
    dscores = p * (dp - inner) / np.sqrt(q.shape[1])
    dq = dscores @ k
    dk = dscores.T @ q
    return dq, dk, dv


def gru_step_forward(x, h, Wz, Uz, Wn, Un):
    z = 1 / (1 + np.exp(-(x @ Wz + h @ Uz)))
    n = np.tanh(x @ Wn + h @ Un)
    return z * h + (1 - z) * n, (x, h, Wz, Uz, Wn, Un, z, n)


def gru_step_backward(dout, cache):
    x, h, Wz, Uz, Wn, Un, z, n = cache
    dz = dout * (h - n)
    dn = dout * (1 - z)
    az = dz * z * (1 - z)
    an = dn * (1 - n**2)
    dx = az @ Wz.T + an @ Wn.T
    dh = dout * z + az @ Uz.T + an @ Un.T
    dWz = x.T @ az
    dUz = h.T @ az
    dWn = x.T @ an
    dUn = h.T @ an
    return dx, dh, dWz, dUz, dWn, dUn


def outer_forward(q, h):
    return q[:, :, None] * h[:, None, :], (q, h)


def outer_backward(dout, cache):
    q, h = cache
    dq = np.sum(dout * h[:, None, :], axis=2)
    dh = np.sum(dout * q[:, :, None], axis=1)
    return dq, dh


def cosine_forward(x, y):
    a = np.sqrt(np.sum(x**2, axis=1))
    b = np.sqrt(np.sum(y**2, axis=1))
    out = np.sum(x * y, axis=1) / (a * b)
    return out, (x, y, a, b, out)


def cosine_backward(dout, cache):
    x, y, a, b, out = cache
    scale = (dout / (a * b))[:, None]
    dx = scale * y - (dout * out / a**2)[:, None] * x
    dy = scale * x - (dout * out / b**2)[:, None] * y
    return dx, dy


def mse_loss(x, y):
    diff = x - y
    loss = np.mean(diff**2)
    dx = 2 * diff / diff.size
    return loss, dx


def huber_loss(x, y):
    diff = x - y
    small = np.abs(diff) < 1
    loss = np.sum(np.where(small, 0.5 * diff**2, np.abs(diff) - 0.5))
    dx = np.where(small, diff, np.sign(diff))
    return loss, dx


def logistic_loss(x, y):
    p = 1 / (1 + np.exp(-x))
    t = 1 / (1 + np.exp(-y))
    loss = -np.sum(t * np.log(p) + (1 - t) * np.log(1 - p)) / len(x)
    dx = (p - t) / len(x)
    return loss, dx


def svm_loss(x, labels):
    n = x.shape[0]
    right = x[np.arange(n), labels][:, None]
    margins = np.maximum(0, x - right + 1.0)
    margins[np.arange(n), labels] = 0
    loss = np.sum(margins) / n
    dx = np.zeros_like(x)
    dx[margins > 0] = 1
    dx[np.arange(n), labels] -= np.sum(margins > 0, axis=1)
    dx /= n
    return loss, dx
