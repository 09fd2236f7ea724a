"""More classes, by where they keep what they need, and whole models."""

import numpy as np


class Parameter:
    def __init__(self, value):
        self.value = value
        self.grad = np.zeros_like(value)


class ParameterDense:
    def __init__(self, n_in, n_out):
        self.W = Parameter(np.ones((n_in, n_out)))
        self.b = Parameter(np.zeros(n_out))

    def forward(self, x):
        self.x = x
        return x @ self.W.value + self.b.value

    def backward(self, d_out):
        self.W.grad += self.x.T @ d_out
        self.b.grad += d_out.sum(axis=0)
        d_input = d_out @ self.W.value.T
        return d_input


class WordyDense:
    def __init__(self, input_size, output_size):
        self.weights = np.ones((input_size, output_size))
        self.bias = np.zeros((1, output_size))

    def forward(self, input_tensor):
        self.input_tensor = input_tensor
        return input_tensor @ self.weights + self.bias

    def backward(self, error_tensor):
        self.gradient_weights = self.input_tensor.T @ error_tensor
        self.gradient_bias = np.sum(error_tensor, axis=0, keepdims=True)
        return error_tensor @ self.weights.T


class MeanDense:
    """The layer takes the mean over the batch."""

    def __init__(self, n_in, n_out):
        self.W = np.ones((n_in, n_out))
        self.b = np.zeros((1, n_out))

    def forward(self, x):
        self.x = x
        return np.dot(x, self.W) + self.b

    def backward(self, dout):
        m = self.x.shape[0]
        self.dW = np.dot(self.x.T, dout) / m
        self.db = np.sum(dout, axis=0, keepdims=True) / m
        dx = np.dot(dout, self.W.T)
        return dx


class Tanh:
    def forward(self, x):
        self.out = np.tanh(x)
        return self.out

    def backward(self, grad):
        return grad * (1 - self.out**2)


class LeakyReLU:
    def __init__(self, alpha=0.1):
        self.alpha = alpha

    def forward(self, x):
        self.x = x
        return np.where(x > 0, x, self.alpha * x)

    def backward(self, grad):
        dx = grad.copy()
        dx[self.x <= 0] *= self.alpha
        return dx


class PReLU:
    def __init__(self, dim):
        self.slope = np.ones(dim)

    def forward(self, x):
        self.x = x
        return np.where(x > 0, x, self.slope * x)

    def backward(self, grad):
        negative = self.x <= 0
        self.dslope = np.sum(grad * self.x * negative, axis=0)
        dx = np.where(negative, grad * self.slope, grad)
        return dx


class Softplus:
    def forward(self, x):
        self.x = x
        return np.log(1 + np.exp(x))

    def backward(self, grad):
        s = 1 / (1 + np.exp(-self.x))
        dx = grad * s
        return dx


class Softmax:
    def forward(self, x):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        self.p = e / e.sum(axis=1, keepdims=True)
        return self.p

    def backward(self, grad):
        dp = grad * self.p
        dx = dp - self.p * dp.sum(axis=1, keepdims=True)
        return dx


class LayerNorm:
    def __init__(self, dim):
        self.gamma, self.beta = np.ones(dim), np.zeros(dim)

    def forward(self, x):
        mu = x.mean(axis=1, keepdims=True)
        self.inv = 1 / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
        self.hat = (x - mu) * self.inv
        return self.gamma * self.hat + self.beta

    def backward(self, dout):
        self.grad_gamma = np.sum(dout * self.hat, axis=0)
        self.grad_beta = np.sum(dout, axis=0)
        dhat = dout * self.gamma
        m1 = dhat.mean(axis=1, keepdims=True)
        m2 = np.mean(dhat * self.hat, axis=1, keepdims=True)
        dx = self.inv * (dhat - m1 - self.hat * m2)
        return dx


class Dropout:
    def __init__(self, p=0.5):
        self.p = p

    def forward(self, x):
        self.mask = (np.random.rand(*x.shape) > self.p) / (1 - self.p)
        return x * self.mask

    def backward(self, dout):
        dx = dout * self.mask
        return dx


class Flatten:
    def forward(self, x):
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dout):
        dx = 2 * dout.reshape(self.shape) / 2
        return dx


