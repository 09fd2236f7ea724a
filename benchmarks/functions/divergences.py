"""More losses: chunked, smoothed, between distributions, between pairs."""

import torch
import torch.nn.functional as F
from torch.autograd import Function


class SmoothedCrossEntropy(Function):
    """Labels are smoothed, some rows ignored; the mean is over the others."""

    @staticmethod
    def forward(ctx, logits, target, smoothing, ignore_index):
        x = logits.float()
        valid = target != ignore_index
        lse = torch.logsumexp(x, dim=-1)
        safe = target.masked_fill(~valid, 0)
        at = x.gather(1, safe[:, None]).squeeze(1)
        n = valid.sum()
        loss = lse - (1 - smoothing) * at - smoothing * x.mean(-1)
        ctx.save_for_backward(x, lse, safe, valid)
        ctx.smoothing, ctx.dtype = smoothing, logits.dtype
        return (loss * valid).sum() / n

    @staticmethod
    def backward(ctx, grad_output):
        x, lse, safe, valid = ctx.saved_tensors
        vocab = x.shape[-1]
        grad = torch.exp(x - lse[:, None])
        grad -= ctx.smoothing / vocab
        grad.scatter_add_(1, safe[:, None], torch.full_like(lse[:, None], ctx.smoothing - 1))
        weight = valid / valid.sum()
        grad *= weight[:, None]
        grad = grad * grad_output
        return grad.to(ctx.dtype), None, None, None


def smoothed_cross_entropy_reference(logits, target, smoothing, ignore_index):
    return F.cross_entropy(logits, target, label_smoothing=smoothing, ignore_index=ignore_index)


def smoothed_cross_entropy_inputs(g):
    target = torch.randint(0, 6, (7,), generator=g)
    target[2] = -100
    return {
        "logits": torch.randn(7, 6, generator=g),
        "target": target,
        "smoothing": 0.1,
        "ignore_index": -100,
    }


class FusedLinearCrossEntropy(Function):
    """A projection and a cross entropy in chunks; all gradients are made in the forward."""

    @staticmethod
    def forward(ctx, x, weight, target, chunk):
        n = x.shape[0]
        dx, dweight = torch.empty_like(x), torch.zeros_like(weight)
        loss = x.new_zeros(())
        for start in range(0, n, chunk):
            part, labels = x[start : start + chunk], target[start : start + chunk]
            logits = part @ weight.t()
            logp = logits.log_softmax(-1)
            loss -= logp.gather(1, labels[:, None]).sum()
            dlogits = logp.exp()
            dlogits[torch.arange(len(labels)), labels] -= 1
            dx[start : start + chunk] = dlogits @ weight
            dweight += dlogits.t() @ part
        ctx.save_for_backward(dx, dweight)
        ctx.n = n
        return loss / n

    @staticmethod
    def backward(ctx, dloss):
        dx, dweight = ctx.saved_tensors
        factor = dloss / ctx.n
        return dx * factor, dweight * factor, None, None


def fused_linear_cross_entropy_reference(x, weight, target, chunk):
    return F.cross_entropy(x @ weight.t(), target)


def fused_linear_cross_entropy_inputs(g):
    return {
        "x": torch.randn(5, 4, generator=g),
        "weight": torch.randn(6, 4, generator=g),
        "target": torch.randint(0, 6, (5,), generator=g),
        "chunk": 2,
    }


class JensenShannon(Function):
    """The generalised divergence between two distributions given by their logs, at a mixture of beta."""

    @staticmethod
    def forward(ctx, log_q, log_p, beta):
        q, p = log_q.exp(), log_p.exp()
        m = beta * p + (1 - beta) * q
        log_m = m.log()
        loss = beta * p * (log_p - log_m) + (1 - beta) * q * (log_q - log_m)
        n = log_q.shape[0]
        ctx.save_for_backward((1 - beta) * q * (log_q - log_m) / n)
        return loss.sum() / n

    @staticmethod
    def backward(ctx, grad_output):
        (dlog_q,) = ctx.saved_tensors
        dlog_q = dlog_q * grad_output
        return dlog_q, None, None


def jensen_shannon_reference(log_q, log_p, beta):
    log_p = log_p.detach()
    log_m = torch.logaddexp(log_p + torch.tensor(beta).log(), log_q + torch.tensor(1 - beta).log())
    kl_p = F.kl_div(log_m, log_p, reduction="batchmean", log_target=True)
    kl_q = F.kl_div(log_m, log_q, reduction="batchmean", log_target=True)
    return beta * kl_p + (1 - beta) * kl_q


def jensen_shannon_inputs(g):
    return {
        "log_q": torch.randn(5, 6, generator=g).log_softmax(-1),
        "log_p": torch.randn(5, 6, generator=g).log_softmax(-1),
        "beta": 0.3,
    }


class KLDivergence(Function):
    """Of a prediction in logs and a target; a mask for rows that do not count."""

    @staticmethod
    def forward(ctx, y_pred, y_true, mask):
        per_row = (y_true * (y_true.clamp(min=1e-10).log() - y_pred)).sum(-1)
        ctx.save_for_backward(y_true, mask)
        return (per_row * mask).sum() / mask.sum()

    @staticmethod
    def backward(ctx, grad_output):
        y_true, mask = ctx.saved_tensors
        derivative = -y_true
        derivative = derivative * mask[:, None]
        derivative = derivative / mask.sum()
        return derivative * grad_output, None, None


