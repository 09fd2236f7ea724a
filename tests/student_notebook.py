"""The lecture's notebook as a student has it: all four exercises, with the habits of the real ones."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

IMPORTS = """\
!pip install --quiet torch
%matplotlib inline
import torch
import torch.nn.functional as F
import matplotlib.pyplot as plt
"""

UTILITY = """\
# utility function we will use later when comparing manual gradients to PyTorch gradients
def cmp(s, dt, t):
    ex = torch.all(dt == t.grad).item()
    app = torch.allclose(dt, t.grad)
    maxdiff = (dt - t.grad).abs().max().item()
    print(f'{s:15s} | exact: {str(ex):5s} | approximate: {str(app):5s} | maxdiff: {maxdiff}')
"""

PARAMETERS = """\
n_embd, n_hidden, vocab_size, block_size, batch_size = 3, 6, 9, 2, 8
n = batch_size
g = torch.Generator().manual_seed(2147483647)
Xb = torch.randint(0, vocab_size, (n, block_size), generator=g)
Yb = torch.randint(0, vocab_size, (n,), generator=g)
C = torch.randn((vocab_size, n_embd), generator=g)
W1 = torch.randn((n_embd * block_size, n_hidden), generator=g) * (5/3)/((n_embd * block_size)**0.5)
b1 = torch.randn(n_hidden, generator=g) * 0.1
W2 = torch.randn((n_hidden, vocab_size), generator=g) * 0.1
b2 = torch.randn(vocab_size, generator=g) * 0.1
bngain = torch.randn((1, n_hidden), generator=g)*0.1 + 1.0
bnbias = torch.randn((1, n_hidden), generator=g)*0.1
parameters = [C, W1, b1, W2, b2, bngain, bnbias]
print(sum(p.nelement() for p in parameters))
for p in parameters:
    p.requires_grad = True
"""

FORWARD = """\
%%time
emb = C[Xb] # embed the characters into vectors
embcat = emb.view(emb.shape[0], -1) # concatenate the vectors
hprebn = embcat @ W1 + b1 # hidden layer pre-activation
bnmeani = 1/n*hprebn.sum(0, keepdim=True)
bndiff = hprebn - bnmeani
bndiff2 = bndiff**2
bnvar = 1/(n-1)*(bndiff2).sum(0, keepdim=True) # note: Bessel's correction
bnvar_inv = (bnvar + 1e-5)**-0.5
bnraw = bndiff * bnvar_inv
hpreact = bngain * bnraw + bnbias
h = torch.tanh(hpreact) # hidden layer
logits = h @ W2 + b2 # output layer
logit_maxes = logits.max(1, keepdim=True).values
norm_logits = logits - logit_maxes # subtract max for numerical stability
counts = norm_logits.exp()
counts_sum = counts.sum(1, keepdims=True)
counts_sum_inv = counts_sum**-1 # if I use (1.0 / counts_sum) instead then I can't get it bit exact?
probs = counts * counts_sum_inv
logprobs = probs.log()
loss = -logprobs[range(n), Yb].mean()
for p in parameters:
    p.grad = None
for t in [logprobs, probs, counts, counts_sum, counts_sum_inv, norm_logits, logit_maxes, logits, h, hpreact,
          bnraw, bnvar_inv, bnvar, bndiff2, bndiff, hprebn, bnmeani, embcat, emb]:
    t.retain_grad()
loss.backward()
loss
"""

SOFTMAX = """\
# Exercise 1: backprop through the whole thing manually
dloss = 1.0
dlogprobs = torch.zeros_like(logprobs)
dlogprobs[range(n), Yb] = -1.0/n
dprobs = (1.0 / probs) * dlogprobs
dcounts_sum_inv = (counts * dprobs).sum(1, keepdim=True)
dcounts = counts_sum_inv * dprobs
cmp('dcounts so far', dcounts, counts)
"""

LOGITS = """\
dcounts_sum = (-counts_sum**-2) * dcounts_sum_inv
dcounts2 = torch.ones_like(counts) * dcounts_sum
dcounts += dcounts2
dnorm_logits = counts * dcounts
dlogits = dnorm_logits.clone()
dlogit_maxes = (-dnorm_logits).sum(1, keepdim=True)
dlogits += F.one_hot(logits.max(1).indices, num_classes=logits.shape[1]) * dlogit_maxes
dh = dlogits @ W2.T
dW2 = h.T @ dlogits
db2 = dlogits.sum(0)
dhpreact = (1.0 - h**2) * dh
"""

NORM = """\
dbngain = (bnraw * dhpreact).sum(0, keepdim=True)
dbnraw = bngain * dhpreact
dbnbias = dhpreact.sum(0, keepdim=True)
dbndiff = bnvar_inv * dbnraw
dbnvar_inv = (bndiff * dbnraw).sum(0, keepdim=True)
dbnvar = (-0.5*(bnvar + 1e-5)**-1.5) * dbnvar_inv
dbndiff2 = (1.0/(n-1))*torch.ones_like(bndiff2) * dbnvar
dbndiff += (2*bndiff) * dbndiff2
dhprebn = dbndiff.clone()
dbnmeani = (-dbndiff).sum(0, keepdim=True)
dhprebn += 1.0/n * (torch.ones_like(hprebn) * dbnmeani)
"""

EMBEDDING = """\
dembcat = dhprebn @ W1.T
dW1 = embcat.T @ dhprebn
db1 = dhprebn.sum(0)
demb = dembcat.view(emb.shape)
dC = torch.zeros_like(C)
for k in range(Xb.shape[0]):
    for j in range(Xb.shape[1]):
        ix = Xb[k,j]
        dC[ix] += demb[k,j]
