"""Layers that call layers: pairs of functions within others, and classes that hold classes."""

import numpy as np


def dense_forward(x, w, b):
    return x @ w + b, (x, w)


def dense_backward(dout, cache):
    x, w = cache
    dx = dout @ w.T
    dw = x.T @ dout
    db = dout.sum(axis=0)
    return dx, dw, db


def rectified_forward(x):
    return np.maximum(x, 0), x > 0


def rectified_backward(dout, mask):
    dx = dout * mask
    return dx


def scaled_norm_forward(x, gamma, beta):
    centered = x - x.mean(axis=1, keepdims=True)
    std = np.sqrt((centered**2).mean(axis=1, keepdims=True) + 1e-5)
    xhat = centered / std
    return gamma * xhat + beta, (gamma, xhat, std)


def scaled_norm_backward(dout, cache):
    gamma, xhat, std = cache
    dgamma = (dout * xhat).sum(axis=0)
    dbeta = dout.sum(axis=0)
    dxhat = dout * gamma
    inner = (dxhat * xhat).mean(axis=1, keepdims=True)
    dx = (dxhat - dxhat.mean(axis=1, keepdims=True) - xhat * inner) / std
    return dx, dgamma, dbeta


def dense_rectified_forward(x, w, b):
    a, dense = dense_forward(x, w, b)
    out, mask = rectified_forward(a)
    return out, (dense, mask)


def dense_rectified_backward(dout, cache):
    dense, mask = cache
    da = rectified_backward(dout, mask)
    dx, dw, db = dense_backward(da, dense)
    return dx, dw, db


def dense_norm_rectified_forward(x, w, b, gamma, beta):
    a, dense = dense_forward(x, w, b)
    n, norm = scaled_norm_forward(a, gamma, beta)
    out, mask = rectified_forward(n)
    return out, (dense, norm, mask)


def dense_norm_rectified_backward(dout, cache):
    dense, norm, mask = cache
    dn = rectified_backward(dout, mask)
    da, dgamma, dbeta = scaled_norm_backward(dn, norm)
    dx, dw, db = dense_backward(da, dense)
    return dx, dw, db, dgamma, dbeta


def residual_forward(x, w1, b1, w2, b2):
    h, first = dense_rectified_forward(x, w1, b1)
    a, second = dense_forward(h, w2, b2)
    return x + a, {"first": first, "second": second}


def residual_backward(dout, cache):
    dh, dw2, db2 = dense_backward(dout, cache["second"])
    dx, dw1, db1 = dense_rectified_backward(dh, cache["first"])
    dx = dx + dout
    return dx, dw1, db1, dw2, db2


def cell_forward(x, prev_h, Wx, Wh, b):
    next_h = np.tanh(x @ Wx + prev_h @ Wh + b)
    return next_h, (x, prev_h, Wx, Wh, next_h)


def cell_backward(dnext_h, cache):
    x, prev_h, Wx, Wh, next_h = cache
    da = dnext_h * (1 - next_h**2)
    dx = da @ Wx.T
    dprev_h = da @ Wh.T
    dWx = x.T @ da
    dWh = prev_h.T @ da
    db = da.sum(axis=0)
    return dx, dprev_h, dWx, dWh, db


def cells_forward(x, h0, Wx, Wh, b):
    N, T, _ = x.shape
    h, caches = np.zeros((N, T, h0.shape[1])), []
    prev = h0
    for t in range(T):
        prev, cache = cell_forward(x[:, t], prev, Wx, Wh, b)
        h[:, t] = prev
        caches.append(cache)
    return h, caches


def cells_backward(dh, caches):
    N, T, H = dh.shape
    D = caches[0][0].shape[1]
    dx, dprev = np.zeros((N, T, D)), np.zeros((N, H))
    dWx, dWh, db = np.zeros((D, H)), np.zeros((H, H)), np.zeros(H)
    for t in reversed(range(T)):
        dx[:, t], dprev, dWx_t, dWh_t, db_t = cell_backward(dh[:, t] + dprev, caches[t])
        dWx += dWx_t
        dWh += dWh_t
        db += db_t
    return dx, dprev, dWx, dWh, db


class Projection:
    def __init__(self, n_in, n_out):
        self.W = np.random.randn(n_in, n_out) / np.sqrt(n_in)
        self.b = np.zeros(n_out)

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b

    def backward(self, dout):
        rows = self.x.reshape(-1, self.x.shape[-1])
        drows = dout.reshape(-1, dout.shape[-1])
        self.dW = rows.T @ drows
        self.db = drows.sum(axis=0)
        return dout @ self.W.T


class Squash:
    def forward(self, x):
        self.out = np.tanh(x)
        return self.out

    def backward(self, dout):
        return dout * (1 - self.out**2)


class Normalised:
    def __init__(self, size):
        self.gain, self.shift = np.ones(size), np.zeros(size)

    def forward(self, x):
        centered = x - x.mean(axis=-1, keepdims=True)
        self.std = np.sqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-5)
        self.xhat = centered / self.std
        return self.gain * self.xhat + self.shift

    def backward(self, dout):
        axes = tuple(range(dout.ndim - 1))
        self.dgain = (dout * self.xhat).sum(axis=axes)
        self.dshift = dout.sum(axis=axes)
        dxhat = dout * self.gain
        mean = dxhat.mean(axis=-1, keepdims=True)
        inner = (dxhat * self.xhat).mean(axis=-1, keepdims=True)
        return (dxhat - mean - self.xhat * inner) / self.std


