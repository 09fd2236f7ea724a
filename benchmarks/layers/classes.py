"""Classes: layers that keep what they need and leave the gradients of their parameters on themselves."""

import numpy as np


class Affine:
    def __init__(self, W, b):
        self.W, self.b = W, b

    def forward(self, x):
        self.x = x
        return np.dot(x, self.W) + self.b

    def backward(self, dout):
        self.dW = np.dot(self.x.T, dout)
        self.db = np.sum(dout, axis=0)
        dx = np.dot(dout, self.W.T)
        return dx


class Sigmoid:
    def forward(self, x):
        self.out = 1 / (1 + np.exp(-x))
        return self.out

    def backward(self, dout):
        slope = self.out * (1.0 - self.out)
        dx = dout * slope
        return dx


class Relu:
    def forward(self, x):
        self.mask = x <= 0
        out = x.copy()
        out[self.mask] = 0
        return out

    def backward(self, dout):
        dx = dout.copy()
        dx[self.mask] = 0
        return dx


class SoftmaxWithLoss:
    def forward(self, x, t):
        self.t = t
        e = np.exp(x - x.max(axis=1, keepdims=True))
        self.y = e / e.sum(axis=1, keepdims=True)
        return -np.log(self.y[np.arange(len(t)), t] + 1e-7).mean()

    def backward(self, dout=1):
        n = self.t.shape[0]
        dx = self.y.copy()
        dx[np.arange(n), self.t] -= 1
        dx *= dout
        dx /= n
        return dx


class BatchNormalization:
    def __init__(self, gamma, beta):
        self.params = {"gamma": gamma, "beta": beta}
        self.grads = {}

    def forward(self, x):
        self.xc = x - x.mean(axis=0)
        self.std = np.sqrt((self.xc**2).mean(axis=0) + 1e-5)
        self.xn = self.xc / self.std
        return self.params["gamma"] * self.xn + self.params["beta"]

    def backward(self, dout):
        n = dout.shape[0]
        self.grads["beta"] = dout.sum(axis=0)
        self.grads["gamma"] = (self.xn * dout).sum(axis=0)
        dxn = self.params["gamma"] * dout
        dstd = -(dxn * self.xc).sum(axis=0) / self.std**2
        dvar = 0.5 * dstd / self.std
        dxc = dxn / self.std + 2 / n * self.xc * dvar
        dmu = dxc.sum(axis=0)
        dx = dxc - dmu / n
        return dx


class Linear:
    def __init__(self, in_features, out_features):
        self.params = [np.ones((in_features, out_features)), np.zeros(out_features)]
        self.grads = [np.zeros_like(p) for p in self.params]

    def forward(self, x):
        W, b = self.params
        self.x = x
        return x @ W + b

    def backward(self, grad):
        W, b = self.params
        self.grads[0] = self.x.T @ grad
        self.grads[1] = grad.sum(axis=0)
        dx = grad @ W.T
        return dx


class Network:
    def __init__(self, input_size, hidden_size, output_size):
        rng = np.random.default_rng(0)
        self.W1 = rng.normal(size=(input_size, hidden_size))
        self.b1 = np.zeros(hidden_size)
        self.W2 = rng.normal(size=(hidden_size, output_size))
        self.b2 = np.zeros(output_size)

    def forward(self, x):
        self.x = x
        self.h = np.tanh(x @ self.W1 + self.b1)
        return self.h @ self.W2 + self.b2

    def backward(self, dout):
        self.dW2 = self.h.T @ dout
        self.db2 = dout.sum(axis=0)
        dh = dout @ self.W2.T
        da = dh * (1 - self.h**2)
        self.dW1 = self.x.T @ da
        self.db1 = da.sum(axis=0)
        dx = da @ self.W1.T
        return dx