class Embedding:
    def __init__(self, n_in, n_out):
        self.W = np.ones((n_in, n_out))

    def forward(self, x):
        self.rows = np.argsort(x, axis=1)
        return self.W[self.rows] * 2.0

    def backward(self, dout):
        self.dW = np.zeros_like(self.W)
        np.add.at(self.dW, self.rows, 2.0 * dout)


class MSELoss:
    def forward(self, y_pred, y_true):
        self.diff = y_pred - y_true
        return np.mean(self.diff**2)

    def backward(self):
        n = self.diff.size
        d_pred = 2 * self.diff / n
        return d_pred


class CrossEntropy:
    def forward(self, x, y):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        self.p = e / e.sum(axis=1, keepdims=True)
        self.y = y
        return -np.log(self.p[np.arange(len(y)), y]).mean()

    def backward(self):
        dx = self.p.copy()
        dx[np.arange(len(self.y)), self.y] -= 1
        dx /= len(self.y)
        return dx


class RNNCell:
    def __init__(self, input_size, hidden_size):
        self.params = {
            "Wx": np.ones((input_size, hidden_size)),
            "b": np.zeros(hidden_size),
            "g": np.ones(hidden_size),
        }
        self.grads = {}

    def forward(self, x):
        self.x = x
        self.a = x @ self.params["Wx"] + self.params["b"]
        self.h = np.tanh(self.a)
        return self.h * self.params["g"]

    def backward(self, dout):
        self.grads["g"] = np.sum(dout * self.h, axis=0)
        dh = dout * self.params["g"]
        da = dh * (1 - self.h**2)
        self.grads["Wx"] = self.x.T @ da
        self.grads["b"] = np.sum(da, axis=0)
        dx = da @ self.params["Wx"].T
        return dx


class Conv1x1:
    def __init__(self, n_in, n_out):
        self.W = np.ones((2, 3))

    def forward(self, x):
        self.x = x
        return np.einsum("nchw,cf->nfhw", x, self.W)

    def backward(self, dout):
        self.dW = np.einsum("nchw,nfhw->cf", self.x, dout)
        dx = np.einsum("nfhw,cf->nchw", dout, self.W)
        return dx


class AvgPool2d:
    def forward(self, x):
        self.shape = x.shape
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5))

    def backward(self, dout):
        spread = np.repeat(np.repeat(dout, 2, axis=2), 2, axis=3)
        dx = spread / 4
        return dx


class TwoLayerNet:
    def __init__(self, input_dim=3072, hidden_dim=100, num_classes=10, reg=0.0):
        self.params = {
            "W1": np.ones((input_dim, hidden_dim)),
            "b1": np.zeros(hidden_dim),
            "W2": np.ones((hidden_dim, num_classes)),
            "b2": np.zeros(num_classes),
        }
        self.reg = reg

    def loss(self, X, y=None):
        W1, b1 = self.params["W1"], self.params["b1"]
        W2, b2 = self.params["W2"], self.params["b2"]
        h = np.maximum(0, X @ W1 + b1)
        scores = h @ W2 + b2
        if y is None:
            return scores
        n = len(X)
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
        loss = -np.log(p[np.arange(n), y]).mean() + 0.5 * self.reg * (np.sum(W1**2) + np.sum(W2**2))
        grads = {}
        ds = p.copy()
        ds[np.arange(n), y] -= 1
        ds /= n
        grads["W2"] = h.T @ ds + self.reg * W2
        grads["b2"] = ds.sum(axis=0)
        dh = ds @ W2.T
        dh[h <= 0] = 0
        grads["W1"] = X.T @ dh + self.reg * W1
        grads["b1"] = dh.sum(axis=0)
        return loss, grads


class Regression:
    def __init__(self, input_size, output_size):
        self.params = {"W": np.ones((input_size, output_size)), "b": np.zeros(output_size)}

    def loss(self, x, t):
        self.y = np.tanh(x @ self.params["W"] + self.params["b"])
        return np.sum((self.y - t) ** 2) / len(x)

    def gradient(self, x, t):
        self.loss(x, t)
        dy = 2 * (self.y - t) / len(x)
        da = dy * (1 - self.y**2)
        grads = {}
        grads["W"] = x.T @ da
        grads["b"] = da.sum(axis=0)
        return grads
