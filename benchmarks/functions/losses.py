"""Losses: fused, masked, scaled, some with the gradient made in the forward."""

import torch
import torch.nn.functional as F
from torch.autograd import Function


class CrossEntropy(Function):
    """One loss a row, with the log of the sum kept."""

    @staticmethod
    def forward(ctx, logits, labels):
        lse = torch.logsumexp(logits.float(), -1)
        rows = torch.arange(len(labels))
        ctx.save_for_backward(logits, lse, labels)
        return lse - logits.float()[rows, labels]

    @staticmethod
    def backward(ctx, dlosses):
        logits, lse, labels = ctx.saved_tensors
        y = torch.exp(logits.float() - lse[:, None])
        y[torch.arange(len(labels)), labels] -= 1.0
        grad = y * dlosses[:, None]
        return grad.to(logits.dtype), None


def cross_entropy_reference(logits, labels):
    return F.cross_entropy(logits, labels, reduction="none")


def cross_entropy_inputs(g):
    return {"logits": torch.randn(6, 5, generator=g), "labels": torch.randint(0, 5, (6,), generator=g)}


class GradientInForward(Function):
    """The mean over the batch; the gradient is ready before the backward asks."""

    @staticmethod
    def forward(ctx, logits, labels):
        logp = torch.log_softmax(logits, -1)
        onehot = F.one_hot(labels, logits.shape[-1])
        ctx.save_for_backward(logp.exp() - onehot)
        return -(logp * onehot).sum() / len(labels)

    @staticmethod
    def backward(ctx, dloss):
        (grad,) = ctx.saved_tensors
        scale = dloss / grad.shape[0]
        return grad * scale, None


def gradient_in_forward_reference(logits, labels):
    return F.cross_entropy(logits, labels)


gradient_in_forward_inputs = cross_entropy_inputs


class SmoothedZLoss(Function):
    """Cross entropy with a penalty on the log of the sum; two outputs."""

    @staticmethod
    def forward(ctx, logits, labels, coefficient):
        lse = torch.logsumexp(logits, -1)
        rows = torch.arange(len(labels))
        ctx.save_for_backward(logits, lse, labels)
        ctx.coefficient = coefficient
        return lse - logits[rows, labels], coefficient * lse**2

    @staticmethod
    def backward(ctx, dce, dz):
        logits, lse, labels = ctx.saved_tensors
        p = torch.exp(logits - lse[:, None])
        dlse = dce + 2 * ctx.coefficient * lse * dz
        dx = p * dlse[:, None]
        dx[torch.arange(len(labels)), labels] -= dce
        return dx, None, None


def smoothed_z_loss_reference(logits, labels, coefficient):
    return F.cross_entropy(logits, labels, reduction="none"), coefficient * logits.logsumexp(-1) ** 2


def smoothed_z_loss_inputs(g):
    return cross_entropy_inputs(g) | {"coefficient": 0.1}


class Distillation(Function):
    """The Kullback-Leibler divergence to a teacher, at a temperature; the teacher learns nothing."""

    @staticmethod
    def forward(ctx, student, teacher, temperature):
        q = torch.softmax(teacher / temperature, -1)
        logp = torch.log_softmax(student / temperature, -1)
        ctx.save_for_backward(logp.exp(), q)
        ctx.temperature = temperature
        return (q * (q.log() - logp)).sum(-1).mean() * temperature**2

    @staticmethod
    def backward(ctx, dloss):
        p, q = ctx.saved_tensors
        n = p.shape[0]
        diff = p - q
        dstudent = dloss * diff * ctx.temperature / n
        return dstudent, None, None


def distillation_reference(student, teacher, temperature):
    q = torch.softmax(teacher.detach() / temperature, -1)
    logp = torch.log_softmax(student / temperature, -1)
    return F.kl_div(logp, q, reduction="batchmean") * temperature**2


def distillation_inputs(g):
    return {
        "student": torch.randn(4, 6, generator=g),
        "teacher": torch.randn(4, 6, generator=g),
        "temperature": 2.0,
    }


class Preference(Function):
    """The log-sigmoid of a margin between two rewards."""

    @staticmethod
    def forward(ctx, chosen, rejected, beta):
        margin = beta * (chosen - rejected)
        ctx.save_for_backward(margin)
        ctx.beta = beta
        return -F.logsigmoid(margin)

    @staticmethod
    def backward(ctx, dloss):
        (margin,) = ctx.saved_tensors
        s = torch.sigmoid(-margin)
        dchosen = -dloss * ctx.beta * s
        drejected = dloss * ctx.beta * s
        return dchosen, drejected, None


def preference_reference(chosen, rejected, beta):
    return F.softplus(-beta * (chosen - rejected))


def preference_inputs(g):
    return {"chosen": torch.randn(7, generator=g), "rejected": torch.randn(7, generator=g), "beta": 0.3}
