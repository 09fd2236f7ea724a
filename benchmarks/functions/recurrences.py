"""Recurrences and scans: selective state spaces, delta rules, gated units, spikes."""

import torch
from torch.autograd import Function


class SelectiveScan(Function):
    """A state space whose step, input and output matrices depend on the time."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D):
        h = u.new_zeros(u.shape[1], A.shape[1])
        hs, ys = [h], []
        for t in range(u.shape[0]):
            decay = torch.exp(delta[t][:, None] * A)
            h = decay * h + (delta[t] * u[t])[:, None] * B[t]
            hs.append(h)
            ys.append(h @ C[t] + D * u[t])
        ctx.save_for_backward(u, delta, A, B, C, D, torch.stack(hs))
        return torch.stack(ys)

    @staticmethod
    def backward(ctx, dy):
        u, delta, A, B, C, D, hs = ctx.saved_tensors
        du, ddelta = torch.zeros_like(u), torch.zeros_like(delta)
        dA, dB, dC = torch.zeros_like(A), torch.zeros_like(B), torch.zeros_like(C)
        dh = torch.zeros_like(hs[0])
        for t in reversed(range(u.shape[0])):
            dC[t] = hs[t + 1].t() @ dy[t]
            dh = dh + dy[t][:, None] * C[t]
            decay = torch.exp(delta[t][:, None] * A)
            ddecay = dh * hs[t] * decay
            dA += ddecay * delta[t][:, None]
            dx = (dh * B[t]).sum(-1)
            dB[t] = (dh * (delta[t] * u[t])[:, None]).sum(0)
            ddelta[t] = (ddecay * A).sum(-1) + dx * u[t]
            du[t] = dx * delta[t] + D * dy[t]
            dh = dh * decay
        dD = (dy * u).sum(0)
        return du, ddelta, dA, dB, dC, dD


def selective_scan_reference(u, delta, A, B, C, D):
    h = u.new_zeros(u.shape[1], A.shape[1])
    ys = []
    for t in range(u.shape[0]):
        h = torch.exp(torch.outer(delta[t], torch.ones_like(A[0])) * A) * h
        h = h + torch.outer(delta[t] * u[t], B[t])
        ys.append((h * C[t]).sum(-1) + D * u[t])
    return torch.stack(ys)


def selective_scan_inputs(g):
    return {
        "u": torch.randn(4, 3, generator=g),
        "delta": 0.1 + torch.rand(4, 3, generator=g),
        "A": -torch.rand(3, 2, generator=g) - 0.2,
        "B": torch.randn(4, 2, generator=g),
        "C": torch.randn(4, 2, generator=g),
        "D": torch.randn(3, generator=g),
    }


class WKV(Function):
    """A linear attention whose keys decay by `-exp(w)`, with a bonus for the present."""

    @staticmethod
    def forward(ctx, w, bonus, k, v):
        ew = -torch.exp(w)
        num, den = torch.zeros_like(k[0]), torch.zeros_like(k[0])
        ys = []
        for t in range(k.shape[0]):
            ek = torch.exp(k[t])
            here = torch.exp(bonus) * ek
            ys.append((num + here * v[t]) / (den + here))
            num = torch.exp(ew) * num + ek * v[t]
            den = torch.exp(ew) * den + ek
        ctx.save_for_backward(ew, bonus, k, v)
        return torch.stack(ys)

    @staticmethod
    def backward(ctx, gy):
        ew, bonus, k, v = ctx.saved_tensors
        decay, T = torch.exp(ew), k.shape[0]
        nums, dens = [torch.zeros_like(k[0])], [torch.zeros_like(k[0])]
        for t in range(T):
            nums.append(decay * nums[-1] + torch.exp(k[t]) * v[t])
            dens.append(decay * dens[-1] + torch.exp(k[t]))
        gk, gv = torch.empty_like(k), torch.empty_like(v)
        gdecay, gbonus = torch.zeros_like(ew), torch.zeros_like(ew)
        gnum, gden = torch.zeros_like(ew), torch.zeros_like(ew)
        for t in reversed(range(T)):
            gdecay += gnum * nums[t] + gden * dens[t]
            ek = torch.exp(k[t])
            here = torch.exp(bonus) * ek
            q = 1 / (dens[t] + here)
            y = (nums[t] + here * v[t]) * q
            gn = gy[t] * q
            gd = -gn * y
            gv[t] = gn * here + gnum * ek
            ghere = gn * v[t] + gd
            gbonus += ghere * here
            gk[t] = ghere * here + (gnum * v[t] + gden) * ek
            gnum = gn + decay * gnum
            gden = gd + decay * gden
        gw = gdecay * decay * ew
        return gw, gbonus, gk, gv


def wkv_reference(w, bonus, k, v):
    decay = torch.exp(-torch.exp(w))
    num = den = torch.zeros_like(k[0])
    ys = []
    for kt, vt in zip(k, v, strict=True):
        ys.append((num + torch.exp(bonus + kt) * vt) / (den + torch.exp(bonus + kt)))
        num = decay * num + torch.exp(kt) * vt
        den = decay * den + torch.exp(kt)
    return torch.stack(ys)


def wkv_inputs(g):
    return {
        "w": torch.randn(3, generator=g),
        "bonus": torch.randn(3, generator=g),
        "k": torch.randn(4, 3, generator=g),
        "v": torch.randn(4, 3, generator=g),
    }


class DeltaRule(Function):
    """A fast weight that is corrected towards each new value."""

    @staticmethod
    def forward(ctx, q, k, v, beta):
        S = q.new_zeros(k.shape[1], v.shape[1])
        states, us, os = [], [], []
        for t in range(q.shape[0]):
            states.append(S)
            u = beta[t] * (v[t] - k[t] @ S)
            S = S + torch.outer(k[t], u)
            us.append(u)
            os.append(q[t] @ S)
        states.append(S)
        ctx.save_for_backward(q, k, v, beta, torch.stack(states), torch.stack(us))
        return torch.stack(os)

    @staticmethod
    def backward(ctx, do):
        q, k, v, beta, states, us = ctx.saved_tensors
        dq, dk = torch.empty_like(q), torch.empty_like(k)
        dv, dbeta = torch.empty_like(v), torch.empty_like(beta)
        dS = torch.zeros_like(states[0])
        for t in range(q.shape[0] - 1, -1, -1):
            dq[t] = states[t + 1] @ do[t]
            dS = dS + torch.outer(q[t], do[t])
            du = k[t] @ dS
            err = v[t] - k[t] @ states[t]
            dbeta[t] = (du * err).sum()
            derr = du * beta[t]
            dv[t] = derr
            dk[t] = dS @ us[t] - states[t] @ derr
            dS = dS - torch.outer(k[t], derr)
        return dq, dk, dv, dbeta


def delta_rule_reference(q, k, v, beta):
    S = q.new_zeros(k.shape[1], v.shape[1])
    found = []
    for t in range(q.shape[0]):
        S = S + beta[t] * k[t][:, None] * (v[t] - (k[t][:, None] * S).sum(0))
        found.append((q[t][:, None] * S).sum(0))
    return torch.stack(found)


def delta_rule_inputs(g):
    return {
        "q": torch.randn(4, 2, generator=g),
        "k": torch.randn(4, 2, generator=g),
        "v": torch.randn(4, 3, generator=g),
        "beta": torch.rand(4, generator=g),
    }


class GatedCell(Function):
    """One step of an LSTM from its gates before they are squashed; returns the output and the cell."""

    @staticmethod
    def forward(ctx, gates, c_prev):
        i, f, g, o = gates.chunk(4, dim=1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * c_prev + i * g
        tc = c.tanh()
        ctx.save_for_backward(i, f, g, o, c_prev, tc)
        return o * tc, c

    @staticmethod
    def backward(ctx, dh, dc):
        i, f, g, o, c_prev, tc = ctx.saved_tensors
        do = dh * tc
        dc = dc + dh * o * (1 - tc * tc)
        di = dc * g
        df = dc * c_prev
        dg = dc * i
        dc_prev = dc * f
        di_in = di * i * (1 - i)
        df_in = df * f * (1 - f)
        dg_in = dg * (1 - g**2)
        do_in = do * o * (1 - o)
        return torch.cat([di_in, df_in, dg_in, do_in], dim=1), dc_prev


def gated_cell_reference(gates, c_prev):
    i, f, g, o = gates.chunk(4, dim=1)
    c = torch.sigmoid(f) * c_prev + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gated_cell_inputs(g):
    return {"gates": torch.randn(3, 20, generator=g), "c_prev": torch.randn(3, 5, generator=g)}


class MinimalGated(Function):
    """The final state beside all states; both have gradients."""

    @staticmethod
    def forward(ctx, x, z, h0):
        a = torch.sigmoid(z)
        h, hs = h0, []
        for t in range(x.shape[0]):
            h = (1 - a[t]) * h + a[t] * x[t]
            hs.append(h)
        out = torch.stack(hs)
        ctx.save_for_backward(x, a, h0, out)
        return out, h.clone()

    @staticmethod
    def backward(ctx, dout, dlast):
        x, a, h0, out = ctx.saved_tensors
        dx, dz = torch.empty_like(x), torch.empty_like(x)
        dh = dlast
        for t in range(x.shape[0] - 1, -1, -1):
            dh = dh + dout[t]
            before = out[t - 1] if t > 0 else h0
            dx[t] = dh * a[t]
            dz[t] = dh * (x[t] - before) * a[t] * (1 - a[t])
            dh = dh * (1 - a[t])
        return dx, dz, dh


def minimal_gated_reference(x, z, h0):
    h, hs = h0, []
    for t in range(x.shape[0]):
        h = torch.lerp(h, x[t], torch.sigmoid(z[t]))
        hs.append(h)
    return torch.stack(hs), h


def minimal_gated_inputs(g):
    return {
        "x": torch.randn(4, 3, generator=g),
        "z": torch.randn(4, 3, generator=g),
        "h0": torch.randn(3, generator=g),
    }


class ReversedCumsum(Function):
    """Sums what comes later; its backward sums what came before."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x, scale)
        total = x.flip(0).cumsum(0).flip(0)
        return total * scale

    @staticmethod
    def backward(ctx, dy):
        x, scale = ctx.saved_tensors
        total = x.flip(0).cumsum(0).flip(0)
        dtotal = dy * scale
        dx = dtotal.cumsum(0)
        dscale = (dy * total).sum(0)
        return dx, dscale


def reversed_cumsum_reference(x, scale):
    return (x.sum(0, keepdim=True) - x.cumsum(0) + x) * scale


def reversed_cumsum_inputs(g):
    return {"x": torch.randn(5, 3, generator=g), "scale": torch.randn(3, generator=g)}
