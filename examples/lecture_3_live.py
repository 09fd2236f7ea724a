# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
# ---

# %% [markdown]
# # The lecture's exercise 3, live: batch norm in one go
#
# From `dhpreact` to `dhprebn` in one line. Each element $x_i$ of a column acts on every normalised
# $\hat x_j$ of that column on three paths: directly, through the mean, and through the variance (of divisor
# is $n - 1$ here, Bessel's correction). With $D$ for what arrives from above times the gain, and
# $s = (v + \epsilon)^{-1/2}$,
#
# $$\frac{\partial L}{\partial x_i} =
# \frac{s}{n} \Big( n D_i - \sum_j D_j - \frac{n}{n - 1} \hat x_i \sum_j D_j \hat x_j \Big).$$
#
# The two sums are the gradients of bias and gain, which are needed anyway.

# %%
# %load_ext backhand
import torch

# %%
generator = torch.Generator().manual_seed(42)
n, n_hidden = 32, 64
hprebn = torch.randn(n, n_hidden, generator=generator)  # (n, n_hidden)
bngain = 1 + 0.1 * torch.randn(1, n_hidden, generator=generator)  # (1, n_hidden)
bnbias = 0.1 * torch.randn(1, n_hidden, generator=generator)  # (1, n_hidden)
upstream = torch.randn(n, n_hidden, generator=generator)  # (n, n_hidden), stands for the layers above
for tensor in (hprebn, bngain, bnbias):
    tensor.requires_grad_()

# %%
bnmeani = hprebn.mean(0, keepdim=True)  # (1, n_hidden)
bnvar = hprebn.var(0, keepdim=True, correction=1)  # (1, n_hidden), divisor n - 1
bnvar_inv = (bnvar + 1e-5) ** -0.5  # (1, n_hidden)
bnraw = (hprebn - bnmeani) * bnvar_inv  # (n, n_hidden)
hpreact = bngain * bnraw + bnbias  # (n, n_hidden)
loss = (hpreact * upstream).sum()  # ()

# %%
dhpreact = upstream.clone()  # (n, n_hidden)
dbnbias = dhpreact.sum(0, keepdim=True)  # (1, n_hidden)
dbngain = (bnraw * dhpreact).sum(0, keepdim=True)  # (1, n_hidden)
# shows: 3 gradients agree

# %% [markdown]
# A first try, in which two of the three paths are thought of:

# %%
dhprebn = bngain * bnvar_inv / n * (n * dhpreact - dbnbias)  # (n, n_hidden)
# shows: the branch through bnvar is missing

# %% [markdown]
# All three, with $n$ for $n - 1$: nearly right, and a plot of the loss would never show it.

# %%
dhprebn = bngain * bnvar_inv / n * (n * dhpreact - dbnbias - bnraw * dbngain)  # (n, n_hidden)
# shows: the branch through bnvar times 0.96875

# %%
dhprebn = bngain * bnvar_inv / n * (n * dhpreact - dbnbias - n / (n - 1) * bnraw * dbngain)  # (n, n_hidden)
# shows: 1 gradient agrees

# %% [markdown]
# The whole sheet.

# %%
# %backhand
# shows: 4 gradients agree
