# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
# ---

# %% [markdown]
# # The lecture's exercise 1, live
#
# After `%load_ext backhand`, every cell that assigns gradients is followed by their verdicts. Open this file
# as a notebook with jupytext (`jupytext --to ipynb lecture_1_live.py`), or paste its cells into IPython.

# %%
# %load_ext backhand
import torch
from torch import Tensor

# %%
generator = torch.Generator().manual_seed(42)
n, block_size, vocabulary, n_embd, n_hidden = 32, 3, 27, 10, 64


def normal(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=generator) * scale


drawn = {
    "Xb": torch.randint(0, vocabulary, (n, block_size), generator=generator),
    "Yb": torch.randint(0, vocabulary, (n,), generator=generator),
    "C": normal(vocabulary, n_embd),
    "W1": normal(block_size * n_embd, n_hidden, scale=0.3),
    "b1": normal(n_hidden, scale=0.1),
    "W2": normal(n_hidden, vocabulary, scale=0.1),
    "b2": normal(vocabulary, scale=0.1),
    "bngain": 1 + normal(1, n_hidden, scale=0.1),
    "bnbias": normal(1, n_hidden, scale=0.1),
}
Xb, Yb, C, W1, b1, W2, b2, bngain, bnbias = drawn.values()
for tensor in (C, W1, b1, W2, b2, bngain, bnbias):
    tensor.requires_grad_()

# %%
n = Xb.shape[0]
# embedding and first layer
emb = C[Xb]  # (n, block_size, n_embd)
embcat = emb.view(n, -1)  # (n, block_size * n_embd)
hprebn = embcat @ W1 + b1  # (n, n_hidden)
# batch norm
bnmeani = 1 / n * hprebn.sum(0, keepdim=True)  # (1, n_hidden)
bndiff = hprebn - bnmeani  # (n, n_hidden)
bndiff2 = bndiff**2  # (n, n_hidden)
bnvar = 1 / (n - 1) * bndiff2.sum(0, keepdim=True)  # (1, n_hidden), Bessel's correction: n - 1
bnvar_inv = (bnvar + 1e-5) ** -0.5  # (1, n_hidden)
bnraw = bndiff * bnvar_inv  # (n, n_hidden)
hpreact = bngain * bnraw + bnbias  # (n, n_hidden)
# non-linearity and second layer
h = torch.tanh(hpreact)  # (n, n_hidden)
logits = h @ W2 + b2  # (n, vocabulary)
# cross entropy
logit_maxes = logits.max(1, keepdim=True).values  # (n, 1)
norm_logits = logits - logit_maxes  # (n, vocabulary), so that exp cannot overflow
counts = norm_logits.exp()  # (n, vocabulary)
counts_sum = counts.sum(1, keepdim=True)  # (n, 1)
counts_sum_inv = counts_sum**-1  # (n, 1)
probs = counts * counts_sum_inv  # (n, vocabulary)
logprobs = probs.log()  # (n, vocabulary)
loss = -logprobs[torch.arange(n, device=Xb.device), Yb].mean()  # ()

# %% [markdown]
# Cross entropy. `counts` goes into `counts_sum` too, so its gradient is not complete yet. No alarm, for
# nothing has used it so far.

# %%
from torch.nn import functional as F

n = Xb.shape[0]
dlogprobs = torch.zeros_like(probs)  # (n, vocabulary)
dlogprobs[torch.arange(n, device=Xb.device), Yb] = -1 / n
dprobs = dlogprobs / probs  # (n, vocabulary)
dcounts_sum_inv = (counts * dprobs).sum(1, keepdim=True)  # (n, 1), broadcast along the row
dcounts = counts_sum_inv * dprobs  # (n, vocabulary), first of two branches
dcounts_sum = -(counts_sum**-2) * dcounts_sum_inv  # (n, 1)
# shows: nothing wrong so far
# shows: so far: the branch through counts_sum is missing

# %% [markdown]
# Completed, and down to the logits.

# %%
dcounts += dcounts_sum  # second branch, through counts_sum
dnorm_logits = counts * dcounts  # (n, vocabulary)
dlogit_maxes = -dnorm_logits.sum(1, keepdim=True)  # (n, 1), zero but for rounding: a shift changes nothing
dlogits = dnorm_logits.clone()  # (n, vocabulary), first of two branches
dlogits += F.one_hot(logits.argmax(1), logits.shape[1]) * dlogit_maxes  # second branch, through logit_maxes
# shows: right

# %%
dW2 = h.T @ dlogits  # (n_hidden, vocabulary)
db2 = dlogits.sum(0)  # (vocabulary,)
dh = dlogits @ W2.T  # (n, n_hidden)
dhpreact = (1 - h**2) * dh  # (n, n_hidden)
# shows: right

# %%
dbngain = (bnraw * dhpreact).sum(0, keepdim=True)  # (1, n_hidden)
dbnbias = dhpreact.sum(0, keepdim=True)  # (1, n_hidden)
dbnraw = bngain * dhpreact  # (n, n_hidden)
dbnvar_inv = (bndiff * dbnraw).sum(0, keepdim=True)  # (1, n_hidden)
dbndiff = bnvar_inv * dbnraw  # (n, n_hidden), first of two branches
dbnvar = -0.5 * (bnvar + 1e-5) ** -1.5 * dbnvar_inv  # (1, n_hidden)
dbndiff2 = (1 / (n - 1) * dbnvar).expand_as(bndiff)  # (n, n_hidden), a sum's gradient reaches every summand
dbndiff += 2 * bndiff * dbndiff2  # second branch, through bndiff2
dbnmeani = -dbndiff.sum(0, keepdim=True)  # (1, n_hidden)
dhprebn = dbndiff.clone()  # (n, n_hidden), first of two branches; clone: dbndiff keeps its own value
dhprebn += 1 / n * dbnmeani  # second branch, through bnmeani
# shows: right

# %%
dW1 = embcat.T @ dhprebn  # (block_size * n_embd, n_hidden)
db1 = dhprebn.sum(0)  # (n_hidden,), zero but for rounding: batch norm subtracts any bias again
dembcat = dhprebn @ W1.T  # (n, block_size * n_embd)
demb = dembcat.view(emb.shape)  # (n, block_size, n_embd)
dC = torch.zeros_like(C).index_add_(0, Xb.flatten(), demb.flatten(0, 1))  # (vocabulary, n_embd)
# shows: right

# %% [markdown]
# The whole sheet.

# %%
# %backhand
# shows: 24 gradients agree
