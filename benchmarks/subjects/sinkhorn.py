"""A matrix made nearly doubly stochastic by normalising its rows and columns in turn, in logarithms."""

import torch

out = "plan"


def forward(cost, eps=0.7):
    """Return the plan (n, m) of a cost (n, m) after three rounds."""
    current, rounds = -cost / eps, []
    for _ in range(3):
        a = current - torch.logsumexp(current, 1, keepdim=True)
        b = a - torch.logsumexp(a, 0, keepdim=True)
        rounds.append((a, b))
        current = b
    plan = torch.exp(current)
    return {"rounds": rounds, "plan": plan}


def backward(dplan, plan, rounds, eps=0.7):
    """Compute the gradient of the cost; of the rounds only what they gave is kept."""
    dcurrent = dplan * plan
    for a, b in reversed(rounds):
        db = dcurrent
        da = db - torch.exp(b) * db.sum(0, keepdim=True)
        dcurrent = da - torch.exp(a) * da.sum(1, keepdim=True)
    dcost = -dcurrent / eps
    return {"dcost": dcost}


def inputs(generator):
    """Draw the cost of 4 by 5."""
    return {"cost": torch.rand(4, 5, generator=generator) * 2}
