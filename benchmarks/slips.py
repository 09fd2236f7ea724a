"""The slips as tables: what is written, what stands there instead, and the kinds that name it rightly.

Read with patterns.py, which says what the blanks mean. What depends on more than the code itself (which
factor was lost, which tensors are alike) is in changing.py, what takes more than one statement in moving.py.
"""

Slip = tuple[str, str, str, str]  # operation, pattern, replacement, kinds

EXPRESSIONS: tuple[Slip, ...] = (
    # sums, means, and the axes that they keep
    ("no sum", "_a.sum(___)", "_a", "unreduced"),
    ("mean for sum", "_a.sum(___)", "_a.mean(___)", "scale"),
    ("wrong axis", "_a.sum(0)", "_a.sum(1)", "overreduced"),
    ("wrong axis", "_a.sum(1)", "_a.sum(0)", "overreduced"),
    ("wrong axis", "_a.sum(0, keepdim=True)", "_a.sum(1, keepdim=True)", "overreduced"),
    ("wrong axis", "_a.sum(1, keepdim=True)", "_a.sum(0, keepdim=True)", "overreduced"),
    ("no keepdim", "_a.sum(_i, keepdim=True)", "_a.sum(_i)", "shape"),
    ("no keepdim", "_a.mean(_i, keepdim=True)", "_a.mean(_i)", "shape"),
    ("keepdim", "_a.sum(_i)", "_a.sum(_i, keepdim=True)", "shape"),
    ("low sum", "_a.sum(___)", "_a.bfloat16().sum(___).to(_a.dtype)", "dtype"),
    ("sum for mean", "_a.mean(___)", "_a.sum(___)", "scale"),
    ("no mean", "_a.mean(___)", "_a", "unreduced missing_branch scale overreduced"),
    # shapes
    ("no expand_as", "_a.expand_as(___)", "_a", "shape"),
    ("no view", "_a.view(___)", "_a", "shape"),
    ("no .T", "_a.T", "_a", "transposed"),
    ("no transpose", "_a.transpose(___)", "_a", "transposed"),
    # products
    ("swap @", "_a @ _b", "_b @ _a", "transposed"),
    ("transpose @", "_a @ _b", "_b.mT @ _a.mT", "transposed"),
    ("* for @", "_a @ _b", "_a * _b", "product"),
    ("low @", "_a @ _b", "(_a.bfloat16() @ _b.bfloat16()).to(_a.dtype)", "dtype"),
    ("swap outer", "torch.outer(_a, _b)", "torch.outer(_b, _a)", "transposed"),
    # derivatives
    ("no square", "1 - _a ** 2", "1 - _a", "wrong_point"),
    ("h for 1 - h**2", "1 - _a ** 2", "_a", "wrong_point"),
    ("sigmoid's for tanh's", "1 - _a ** 2", "_a * (1 - _a)", "wrong_point"),
    ("tanh's for sigmoid's", "_a * (1 - _a)", "1 - _a ** 2", "wrong_point"),
    ("other half", "_a > 0", "_a < 0", "wrong_point partial"),
    ("no mask", "_a > 0", "_a == _a", "wrong_point partial"),
    ("times one-hot", "_a - F.one_hot(___)", "_a * F.one_hot(___) - F.one_hot(___)", "wrong_point partial"),
    ("softmax's axis", "_a.softmax(1)", "_a.softmax(0)", "wrong_point"),
    ("softmax's axis", "F.softmax(_a, 1)", "F.softmax(_a, 0)", "wrong_point"),
    # where a gradient begins
    ("ones for zeros", "torch.zeros_like(_a)", "torch.ones_like(_a)", "repeated_branch partial"),
    ("low zeros", "torch.zeros_like(_a)", "torch.zeros_like(_a, dtype=torch.bfloat16)", "dtype"),
    # steps and blocks
    ("this step", "_a[t - 1]", "_a[t]", "wrong_point wrong_upstream"),
    ("this step", "_a[t + 1]", "_a[t]", "wrong_point wrong_upstream"),
    ("step before", "_a[t]", "_a[t - 1]", "wrong_point wrong_upstream"),
    ("not turned", "_a[::-1]", "_a", "swapped transposed"),
    ("blocks swapped", "torch.cat([_a, _b, _c], 1)", "torch.cat([_b, _a, _c], 1)", "partial swapped"),
    ("blocks swapped", "torch.cat((_a, _b, _c, _d), 1)", "torch.cat((_a, _c, _b, _d), 1)", "partial swapped"),
    # in place, in a tensor that others read too
    ("no clone", "_m.clone()", "_m", "aliased modifies_input"),
    ("in place", "_x * _a", "_x.mul_(_a)", "modifies_input aliased"),
)