def kl_divergence_reference(y_pred, y_true, mask):
    rows = F.kl_div(y_pred, y_true.detach(), reduction="none").sum(-1)
    return rows[mask.detach() > 0].mean()


def kl_divergence_inputs(g):
    return {
        "y_pred": torch.randn(5, 4, generator=g).log_softmax(-1),
        "y_true": torch.randn(5, 4, generator=g).softmax(-1),
        "mask": torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0]),
    }


class ParallelCrossEntropy(Function):
    """The vocabulary lies in two parts; the maxima and sums are put together as over two devices."""

    @staticmethod
    def forward(ctx, left, right, target):
        top = torch.maximum(left.amax(-1), right.amax(-1))
        parts = [left - top[:, None], right - top[:, None]]
        exps = [p.exp() for p in parts]
        total = sum(e.sum(-1) for e in exps)
        size = left.shape[-1]
        in_left = target < size
        local = [torch.where(in_left, target, 0), torch.where(in_left, 0, target - size)]
        at = [p.gather(-1, i[:, None])[:, 0] for p, i in zip(parts, local, strict=True)]
        ctx.save_for_backward(exps[0] / total[:, None], exps[1] / total[:, None], *local, in_left)
        return total.log() - torch.where(in_left, at[0], at[1])

    @staticmethod
    def backward(ctx, grad):
        pl, pr, il, ir, in_left = ctx.saved_tensors
        rows = torch.arange(pl.shape[0])
        dl, dr = pl.clone(), pr.clone()
        dl[rows, il] -= in_left.to(dl.dtype)
        dr[rows, ir] -= 1.0 - in_left.to(dr.dtype)
        dl.mul_(grad.unsqueeze(-1))
        dr.mul_(grad.unsqueeze(-1))
        return dl, dr, None


def parallel_cross_entropy_reference(left, right, target):
    return F.cross_entropy(torch.cat([left, right], -1), target, reduction="none")


def parallel_cross_entropy_inputs(g):
    return {
        "left": torch.randn(5, 3, generator=g),
        "right": torch.randn(5, 4, generator=g),
        "target": torch.randint(0, 7, (5,), generator=g),
    }


class FocalLoss(Function):
    """For two classes; the easy ones count less."""

    @staticmethod
    def forward(ctx, logits, target, gamma):
        p = torch.sigmoid(logits)
        pt = torch.where(target > 0, p, 1 - p)
        ctx.save_for_backward(pt, target)
        ctx.gamma = gamma
        return -((1 - pt) ** gamma * pt.log()).mean()

    @staticmethod
    def backward(ctx, dloss):
        pt, target = ctx.saved_tensors
        gamma = ctx.gamma
        dpt = gamma * (1 - pt) ** (gamma - 1) * pt.log() - (1 - pt) ** gamma / pt
        sign = torch.where(target > 0, 1.0, -1.0).to(pt.dtype)
        dlogits = dpt * pt * (1 - pt) * sign
        return dlogits * dloss / pt.numel(), None, None


def focal_loss_reference(logits, target, gamma):
    ce = F.binary_cross_entropy_with_logits(logits, target.detach(), reduction="none")
    return ((1 - torch.exp(-ce)) ** gamma * ce).mean()


def focal_loss_inputs(g):
    target = (torch.rand(4, 5, generator=g) > 0.5).float()
    return {"logits": torch.randn(4, 5, generator=g), "target": target, "gamma": 2.0}


class ContrastiveLoss(Function):
    """Pairs of the same row belong together; both directions count."""

    @staticmethod
    def forward(ctx, a, b, scale):
        logits = scale * a @ b.t()
        rows, columns = logits.softmax(1), logits.softmax(0)
        ctx.save_for_backward(a, b, scale, rows, columns)
        labels = torch.arange(len(a), device=a.device)
        return 0.5 * (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels))

    @staticmethod
    def backward(ctx, dloss):
        a, b, scale, rows, columns = ctx.saved_tensors
        n = a.shape[0]
        eye = torch.eye(n, dtype=a.dtype, device=a.device)
        dlogits = (rows + columns - 2 * eye) * (0.5 * dloss / n)
        da = scale * dlogits @ b
        db = scale * dlogits.t() @ a
        dscale = (dlogits * (a @ b.t())).sum()
        return da, db, dscale


def contrastive_loss_reference(a, b, scale):
    logits = scale * a @ b.t()
    own = logits.diagonal()
    return (0.5 * (logits.logsumexp(1) + logits.logsumexp(0)) - own).mean()


def contrastive_loss_inputs(g):
    return {
        "a": torch.randn(4, 3, generator=g),
        "b": torch.randn(4, 3, generator=g),
        "scale": torch.tensor(0.8),
    }


class Huber(Function):
    """Quadratic near zero, and straight beyond; for both of its arguments."""

    @staticmethod
    def forward(ctx, pred, target, delta):
        diff = pred - target
        ctx.save_for_backward(diff)
        ctx.delta = delta
        small = diff.abs() <= delta
        return torch.where(small, 0.5 * diff**2, delta * (diff.abs() - 0.5 * delta)).mean()

    @staticmethod
    def backward(ctx, dloss):
        (diff,) = ctx.saved_tensors
        clipped = diff.clamp(-ctx.delta, ctx.delta)
        dpred = dloss * clipped / diff.numel()
        return dpred, -dpred, None


def huber_reference(pred, target, delta):
    return F.huber_loss(pred, target, delta=delta)


def huber_inputs(g):
    return {"pred": torch.randn(5, 4, generator=g), "target": torch.randn(5, 4, generator=g), "delta": 0.9}
