"""Typical mistakes for each exercise: what is written, what stands there instead, and what must be named."""

# (text of the solution's backward, the mistake in its place, the gradient at fault, the kind named)
Change = tuple[str, str, str, str]

MISTAKES: dict[str, list[Change]] = {
    "product": [
        ("da = b * dy", "da = b", "da", "wrong_upstream"),
        ("da = b * dy", "da = a * dy", "da", "wrong_point"),
        ("db = a * dy", "db = -a * dy", "db", "sign"),
    ],
    "used_twice": [
        ("dp = q * dy + dq", "dp = q * dy", "dp", "missing_branch"),
        ("da = b * dp - dq", "da = b * dp", "da", "missing_branch"),
        ("da = b * dp - dq", "da = b * dp + dq", "da", "sign"),
    ],
    "broadcasting": [
        ("dshift = dshifted.sum(0)", "dshift = dshifted", "dshift", "unreduced"),
        ("dscale = (x * dscaled).sum(0, keepdim=True)", "dscale = (x * dscaled).sum(0)", "dscale", "shape"),
        ("dlevel = -dy.sum(1, keepdim=True)", "dlevel = dy.sum(1, keepdim=True)", "dlevel", "sign"),
    ],
    "mean_square": [
        ("torch.ones_like(squared) / n", "torch.ones_like(squared)", "dsquared", "scale"),
        ("derror = 2 * error * dsquared", "derror = error * dsquared", "derror", "scale"),
        ("dtarget = -derror", "dtarget = derror", "dtarget", "sign"),
    ],
    "matrix_product": [
        ("dW = x.T @ dz", "dW = dz.T @ x", "dW", "transposed"),
        ("db = dy.sum(0)", "db = dy", "db", "unreduced"),
        ("dx = dz @ W.T", "dx = -dz @ W.T", "dx", "sign"),
    ],
    "exp_log": [
        ("dtotal = dy / total", "dtotal = 1 / total", "dtotal", "wrong_upstream"),
        ("dtotal = dy / total", "dtotal = dy / e", "dtotal", "wrong_point"),
        ("dx = e * de", "dx = e * dy", "dx", "wrong_upstream"),
    ],
    "maximum": [
        (
            "    dx += torch.nn.functional.one_hot(x.argmax(1), x.shape[1]) * dtop",
            "    pass",
            "dx",
            "missing_branch",
        ),
        ("dtop = -dbelow.sum(1, keepdim=True)", "dtop = dbelow.sum(1, keepdim=True)", "dtop", "sign"),
        ("dgain = (below * dy).sum(0)", "dgain = below * dy", "dgain", "unreduced"),
    ],
    "indexing": [
        ("dtable.index_add_(0, index, drows)", "dtable[index] = drows", "dtable", "overwritten"),
        ("dweight = (rows * dy).sum(1, keepdim=True)", "dweight = (rows * dy).sum(1)", "dweight", "shape"),
        ("drows = weight * dy", "drows = dy", "drows", "wrong_point"),
    ],
    "embedding": [
        ("derror = 2 * error / error.numel()", "derror = 2 * error / n", "derror", "scale"),
        ("(dbag / t).unsqueeze(1)", "dbag.unsqueeze(1)", "dboth", "scale"),
        ("dtarget = -derror", "dtarget = derror", "dtarget", "sign"),
    ],
    "mlp_chunked": [
        ("    dcounts += dcounts_sum", "    pass", "dcounts", "missing_branch"),
        ("dhprebn = dbndiff.clone()", "dhprebn = dbndiff", "dbndiff", "aliased"),
        ("dbnmeani = -dbndiff.sum(0, keepdim=True)", "dbnmeani = -dbndiff.sum(0)", "dbnmeani", "shape"),
        ("dhpreact = (1 - h**2) * dh", "dhpreact = (1 - h) * dh", "dhpreact", "wrong_point"),
    ],
    "cross_entropy_fused": [
        ("    dlogits /= n", "    pass", "dlogits", "scale"),
        (
            "dlogits -= F.one_hot",
            "dlogits += F.one_hot",
            "dlogits",
            "sign",
        ),
        ("    dlogits /= n", "    dlogits /= -n", "dlogits", "sign"),
    ],
    "batch_norm_fused": [
        (
            "dbngain = (bnraw * dhpreact).sum(0, keepdim=True)",
            "dbngain = (bnraw * dhpreact).sum(0)",
            "dbngain",
            "shape",
        ),
        (
            "dbnbias = dhpreact.sum(0, keepdim=True)",
            "dbnbias = -dhpreact.sum(0, keepdim=True)",
            "dbnbias",
            "sign",
        ),
        ("bngain * bnvar_inv / n * (", "bngain * bnvar_inv * (", "dhprebn", "scale"),
    ],
    "mlp_fused": [
        ("logits.shape[1])) / n", "logits.shape[1]))", "dlogits", "scale"),
        ("dhpreact = (1 - h**2) * dh", "dhpreact = dh", "dhpreact", "wrong_point"),
        ("db2 = dlogits.sum(0)", "db2 = dlogits.sum(0, keepdim=True)", "db2", "shape"),
    ],
    "rnn": [
        ("dWhy += hs[t].T @ dys[t]", "dWhy -= hs[t].T @ dys[t]", "dWhy", "sign"),
        ("db += dpre.sum(0)", "db -= dpre.sum(0)", "db", "sign"),
        ("dWxh += x[t].T @ dpre", "dWxh += 2 * x[t].T @ dpre", "dWxh", "scale"),
    ],
    "layer_norm": [
        ("dbias = dy.reshape(-1, dy.shape[-1]).sum(0)", "dbias = dy.sum(0)", "dbias", "unreduced"),
        (
            "dgain = (dy * xhat).reshape(-1, dy.shape[-1]).sum(0)",
            "dgain = (dy * xhat).sum((0, 1), keepdim=True)",
            "dgain",
            "shape",
        ),
        ("    dx = dx * inv_std", "    dx = -dx * inv_std", "dx", "sign"),
    ],
    "rms_norm": [
        ("    dx += 2 * x / x.shape[-1] * dms", "    pass", "dx", "missing_branch"),
        ("dms = -0.5 * r**3 * dr", "dms = 0.5 * r**3 * dr", "dms", "sign"),
        ("dr = (dnormed * x).sum(-1, keepdim=True)", "dr = (dnormed * x).sum(1)", "dr", "shape"),
    ],
    "gelu": [
        ("dt = 0.5 * z * dy", "dt = z * dy", "dt", "scale"),
        ("dz = 0.5 * (1 + t) * dy + c", "dz = c", "dz", "missing_branch"),
        ("du = (1 - t**2) * dt", "du = (1 - t) * dt", "du", "wrong_point"),
    ],
    "attention": [
        ("dmasked = weights * (dweights - row)", "dmasked = weights * dweights", "dmasked", "missing_branch"),
        ("dq = scale * dscores @ k", "dq = dscores @ k", "dq", "scale"),
        (
            "dk = scale * dscores.transpose(-2, -1) @ q",
            "dk = -scale * dscores.transpose(-2, -1) @ q",
            "dk",
            "sign",
        ),
    ],
    "gru": [
        ("dh = z * dy + dc @ U.T", "dh = z * dy", "dh", "missing_branch"),
        ("dz = (h - candidate) * dy", "dz = h * dy", "dz", "missing_branch"),
        ("db = da.sum(0)", "db = da", "db", "unreduced"),
    ],
    "swiglu": [
        ("dx = dgate @ W.T + dup @ V.T", "dx = dgate @ W.T", "dx", "missing_branch"),
        ("dup = silu * dhidden", "dup = gate * dhidden", "dup", "wrong_point"),
        ("dsilu = up * dhidden", "dsilu = -up * dhidden", "dsilu", "sign"),
    ],
    "power": [
        ("-0.5 * (total", "0.5 * (total", "dtotal", "sign"),
        ("** -1.5", "** -0.5", "dtotal", "wrong_point"),
        ("inverse * dy + ", "", "dx", "missing_branch"),
    ],
    "tanh": [
        ("(1 - h**2)", "(1 - h)", "dz", "wrong_point"),
        ("db = dz.sum(0, keepdim=True)", "db = dz", "db", "unreduced"),
        ("dx = w * dproducts", "dx = w + dproducts", "dx", "wrong_point"),
    ],
    "cross_entropy": [
        ("targets.unsqueeze(-1), -1 / n", "targets.unsqueeze(-1), -1", "dlogprobs", "scale"),
        ("dlogprobs + counts * dcounts", "counts * dcounts", "dshifted", "missing_branch"),
        ("dlog_total = -dlogprobs", "dlog_total = dlogprobs", "dlog_total", "sign"),
    ],
    "batch_norm": [
        ("    dcentered += 2 * centered * dsquares", "    pass", "dcentered", "missing_branch"),
        ("(dvar / n)", "(dvar / (n - 1))", "dsquares", "scale"),
        ("dx = dcentered + dmean / n", "dx = dcentered", "dx", "missing_branch"),
    ],
    "rnn_running": [
        (" + dhnext", "", "dx", "missing_branch"),
        ("dWhh += hs[t].T", "dWhh += hs[t + 1].T", "dWhh", "wrong_point"),
        ("dhnext = da @ Whh.T", "dhnext = da @ Whh", "dh0", "transposed"),
    ],
    "gru_running": [
        ("zs[t] * dh + dc @ U.T", "zs[t] * dh", "dh0", "missing_branch"),
        ("(hs[t] - candidates[t])", "(candidates[t] - hs[t])", "dx", "sign"),
        ("db += da.sum(0)", "db = da.sum(0)", "db", "overwritten"),
    ],
    "multi_head_attention": [
        (
            "djoined.unflatten(-1, (heads, e)).transpose(-3, -2)",
            "djoined.reshape(v.shape)",
            "dmixed",
            "transposed",
        ),
        ("dq = dscores @ k / e**0.5", "dq = dscores @ k", "dq", "scale"),
        ("(dq, dk, dv)", "(dk, dq, dv)", "dqkv", "partial"),
    ],
    "transformer_block": [
        ("dmiddle = dy + ", "dmiddle = ", "dmiddle", "missing_branch"),
        ("dx = dmiddle + ", "dx = dy + ", "dx", "wrong_upstream"),
        ("db1 = dz.sum((0, 1))", "db1 = dz.sum(0)", "db1", "unreduced"),
    ],
    "tied_weights": [
        (
            "    dE += torch.zeros_like(E).index_add_(0, tokens.flatten(), demb.flatten(0, 1))",
            "    pass",
            "dE",
            "missing_branch",
        ),
        ("(dbag / t)", "dbag", "demb", "scale"),
        ("dE = dlogits.T @ h", "dE = -dlogits.T @ h", "dE", "sign"),
    ],
}
