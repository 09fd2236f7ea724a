"""Whole layers: products with their bias, dropout's mask, experts, embeddings, pooling, upsampling."""

import torch
import torch.nn.functional as F
from torch.autograd import Function


class AccumulatingLinear(Function):
    """A linear layer of any number of leading axes, flattened for the weight's gradient."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.use_bias = bias is not None
        output = torch.matmul(x, weight.t())
        if bias is not None:
            output = output + bias
        return output

    @staticmethod
    def backward(ctx, grad_output):
        x, weight = ctx.saved_tensors
        dx = grad_output.matmul(weight)
        grad_2d = grad_output.contiguous().view(-1, grad_output.shape[-1])
        x_2d = x.contiguous().view(-1, x.shape[-1])
        grad_weight = grad_2d.t().matmul(x_2d)
        grad_bias = grad_2d.sum(dim=0) if ctx.use_bias else None
        return dx, grad_weight, grad_bias


def accumulating_linear_reference(x, weight, bias):
    return F.linear(x, weight, bias)


def accumulating_linear_inputs(g):
    return {
        "x": torch.randn(2, 3, 5, generator=g),
        "weight": torch.randn(4, 5, generator=g),
        "bias": torch.randn(4, generator=g),
    }


class SwiGLUMLP(Function):
    """A whole gated layer; what it does not save it computes again, and it writes over its buffers."""

    @staticmethod
    def forward(ctx, X, gate_w, up_w, down_w):
        e = X @ gate_w.t()
        g = X @ up_w.t()
        f = F.silu(e)
        ctx.save_for_backward(X, e, g, gate_w, up_w, down_w)
        return (f * g) @ down_w.t()

    @staticmethod
    def backward(ctx, dY):
        X, e, g, gate_w, up_w, down_w = ctx.saved_tensors
        se = torch.sigmoid(e)
        f = se * e
        h = f * g
        DW = dY @ down_w
        ddown = dY.t() @ h
        df = DW * f
        de = DW * g
        de = de * se * (1.0 + e * (1.0 - se))
        dup = df.t() @ X
        dgate = de.t() @ X
        dX = df @ up_w
        dX += de @ gate_w
        return dX, dgate, dup, ddown


def swi_glu_mlp_reference(X, gate_w, up_w, down_w):
    return F.linear(F.silu(F.linear(X, gate_w)) * F.linear(X, up_w), down_w)


def swi_glu_mlp_inputs(g):
    return {
        "X": torch.randn(5, 3, generator=g),
        "gate_w": torch.randn(4, 3, generator=g),
        "up_w": torch.randn(4, 3, generator=g),
        "down_w": torch.randn(3, 4, generator=g),
    }


class BiasDropoutAdd(Function):
    """With the mask of the dropout given; adds the residual."""

    @staticmethod
    def forward(ctx, x, bias, residual, mask, p):
        keep = mask / (1.0 - p)
        ctx.save_for_backward(keep)
        return residual + (x + bias) * keep

    @staticmethod
    def backward(ctx, grad):
        (keep,) = ctx.saved_tensors
        dx = grad * keep
        dbias = dx.sum(dim=(0, 1))
        return dx, dbias, grad, None, None


def bias_dropout_add_reference(x, bias, residual, mask, p):
    return residual + torch.where(mask.detach() > 0, (x + bias) / (1 - p), 0)


def bias_dropout_add_inputs(g):
    return {
        "x": torch.randn(2, 4, 5, generator=g),
        "bias": torch.randn(5, generator=g),
        "residual": torch.randn(2, 4, 5, generator=g),
        "mask": (torch.rand(2, 4, 5, generator=g) > 0.25).float(),
        "p": 0.25,
    }


class Dropout(Function):
    """Draws its mask itself."""

    @staticmethod
    def forward(ctx, x, p):
        mask = (torch.rand_like(x) > p).to(x.dtype)
        ctx.save_for_backward(mask)
        ctx.p = p
        return x * mask / (1 - p)

    @staticmethod
    def backward(ctx, dy):
        (mask,) = ctx.saved_tensors
        dx = dy * mask
        dx = dx / (1 - ctx.p)
        return dx, None


def dropout_reference(x, p):
    mask = (torch.rand_like(x) > p).to(x.dtype)
    return x * mask / (1 - p)


def dropout_inputs(g):
    return {"x": torch.randn(6, 5, generator=g), "p": 0.3}


class PositionEmbedding(Function):
    """Tokens and positions; equal tokens add up."""

    @staticmethod
    def forward(ctx, tokens, table, positions):
        ctx.save_for_backward(tokens)
        ctx.rows = table.shape[0]
        return table[tokens] + positions[: tokens.shape[1]]

    @staticmethod
    def backward(ctx, dy):
        (tokens,) = ctx.saved_tensors
        flat = dy.reshape(-1, dy.shape[-1])
        dtable = flat.new_zeros(ctx.rows, flat.shape[-1])
        dtable.index_add_(0, tokens.reshape(-1), flat)
        dpositions = dy.sum(0)
        return None, dtable, dpositions


def position_embedding_reference(tokens, table, positions):
    return F.embedding(tokens, table) + positions


def position_embedding_inputs(g):
    return {
        "tokens": torch.randint(0, 6, (3, 4), generator=g),
        "table": torch.randn(6, 5, generator=g),
        "positions": torch.randn(4, 5, generator=g),
    }


class MixExperts(Function):
    """Puts rows back in their order and adds those of one token, weighted."""

    @staticmethod
    def forward(ctx, expert_rows, weights, index, tokens):
        out = expert_rows.new_zeros(tokens, expert_rows.shape[1])
        out.index_add_(0, index, expert_rows * weights[:, None])
        ctx.save_for_backward(expert_rows, weights, index)
        return out

    @staticmethod
    def backward(ctx, dout):
        rows, weights, index = ctx.saved_tensors
        drows_weighted = dout[index]
        drows = drows_weighted * weights[:, None]
        dweights = (drows_weighted * rows).sum(-1)
        return drows, dweights, None, None


def mix_experts_reference(expert_rows, weights, index, tokens):
    onehot = F.one_hot(index, tokens).to(expert_rows.dtype)
    return torch.einsum("rt,r,rd->td", onehot, weights, expert_rows)


def mix_experts_inputs(g):
    return {
        "expert_rows": torch.randn(8, 3, generator=g),
        "weights": torch.rand(8, generator=g),
        "index": torch.randint(0, 5, (8,), generator=g),
        "tokens": 5,
    }


class AveragePool(Function):
    """The mean of what a mask keeps of each sequence."""

    @staticmethod
    def forward(ctx, x, lengths):
        steps = torch.arange(x.shape[1], device=x.device)
        mask = (steps[None] < lengths[:, None]).to(x.dtype)
        ctx.save_for_backward(mask, lengths)
        return (x * mask[..., None]).sum(1) / lengths[:, None]

    @staticmethod
    def backward(ctx, dy):
        mask, lengths = ctx.saved_tensors
        dmean = dy / lengths[:, None]
        dx = dmean[:, None, :] * mask[:, :, None]
        return dx, None


def average_pool_reference(x, lengths):
    return torch.stack([row[:n].mean(0) for row, n in zip(x, lengths.tolist(), strict=True)])


def average_pool_inputs(g):
    return {"x": torch.randn(3, 5, 4, generator=g), "lengths": torch.tensor([5, 2, 3])}


class WeightNorm(Function):
    """A direction and a length for every row of a weight."""

    @staticmethod
    def forward(ctx, v, g):
        norms = v.norm(2, dim=1, keepdim=True)
        ctx.save_for_backward(v, g, norms)
        return v * (g / norms)

    @staticmethod
    def backward(ctx, dw):
        v, g, norms = ctx.saved_tensors
        dot = (dw * v).sum(1, keepdim=True)
        dg = dot / norms
        dv = g / norms * dw - g * dot * v / norms**3
        return dv, dg


def weight_norm_reference(v, g):
    return torch._weight_norm(v, g, 0)


def weight_norm_inputs(g):
    return {"v": torch.randn(4, 6, generator=g), "g": torch.rand(4, 1, generator=g) + 0.5}


class Conv2d(Function):
    """By unfolding; the gradient of the input is folded back."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        k = weight.shape[-1]
        cols = F.unfold(x, k, padding=1)
        out = weight.flatten(1) @ cols + bias[:, None]
        return out.view(x.shape[0], -1, *x.shape[2:])

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        k = weight.shape[-1]
        g = grad.flatten(2)
        cols = F.unfold(x, k, padding=1)
        dweight = (g @ cols.transpose(1, 2)).sum(0).view_as(weight)
        dbias = g.sum((0, 2))
        dcols = weight.flatten(1).t() @ g
        dx = F.fold(dcols, x.shape[2:], k, padding=1)
        return dx, dweight, dbias


def conv2d_reference(x, weight, bias):
    return F.conv2d(x, weight, bias, padding=1)


def conv2d_inputs(g):
    return {
        "x": torch.randn(2, 3, 4, 5, generator=g),
        "weight": torch.randn(2, 3, 3, 3, generator=g),
        "bias": torch.randn(2, generator=g),
    }


class AddInPlace(Function):
    """Adds to its first argument, and says so."""

    @staticmethod
    def forward(ctx, x, delta, scale):
        ctx.mark_dirty(x)
        ctx.save_for_backward(delta, scale)
        return x.add_(delta * scale)

    @staticmethod
    def backward(ctx, dy):
        delta, scale = ctx.saved_tensors
        ddelta = dy * scale
        dscale = (dy * delta).sum(0)
        return dy, ddelta, dscale


def add_in_place_reference(x, delta, scale):
    return x + delta * scale


def add_in_place_inputs(g):
    return {
        "x": torch.randn(4, 3, generator=g),
        "delta": torch.randn(4, 3, generator=g),
        "scale": torch.randn(3, generator=g),
    }
