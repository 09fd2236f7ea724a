# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
# ---

# %% [markdown]
# # The lecture's exercise 2, live: cross entropy in one go
#
# Exercise 1 went from `logits` to `loss` in nine lines, and back in nine. On paper they collapse. For one row
# of logits $l$ with the right class $y$,
#
# $$\text{loss} = -\log \frac{e^{l_y}}{\sum_j e^{l_j}} = \log \sum_j e^{l_j} - l_y .$$
#
# Differentiated by $l_i$, the first term gives $e^{l_i} / \sum_j e^{l_j}$, the softmax; the second gives $-1$
# where $i = y$ and 0 elsewhere.

# %%
# %load_ext backhand
import torch
from torch.nn import functional as F

# %%
generator = torch.Generator().manual_seed(42)
n, vocabulary = 32, 27
logits = torch.randn(n, vocabulary, generator=generator, requires_grad=True)  # (n, vocabulary)
Yb = torch.randint(0, vocabulary, (n,), generator=generator)  # (n,)

# %%
loss = F.cross_entropy(logits, Yb)  # ()

# %% [markdown]
# The formula as it stands above, for all rows at once:

# %%
dlogits = F.softmax(logits, 1)  # (n, vocabulary)
dlogits[torch.arange(n), Yb] -= 1
# shows: scale
# shows: 32

# %% [markdown]
# Right but for a factor of 32: the loss is the *mean* over the rows, so that each of them counts 1/n.

# %%
dlogits = F.softmax(logits, 1)  # (n, vocabulary)
dlogits[torch.arange(n), Yb] -= 1
dlogits /= n
# shows: 1 gradient agrees

# %% [markdown]
# A step against this gradient pulls the right logit of each row up and pushes all others down, by as much in
# total: a row adds up to zero, since a shift of all its logits changes no probability.

# %%
dlogits.sum(1).abs().max().item()