for name, d, t in [('C', dC, C), ('W1', dW1, W1), ('b1', db1, b1)]:
    cmp(name, d, t)
"""

FUSED_LOSS = """\
# Exercise 2: backprop through cross_entropy but all in one go
loss_fast = F.cross_entropy(logits, Yb)
print(loss_fast.item(), 'diff:', (loss_fast - loss).item())
dlogits = F.softmax(logits, 1)
dlogits[range(n), Yb] -= 1
dlogits /= n
cmp('logits', dlogits, logits)
"""

FUSED_NORM = """\
# Exercise 3: backprop through batchnorm but all in one go
hpreact_fast = bngain * (hprebn - hprebn.mean(0, keepdim=True)) / torch.sqrt(
    hprebn.var(0, keepdim=True, unbiased=True) + 1e-5) + bnbias
dhprebn = bngain*bnvar_inv/n * (n*dhpreact - dhpreact.sum(0) - n/(n-1)*bnraw*(dhpreact*bnraw).sum(0))
cmp('hprebn', dhprebn, hprebn)
"""

AGAIN = """\
# Exercise 4: putting it all together!
C = torch.randn((vocab_size, 5)); W1 = torch.randn((10, 4)); b1 = torch.zeros(4)
W2 = torch.randn((4, vocab_size)); b2 = torch.zeros(vocab_size)
parameters = [C, W1, b1, W2, b2]
for p in parameters:
    p.requires_grad = True
"""

TRAINING = """\
lossi = []
with torch.no_grad():
    for i in range(3):
        emb = C[Xb]
        embcat = emb.view(n, -1)
        h = torch.tanh(embcat @ W1 + b1)
        logits = h @ W2 + b2
        loss = F.cross_entropy(logits, Yb)
        dlogits = F.softmax(logits, 1)
        dlogits[range(n), Yb] -= 1
        dlogits /= n
        dh = dlogits @ W2.T
        dW2 = h.T @ dlogits
        W2 -= 0.1 * dW2
        lossi.append(loss.log10().item())
"""

PLOT = """\
plt.figure(figsize=(4, 4))
plt.imshow(dlogits.detach(), cmap='gray')
plt.show()
torch.Tensor.backward?
"""

# In the order of the notebook; the first code cell is cell 1.
CELLS = {
    "imports": IMPORTS,
    "utility": UTILITY,
    "parameters": PARAMETERS,
    "forward": FORWARD,
    "softmax": SOFTMAX,
    "logits": LOGITS,
    "norm": NORM,
    "embedding": EMBEDDING,
    "fused loss": FUSED_LOSS,
    "fused norm": FUSED_NORM,
    "again": AGAIN,
    "training": TRAINING,
    "plot": PLOT,
}


def number(cell: str) -> str:
    """Return what a report calls a cell."""
    return f"cell {list(CELLS).index(cell) + 1}"


def write_notebook(path: Path, *changes: tuple[str, str, str], until: str = "plot") -> Path:
    """Write the notebook, with changes (cell, pattern or text, what stands there instead), up to a cell."""
    cells = dict(CELLS)
    for cell, old, new in changes:
        assert old in cells[cell], old
        cells[cell] = cells[cell].replace(old, new)
    kept = list(cells)[: list(cells).index(until) + 1]
    found = [new_markdown_cell("# makemore: becoming a backprop ninja")]
    for name in kept:
        found += [new_markdown_cell(f"## {name}"), new_code_cell(cells[name])]
    nbformat.write(new_notebook(cells=found), path)
    return path
