"""Rounding, thresholds and routing: gradients that are meant to be others than autograd's."""

import math

import torch
from torch.autograd import Function


class LearnedStep(Function):
    """Rounds to a grid whose step is learned."""

    @staticmethod
    def forward(ctx, x, step, low, high):
        scaled = x / step
        q = scaled.clamp(low, high).round()
        ctx.save_for_backward(scaled, q)
        ctx.bounds = low, high
        return q * step

    @staticmethod
    def backward(ctx, dy):
        scaled, q = ctx.saved_tensors
        low, high = ctx.bounds
        inside = (scaled >= low) & (scaled <= high)
        dx = dy * inside
        dstep = dy * (q - torch.where(inside, scaled, torch.zeros_like(scaled)))
        return dx, dstep.sum(), None, None


def learned_step_reference(x, step, low, high):
    scaled = (x / step).clamp(low, high)
    return (scaled + (scaled.round() - scaled).detach()) * step


def learned_step_inputs(g):
    return {"x": 2 * torch.randn(6, 5, generator=g), "step": torch.tensor(0.37), "low": -4, "high": 3}


class Binarise(Function):
    """The sign, scaled by the mean of what is there; lets through what is at most one."""

    @staticmethod
    def forward(ctx, w):
        alpha = w.abs().mean(1, keepdim=True)
        ctx.save_for_backward(w, alpha)
        return alpha * torch.sign(w)

    @staticmethod
    def backward(ctx, grad):
        w, alpha = ctx.saved_tensors
        sign = torch.sign(w)
        through = grad * alpha * (w.abs() <= 1)
        dalpha = (grad * sign).sum(1, keepdim=True)
        return through + dalpha * sign / w.shape[1]


def binarise_reference(w):
    alpha = w.abs().mean(1, keepdim=True)
    passed = w.clamp(-1, 1)
    return alpha * (passed + (torch.sign(w) - passed).detach())


def binarise_inputs(g):
    return {"w": torch.randn(4, 6, generator=g)}


class FastSigmoidSpike(Function):
    """A spike above a threshold; the slope of a fast sigmoid stands for its derivative."""

    @staticmethod
    def forward(ctx, mem, threshold, slope):
        shifted = mem - threshold
        ctx.save_for_backward(shifted)
        ctx.slope = slope
        return (shifted > 0).float()

    @staticmethod
    def backward(ctx, grad_output):
        (shifted,) = ctx.saved_tensors
        grad_input = grad_output.clone()
        grad = grad_input / (ctx.slope * torch.abs(shifted) + 1.0) ** 2
        return grad, None, None


def fast_sigmoid_spike_reference(mem, threshold, slope):
    x = mem - threshold
    smooth = x / (1 + slope * x.abs())
    return smooth - smooth.detach() + (x > 0).to(mem.dtype)


def fast_sigmoid_spike_inputs(g):
    return {"mem": torch.randn(5, 6, generator=g), "threshold": 0.4, "slope": 5.0}


class ArctanSpike(Function):
    """The same with an arctangent."""

    @staticmethod
    def forward(ctx, v, alpha):
        ctx.save_for_backward(v)
        ctx.alpha = alpha
        return (v >= 0).to(v.dtype)

    @staticmethod
    def backward(ctx, grad):
        (v,) = ctx.saved_tensors
        scaled = math.pi / 2 * ctx.alpha * v
        slope = ctx.alpha / 2 / (1 + scaled.square())
        return slope * grad, None


def arctan_spike_reference(v, alpha):
    smooth = torch.atan(math.pi / 2 * alpha * v) / math.pi
    return smooth - smooth.detach() + (v >= 0).to(v.dtype)


def arctan_spike_inputs(g):
    return {"v": torch.randn(4, 7, generator=g), "alpha": 2.0}


class GradientReversal(Function):
    """Gives its input on, and sends the gradient back turned round."""

    @staticmethod
    def forward(ctx, x, strength):
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        reversed_ = -grad
        return reversed_ * ctx.strength, None


def gradient_reversal_reference(x, strength):
    return (1 + strength) * x.detach() - strength * x


def gradient_reversal_inputs(g):
    return {"x": torch.randn(4, 5, generator=g), "strength": 0.3}


class FakeQuantLinear(Function):
    """A product with a weight rounded to eight bits; the rounding is passed over."""

    @staticmethod
    def forward(ctx, x, weight):
        scale = weight.abs().amax(1, keepdim=True) / 127.0
        wq = torch.round(weight / scale) * scale
        ctx.save_for_backward(x, wq)
        return x @ wq.t()

    @staticmethod
    def backward(ctx, dy):
        x, wq = ctx.saved_tensors
        dx = dy @ wq
        dw = dy.flatten(0, -2).t() @ x.flatten(0, -2)
        return dx, dw


def fake_quant_linear_reference(x, weight):
    scale = weight.detach().abs().amax(1, keepdim=True) / 127.0
    rounded = torch.round(weight.detach() / scale) * scale
    return x @ (weight + (rounded - weight.detach())).t()


def fake_quant_linear_inputs(g):
    return {"x": torch.randn(2, 3, 5, generator=g), "weight": torch.randn(4, 5, generator=g)}


class TopOne(Function):
    """Sends each token to one expert, weighted by its probability."""

    @staticmethod
    def forward(ctx, logits, expert_out):
        probs = torch.softmax(logits, -1)
        gate, choice = probs.max(-1)
        rows = torch.arange(len(choice))
        picked = expert_out[choice, rows]
        ctx.save_for_backward(probs, gate, choice, picked)
        ctx.experts = expert_out.shape[0]
        return gate[:, None] * picked

    @staticmethod
    def backward(ctx, dy):
        probs, gate, choice, picked = ctx.saved_tensors
        rows = torch.arange(len(choice))
        dgate = (dy * picked).sum(-1)
        dprobs = torch.zeros_like(probs)
        dprobs[rows, choice] = dgate
        inner = (dprobs * probs).sum(-1, keepdim=True)
        dlogits = probs * (dprobs - inner)
        dexpert = dy.new_zeros(ctx.experts, *dy.shape)
        dexpert[choice, rows] = gate[:, None] * dy
        return dlogits, dexpert


def top_one_reference(logits, expert_out):
    probs = torch.softmax(logits, -1)
    onehot = torch.nn.functional.one_hot(probs.argmax(-1), logits.shape[-1]).to(probs.dtype)
    return torch.einsum("ne,end->nd", onehot * probs, expert_out)


def top_one_inputs(g):
    return {"logits": torch.randn(6, 3, generator=g), "expert_out": torch.randn(3, 6, 4, generator=g)}