class FeedForward:
    def __init__(self, size, hidden):
        self.first, self.squash, self.second = Projection(size, hidden), Squash(), Projection(hidden, size)

    def forward(self, x):
        return self.second.forward(self.squash.forward(self.first.forward(x)))

    def backward(self, dout):
        dh = self.second.backward(dout)
        da = self.squash.backward(dh)
        dx = self.first.backward(da)
        return dx


class SelfAttention:
    def __init__(self, size):
        self.query, self.key, self.value = (Projection(size, size) for _ in range(3))
        self.scale = 1 / np.sqrt(size)

    def forward(self, x):
        N, T, D = x.shape
        self.q, self.k, self.v = self.query.forward(x), self.key.forward(x), self.value.forward(x)
        scores = self.q @ self.k.transpose(0, 2, 1) * self.scale
        e = np.exp(scores - scores.max(axis=-1, keepdims=True))
        self.weights = e / e.sum(axis=-1, keepdims=True)
        return self.weights @ self.v

    def backward(self, dout):
        dweights = dout @ self.v.transpose(0, 2, 1)
        dv = self.weights.transpose(0, 2, 1) @ dout
        inner = (dweights * self.weights).sum(axis=-1, keepdims=True)
        dscores = self.weights * (dweights - inner) * self.scale
        dq = dscores @ self.k
        dk = dscores.transpose(0, 2, 1) @ self.q
        dx = self.query.backward(dq)
        dx += self.key.backward(dk)
        dx += self.value.backward(dv)
        return dx


class TransformerLayer:
    def __init__(self, size, hidden):
        self.norm1, self.attention = Normalised(size), SelfAttention(size)
        self.norm2, self.mlp = Normalised(size), FeedForward(size, hidden)

    def forward(self, x):
        N, T, D = x.shape
        x = x + self.attention.forward(self.norm1.forward(x))
        return x + self.mlp.forward(self.norm2.forward(x))

    def backward(self, dout):
        dm = self.mlp.backward(dout)
        dmiddle = dout + self.norm2.backward(dm)
        da = self.attention.backward(dmiddle)
        dx = dmiddle + self.norm1.backward(da)
        return dx


class Cell:
    def __init__(self, Wx, Wh):
        self.params, self.grads = [Wx, Wh], [np.zeros_like(Wx), np.zeros_like(Wh)]

    def forward(self, x, h, c):
        Wx, Wh = self.params
        gate = 1 / (1 + np.exp(-(x @ Wx)))
        new = np.tanh(x @ Wx + h @ Wh)
        c_next = gate * c + new
        h_next = np.tanh(c_next)
        self.cache = x, h, c, gate, new, h_next
        return h_next, c_next

    def backward(self, dh_next, dc_next):
        Wx, Wh = self.params
        x, h, c, gate, new, h_next = self.cache
        dc_next = dc_next + dh_next * (1 - h_next**2)
        dnew = dc_next * (1 - new**2)
        dgate = dc_next * c * gate * (1 - gate)
        self.grads[0][...] = x.T @ (dnew + dgate)
        self.grads[1][...] = h.T @ dnew
        dx = (dnew + dgate) @ Wx.T
        dh = dnew @ Wh.T
        dc = dc_next * gate
        return dx, dh, dc


class OverTime:
    def __init__(self, Wx, Wh):
        self.params, self.grads = [Wx, Wh], [np.zeros_like(Wx), np.zeros_like(Wh)]
        self.cells = None

    def forward(self, xs):
        Wx, Wh = self.params
        N, T, D = xs.shape
        hs, h, c = np.empty((N, T, Wh.shape[0])), np.zeros((N, Wh.shape[0])), np.zeros((N, Wh.shape[0]))
        self.cells = []
        for t in range(T):
            cell = Cell(*self.params)
            h, c = cell.forward(xs[:, t], h, c)
            hs[:, t] = h
            self.cells.append(cell)
        return hs

    def backward(self, dhs):
        Wx, Wh = self.params
        N, T, H = dhs.shape
        dxs, dh, dc = np.empty((N, T, Wx.shape[0])), 0, 0
        grads = [0, 0]
        for t in reversed(range(T)):
            cell = self.cells[t]
            dx, dh, dc = cell.backward(dhs[:, t] + dh, dc)
            dxs[:, t] = dx
            for i, grad in enumerate(cell.grads):
                grads[i] += grad
        for i, grad in enumerate(grads):
            self.grads[i][...] = grad
        return dxs


class Classifier:
    def __init__(self, input_dim=5, hidden_dim=6, num_classes=4, reg=0.1):
        self.reg, self.params = reg, {}
        for i, (m, n) in enumerate([(input_dim, hidden_dim), (hidden_dim, num_classes)], start=1):
            self.params[f"W{i}"] = np.random.randn(m, n) / np.sqrt(m)
            self.params[f"b{i}"] = np.zeros(n)

    def loss(self, X, y):
        p, n = self.params, len(X)
        h, first = dense_rectified_forward(X, p["W1"], p["b1"])
        scores, second = dense_forward(h, p["W2"], p["b2"])
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        probs = e / e.sum(axis=1, keepdims=True)
        loss = -np.log(probs[np.arange(n), y]).mean()
        loss += 0.5 * self.reg * np.sum([np.sum(p[name] ** 2) for name in ("W1", "W2")])

        dscores = probs.copy()
        dscores[np.arange(n), y] -= 1
        dscores /= n
        grads = {}
        dh, grads["W2"], grads["b2"] = dense_backward(dscores, second)
        _, grads["W1"], grads["b1"] = dense_rectified_backward(dh, first)
        for name in ("W1", "W2"):
            grads[name] += self.reg * p[name]
        return loss, grads
