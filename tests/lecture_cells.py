"""The lecture's first exercise as the cells of a small notebook, and a notebook made of cells."""

import json
from pathlib import Path

SETUP = """\
import torch
import matplotlib.pyplot as plt
g = torch.Generator().manual_seed(1)
x = torch.randn(6, 4, generator=g)
y = torch.randint(0, 5, (6,), generator=g)
W = torch.randn(4, 5, generator=g)
b = torch.randn(5, generator=g) * 0.1
for p in [W, b]:
    p.requires_grad = True
def cmp(name, d, t):
    print(name, (d == t.grad).all())
"""


FORWARD = """\
logits = x @ W + b
counts = logits.exp()
counts_sum = counts.sum(1, keepdim=True)
counts_sum_inv = counts_sum**-1
probs = counts * counts_sum_inv
logprobs = probs.log()
loss = -logprobs[range(6), y].mean()
for t in [logits, counts, counts_sum, probs, logprobs]:
    t.retain_grad()
loss.backward()
loss
"""


FIRST = """\
dlogprobs = torch.zeros_like(logprobs)
dlogprobs[range(6), y] = -1.0 / 6
dprobs = dlogprobs / probs
dcounts_sum_inv = (dprobs * counts).sum(1, keepdim=True)
dcounts = dprobs * counts_sum_inv
cmp("probs", dprobs, probs)
"""


SECOND = """\
dcounts_sum = -counts_sum**-2 * dcounts_sum_inv
dcounts += dcounts_sum
dlogits = dcounts * counts
dW = x.T @ dlogits
db = dlogits.sum(0)
cmp("W", dW, W)
"""


def notebook(path: Path, *cells: str) -> Path:
    found = [{"cell_type": "markdown", "source": ["# exercise"], "metadata": {}}]
    for text in cells:
        lines = text.splitlines(keepends=True)
        found.append(
            {"cell_type": "code", "source": lines, "metadata": {}, "outputs": [], "execution_count": None}
        )
    path.write_text(json.dumps({"cells": found, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path