STATEMENTS: tuple[Slip, ...] = (
    # what is added
    ("drop +=", "_t += _v", "", "missing_branch zero"),
    ("= for +=", "_t += _v", "_t = _v", "overwritten missing_branch"),
    ("-= for +=", "_t += _v", "_t -= _v", "sign"),
    ("twice", "_t += _v", "_t += _v + _v", "repeated_branch scale"),
    ("low +=", "_t += _v", "_t += _v.bfloat16()", "dtype"),
    ("drop -=", "_t -= _v", "", "missing_branch partial"),
    ("+= for -=", "_t -= _v", "_t += _v", "sign partial missing_branch"),
    ("no /=", "_t /= _v", "", "scale"),
    ("/= twice", "_t /= _v", "_t /= _v\n_t /= _v", "scale"),
    ("no *=", "_t *= _v", "", "wrong_point wrong_upstream missing_branch"),
    # the whole of it
    ("zeros", "_o = _v", "_o = torch.zeros_like(_v)", "zero missing_branch"),
    ("tail", "_o = _v", "_o = (_v).clone()\n_o[-1:] = 0", "partial"),
    ("half", "_g = _v", "_g = (_v).half()", "dtype"),
    ("None", "_p = _v", "_p = None", "zero"),
    # where it goes
    ("overwritten indices", "_t.index_add_(0, _i, _v)", "_t[_i] = _v", "overwritten"),
    ("overwritten indices", "_t = _z.index_add_(0, _i, _v)", "_t = _z\n_t[_i] = _v", "overwritten"),
    ("row 0", "_t[t] = _v", "_t[0] = _v", "partial overwritten zero"),
    ("not turned", "_t.reverse()", "", "swapped transposed"),
    ("append for insert", "_t.insert(0, _v)", "_t.append(_v)", "swapped transposed"),
)

# One of two names for the same memory is written into: the first gradient, `_h`, is spoilt.
ALIASES: tuple[Slip, ...] = (
    ("no clone", "_o = _h.clone()", "_o = _h", "aliased"),
    ("alias", "_o = _h + _v", "_o = _h\n_o += _v", "aliased"),
)

# Of a loop or a condition: steps that are left out, and time that runs the wrong way.
HEADERS: tuple[Slip, ...] = (
    ("a step short", "reversed(range(_n))", "reversed(range(1, _n))", "missing_branch partial zero"),
    ("a step short", "range(_n - 1, -1, -1)", "range(_n - 1, 0, -1)", "missing_branch partial zero"),
    ("a step short", "_t >= 0", "_t > 0", "missing_branch partial zero"),
    ("a step short", "_t > 0", "_t > 1", "missing_branch partial zero"),
    ("a step short", "range(_n)", "range(_n - 1)", "missing_branch partial zero"),
    ("forward in time", "reversed(range(_n))", "range(_n)", "missing_branch wrong_upstream"),
    ("forward in time", "range(_n)[::-1]", "range(_n)", "missing_branch wrong_upstream"),
)

# What is equal but for rounding is right then: a term whose sum is zero may be left out of the sum.
MUST_DIFFER = frozenset({"used too early"})

# A slip that would be nobody's where it raises, as `.mT` of a vector does.
MUST_RUN = frozenset(
    {"transpose @", "tail", "low sum", "low @", "half", "None", "in place", "low +=", "one of upstream"}
)
