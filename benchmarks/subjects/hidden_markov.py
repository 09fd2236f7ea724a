"""The likelihood of observations under a hidden Markov model, by the forward algorithm in logarithms."""

import torch


def forward(transitions, emissions, start, seen):
    """Return minus the log likelihood of states (k, k), emissions (k, v), start (k,), observations (t,)."""
    A, B, first = transitions.log_softmax(1), emissions.log_softmax(1), start.log_softmax(0)
    alpha = first + B[:, seen[0]]  # (k,)
    alphas = [alpha]
    for t in range(1, len(seen)):
        alpha = torch.logsumexp(alpha[:, None] + A, 0) + B[:, seen[t]]
        alphas.append(alpha)
    loss = -torch.logsumexp(alpha, 0)
    return {"A": A, "B": B, "first": first, "alphas": alphas, "loss": loss}


def backward(transitions, emissions, start, seen, A, B, first, alphas):
    """Compute the gradients of the logarithms, then those of what they are normalised from."""
    dA, dB = torch.zeros_like(A), torch.zeros_like(B)
    dalpha = -torch.softmax(alphas[-1], 0)
    for t in range(len(seen) - 1, 0, -1):
        dB[:, seen[t]] += dalpha
        weights = torch.softmax(alphas[t - 1][:, None] + A, 0)
        dscores = weights * dalpha
        dA += dscores
        dalpha = dscores.sum(1)
    dB[:, seen[0]] += dalpha
    dfirst = dalpha
    dtransitions = dA - A.exp() * dA.sum(1, keepdim=True)
    demissions = dB - B.exp() * dB.sum(1, keepdim=True)
    dstart = dfirst - first.exp() * dfirst.sum()
    return {
        "dA": dA, "dB": dB, "dfirst": dfirst, "dtransitions": dtransitions, "demissions": demissions,
        "dstart": dstart,
    }  # fmt: skip


def inputs(generator):
    """Draw 3 states with 4 kinds of observations, of which 4 are seen."""
    shapes = {"transitions": (3, 3), "emissions": (3, 4), "start": (3,)}
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**drawn, "seen": torch.tensor([1, 0, 3, 2])}
