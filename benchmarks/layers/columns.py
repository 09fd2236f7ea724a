"""Pairs as deeplearning.ai has them, a batch in columns; and images with channels last."""

import numpy as np


def linear_forward(A, W, b):
    Z = np.dot(W, A) + b
    return Z, (A, W, b)


def linear_backward(dZ, cache):
    A_prev, W, b = cache
    m = A_prev.shape[1]
    dW = 1 / m * np.dot(dZ, A_prev.T)
    db = 1 / m * np.sum(dZ, axis=1, keepdims=True)
    dA_prev = np.dot(W.T, dZ)
    return dA_prev, dW, db


def sigmoid(Z):
    return 1 / (1 + np.exp(-Z)), Z


def sigmoid_backward(dA, cache):
    s = 1 / (1 + np.exp(-cache))
    dZ = dA * s * (1 - s)
    return dZ


def relu(Z):
    return np.maximum(0, Z), Z


def relu_backward(dA, cache):
    dZ = np.array(dA, copy=True)
    dZ[cache <= 0] = 0
    return dZ


def conv_forward(A_prev, W, b, hparameters):
    stride, pad = hparameters["stride"], hparameters["pad"]
    f = W.shape[0]
    padded = np.pad(A_prev, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = (padded.shape[1] - f) // stride + 1, (padded.shape[2] - f) // stride + 1
    Z = np.zeros((len(A_prev), rows, columns, W.shape[3]))
    for i in range(rows):
        for j in range(columns):
            part = padded[:, i * stride : i * stride + f, j * stride : j * stride + f]
            Z[:, i, j] = np.tensordot(part, W, axes=3) + b[0, 0, 0]
    return Z, (A_prev, W, b, hparameters)


def conv_backward(dZ, cache):
    A_prev, W, b, hparameters = cache
    stride, pad, f = hparameters["stride"], hparameters["pad"], W.shape[0]
    padded = np.pad(A_prev, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    dpadded = np.zeros_like(padded)
    dW = np.zeros_like(W)
    db = np.zeros_like(b)
    for i in range(dZ.shape[1]):
        for j in range(dZ.shape[2]):
            top, left = i * stride, j * stride
            arriving = dZ[:, i, j]
            part = padded[:, top : top + f, left : left + f]
            dpadded[:, top : top + f, left : left + f] += np.tensordot(arriving, W, axes=([1], [3]))
            dW += np.tensordot(part, arriving, axes=([0], [0]))
            db[0, 0, 0] += np.sum(arriving, axis=0)
    dA_prev = dpadded[:, pad:-pad, pad:-pad]
    return dA_prev, dW, db


def pool_forward(A_prev, hparameters):
    f, stride = hparameters["f"], hparameters["stride"]
    n, height, width, c = A_prev.shape
    A = np.zeros((n, (height - f) // stride + 1, (width - f) // stride + 1, c))
    for i in range(A.shape[1]):
        for j in range(A.shape[2]):
            A[:, i, j] = A_prev[:, i * stride : i * stride + f, j * stride : j * stride + f].mean(axis=(1, 2))
    return A, (A_prev, hparameters)


def pool_backward(dA, cache):
    A_prev, hparameters = cache
    f, stride = hparameters["f"], hparameters["stride"]
    dA_prev = np.zeros_like(A_prev)
    for i in range(dA.shape[1]):
        for j in range(dA.shape[2]):
            share = dA[:, i, j][:, None, None, :] / (f * f)
            dA_prev[:, i * stride : i * stride + f, j * stride : j * stride + f] += share
    return dA_prev
