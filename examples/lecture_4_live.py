# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
# ---

# %% [markdown]
# # The lecture's exercise 4, live: train with your own backward
#
# The language model of the lecture, trained on first names, with the shortcuts of exercises 2 and 3. Autograd
# checks the first step, and gives the curve to compare with; the training itself does without it.

# %%
# %load_ext backhand
import torch
from torch.nn import functional as F

import backhand

# %%
words = backhand.load_words("names")
letters = backhand.Vocabulary.of(words)
contexts = backhand.Contexts(backhand.split_words(words, 42).train, letters, 3)

generator = torch.Generator().manual_seed(2147483647)
steps, n, n_embd, n_hidden, vocabulary = 300, 32, 10, 64, len(letters)
Xs, Ys = contexts[
    torch.randint(0, len(contexts), (steps, n), generator=generator)
]  # (steps, n, 3), (steps, n)


def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=generator) * scale


C = normal(vocabulary, n_embd)  # (vocabulary, n_embd)
W1 = normal(3 * n_embd, n_hidden, scale=(5 / 3) / (3 * n_embd) ** 0.5)  # (3 * n_embd, n_hidden)
b1 = normal(n_hidden, scale=0.1)  # (n_hidden,)
W2 = normal(n_hidden, vocabulary, scale=0.1)  # (n_hidden, vocabulary)
b2 = normal(vocabulary, scale=0.1)  # (vocabulary,)
bngain = 1 + normal(1, n_hidden, scale=0.1)  # (1, n_hidden)
bnbias = normal(1, n_hidden, scale=0.1)  # (1, n_hidden)
parameters = [C, W1, b1, W2, b2, bngain, bnbias]
start = [p.clone() for p in parameters]
for p in parameters:
    p.requires_grad_()

# %% [markdown]
# One step, to have its backward checked.

# %%
Xb, Yb = Xs[0], Ys[0]
emb = C[Xb]  # (n, 3, n_embd)
embcat = emb.view(n, -1)  # (n, 3 * n_embd)
hprebn = embcat @ W1 + b1  # (n, n_hidden)
bnmeani = hprebn.mean(0, keepdim=True)  # (1, n_hidden)
bnvar = hprebn.var(0, keepdim=True, correction=1)  # (1, n_hidden)
bnvar_inv = (bnvar + 1e-5) ** -0.5  # (1, n_hidden)
bnraw = (hprebn - bnmeani) * bnvar_inv  # (n, n_hidden)
hpreact = bngain * bnraw + bnbias  # (n, n_hidden)
h = torch.tanh(hpreact)  # (n, n_hidden)
logits = h @ W2 + b2  # (n, vocabulary)
loss = F.cross_entropy(logits, Yb)  # ()

# %%
dlogits = (F.softmax(logits, 1) - F.one_hot(Yb, vocabulary)) / n  # (n, vocabulary)
dW2 = h.T @ dlogits  # (n_hidden, vocabulary)
db2 = dlogits.sum(0)  # (vocabulary,)
dh = dlogits @ W2.T  # (n, n_hidden)
dhpreact = (1 - h**2) * dh  # (n, n_hidden)
dbngain = (bnraw * dhpreact).sum(0, keepdim=True)  # (1, n_hidden)
dbnbias = dhpreact.sum(0, keepdim=True)  # (1, n_hidden)
dhprebn = bngain * bnvar_inv / n * (n * dhpreact - dbnbias - n / (n - 1) * bnraw * dbngain)  # (n, n_hidden)
dW1 = embcat.T @ dhprebn  # (3 * n_embd, n_hidden)
db1 = dhprebn.sum(0)  # (n_hidden,)
dembcat = dhprebn @ W1.T  # (n, 3 * n_embd)
demb = dembcat.view(emb.shape)  # (n, 3, n_embd)
dC = torch.zeros_like(C).index_add_(0, Xb.flatten(), demb.flatten(0, 1))  # (vocabulary, n_embd)
# shows: right

# %% [markdown]
# The same lines in a loop. No verdicts follow: a training loop is neither judged nor slowed.

# %%
losses = []
with torch.no_grad():
    for p, value in zip(parameters, start, strict=True):
        p.copy_(value)
    for Xb, Yb in zip(Xs, Ys, strict=True):
        emb = C[Xb]
        embcat = emb.view(n, -1)
        hprebn = embcat @ W1 + b1
        bnmeani = hprebn.mean(0, keepdim=True)
        bnvar = hprebn.var(0, keepdim=True, correction=1)
        bnvar_inv = (bnvar + 1e-5) ** -0.5
        bnraw = (hprebn - bnmeani) * bnvar_inv
        hpreact = bngain * bnraw + bnbias
        h = torch.tanh(hpreact)
        logits = h @ W2 + b2
        loss = F.cross_entropy(logits, Yb)

        dlogits = (F.softmax(logits, 1) - F.one_hot(Yb, vocabulary)) / n
        dW2 = h.T @ dlogits
        db2 = dlogits.sum(0)
        dh = dlogits @ W2.T
        dhpreact = (1 - h**2) * dh
        dbngain = (bnraw * dhpreact).sum(0, keepdim=True)
        dbnbias = dhpreact.sum(0, keepdim=True)
        dhprebn = bngain * bnvar_inv / n * (n * dhpreact - dbnbias - n / (n - 1) * bnraw * dbngain)
        dW1 = embcat.T @ dhprebn
        db1 = dhprebn.sum(0)
        demb = (dhprebn @ W1.T).view(emb.shape)
        dC = torch.zeros_like(C).index_add_(0, Xb.flatten(), demb.flatten(0, 1))
        for p, dp in zip(parameters, [dC, dW1, db1, dW2, db2, dbngain, dbnbias], strict=True):
            p -= 0.1 * dp
        losses.append(loss.item())

# %% [markdown]
# And with autograd, from the same start on the same minibatches.

# %%
theirs = []
copies = [value.clone().requires_grad_() for value in start]
for Xb, Yb in zip(Xs, Ys, strict=True):
    C_, W1_, b1_, W2_, b2_, gain_, bias_ = copies
    x = C_[Xb].view(n, -1) @ W1_ + b1_
    x = (x - x.mean(0, keepdim=True)) * (x.var(0, keepdim=True) + 1e-5) ** -0.5
    error = F.cross_entropy(torch.tanh(gain_ * x + bias_) @ W2_ + b2_, Yb)
    gradients = torch.autograd.grad(error, copies)
    with torch.no_grad():
        for copy, gradient in zip(copies, gradients, strict=True):
            copy -= 0.1 * gradient
    theirs.append(error.item())

# %%
apart = max(abs(a - b) for a, b in zip(losses, theirs, strict=True))
print(f"loss: {losses[0]:.2f} at first, {sum(losses[-50:]) / 50:.2f} at last")
print(f"the two curves are at most {apart:.0e} apart")
assert apart < 1e-2
# shows: loss: 3.
