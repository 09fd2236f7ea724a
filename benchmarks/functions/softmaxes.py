"""The softmax family: sparse ones, with temperatures, sinks, masks and biases."""

import torch
import torch.nn.functional as F
from torch.autograd import Function


class Softmax(Function):
    """Along any axis, in float32 inside; keeps its output."""

    @staticmethod
    def forward(ctx, x, dim):
        shifted = x.float() - x.float().amax(dim, keepdim=True)
        e = shifted.exp()
        y = (e / e.sum(dim, keepdim=True)).to(x.dtype)
        ctx.save_for_backward(y)
        ctx.dim = dim
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        yf = y.float()
        prod = yf * dy.float()
        total = prod.sum(ctx.dim, keepdim=True)
        dx = prod - yf * total
        return dx.to(dy.dtype), None


def softmax_reference(x, dim):
    return torch.softmax(x, dim)


def softmax_inputs(g):
    return {"x": torch.randn(3, 5, 4, generator=g), "dim": 1}


class LogSoftmax(Function):
    """Keeps its output."""

    @staticmethod
    def forward(ctx, x):
        y = x - torch.logsumexp(x, -1, keepdim=True)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        probs = y.exp()
        return grad - probs * grad.sum(-1, keepdim=True)


def log_softmax_reference(x):
    return F.log_softmax(x, -1)


def log_softmax_inputs(g):
    return {"x": torch.randn(4, 6, generator=g)}


def project(z):
    """Return the nearest point of the simplex, row by row."""
    ordered, _ = z.sort(-1, descending=True)
    cumulated = ordered.cumsum(-1) - 1
    rank = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    k = (rank * ordered > cumulated).sum(-1, keepdim=True)
    tau = cumulated.gather(-1, k - 1) / k.to(z.dtype)
    return (z - tau).clamp(min=0)


class Sparsemax(Function):
    """The gradient is centred over what is not zero."""

    @staticmethod
    def forward(ctx, z):
        p = project(z)
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx, grad_output):
        (p,) = ctx.saved_tensors
        support = (p > 0).to(grad_output.dtype)
        masked = grad_output * support
        v_hat = masked.sum(-1, keepdim=True) / support.sum(-1, keepdim=True)
        return support * (grad_output - v_hat)


def sparsemax_reference(z):
    return project(z)


def sparsemax_inputs(g):
    return {"z": torch.randn(5, 7, generator=g)}


class SparsemaxLoss(Function):
    """Ends in one loss a row; the gradient is that of the projection minus the target."""

    @staticmethod
    def forward(ctx, z, target):
        p = project(z)
        onehot = F.one_hot(target, z.shape[-1]).to(z.dtype)
        omega = 0.5 * (1 - p.square().sum(-1))
        ctx.save_for_backward(p, onehot)
        return omega + ((p - onehot) * z).sum(-1)

    @staticmethod
    def backward(ctx, dloss):
        p, onehot = ctx.saved_tensors
        residual = p - onehot
        return dloss.unsqueeze(-1) * residual, None


def sparsemax_loss_reference(z, target):
    p = project(z)
    picked = z.gather(-1, target[:, None])[:, 0]
    return 0.5 * (1 - p.square().sum(-1)) + (p * z).sum(-1) - picked


def sparsemax_loss_inputs(g):
    return {"z": torch.randn(5, 6, generator=g), "target": torch.randint(0, 6, (5,), generator=g)}


class TemperedSoftmax(Function):
    """Learns its temperature, one a head."""

    @staticmethod
    def forward(ctx, x, log_tau):
        tau = log_tau.exp()[:, None, None]
        p = torch.softmax(x / tau, -1)
        ctx.save_for_backward(x, p, tau)
        return p

    @staticmethod
    def backward(ctx, dp):
        x, p, tau = ctx.saved_tensors
        ds = p * (dp - (dp * p).sum(-1, keepdim=True))
        dx = ds / tau
        dtau = -(ds * x).sum((-2, -1)) / tau.flatten() ** 2
        dlog_tau = dtau * tau.flatten()
        return dx, dlog_tau


def tempered_softmax_reference(x, log_tau):
    return torch.softmax(x * torch.exp(-log_tau)[:, None, None], -1)


def tempered_softmax_inputs(g):
    return {"x": torch.randn(3, 4, 5, generator=g), "log_tau": 0.3 * torch.randn(3, generator=g)}


class SinkSoftmax(Function):
    """A logit that takes its share and is then left out."""

    @staticmethod
    def forward(ctx, scores, sink):
        heads = sink.view(-1, 1, 1)
        top = torch.maximum(scores.amax(-1, keepdim=True), heads)
        e = torch.exp(scores - top)
        es = torch.exp(heads - top)
        denominator = e.sum(-1, keepdim=True) + es
        p = e / denominator
        ctx.save_for_backward(p, es / denominator)
        return p

    @staticmethod
    def backward(ctx, dp):
        p, ps = ctx.saved_tensors
        inner = (dp * p).sum(-1, keepdim=True)
        dscores = p * (dp - inner)
        dsink = -(ps * inner).sum((1, 2))
        return dscores, dsink


def sink_softmax_reference(scores, sink):
    column = sink.view(-1, 1, 1).expand(-1, scores.shape[1], 1)
    return torch.softmax(torch.cat([scores, column], -1), -1)[..., :-1]


def sink_softmax_inputs(g):
    return {"scores": torch.randn(3, 4, 5, generator=g), "sink": torch.randn(3, generator=g)}


class BiasedSoftmax(Function):
    """A bias for every pair, the same for the whole batch."""

    @staticmethod
    def forward(ctx, scores, bias, mask):
        s = scores + bias
        s = s.masked_fill(mask[:, None, None, :], -1e9)
        p = torch.softmax(s, -1)
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx, dp):
        (p,) = ctx.saved_tensors
        row = torch.sum(dp * p, dim=-1, keepdim=True)
        ds = (dp - row) * p
        dbias = ds.sum(dim=0)
        return ds, dbias, None


def biased_softmax_reference(scores, bias, mask):
    return torch.softmax((scores + bias).masked_fill(mask[:, None, None, :], float("-inf")), -1)


def biased_softmax_inputs(g):
    return {
        "scores": torch.randn(2, 3, 4, 5, generator=g),
        "bias": torch.randn(3, 4, 5, generator=g),
        "mask": torch.tensor([[False] * 5, [False, False, False, True, True]]),
    }


class SoftCap(Function):
    """Keeps logits below a limit."""

    @staticmethod
    def forward(ctx, logits, cap):
        t = torch.tanh(logits / cap)
        ctx.save_for_backward(t)
        ctx.cap = cap
        return t * cap

    @staticmethod
    def backward(ctx, dy):
        (t,) = ctx.saved_tensors
        dlogits = dy * (1 - t * t)
        return dlogits, None


def soft_cap_reference(logits, cap):
    return cap * torch.tanh(logits / cap)


def soft_cap_inputs(g):
    return {"logits": 3 * torch.randn(4, 6, generator=g), "cap": 5.0}
