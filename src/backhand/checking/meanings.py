"""What every verdict and every kind of mistake means: one table of each, read by all that tells of them.

A verdict's word, meaning and colour, and a mistake's hint, are changed here and nowhere else: the terminal,
the sheet, the notebook, the course and docs/checking.md (by a test) follow.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Verdict = Literal["right", "wrong", "follows", "shape", "skipped", "todo", "vacuous"]


@dataclass(frozen=True)
class Meaning:
    """What a verdict says, and how it looks.

    Attributes:
        meaning: in a few words, true wherever it is read: "above" in the backward is "below" on the sheet.
        style: of the word on a terminal, in rich's terms.
        by_day: the colour of the word and its ground on a light page, with a contrast of at least 4.5.
        by_night: the same on a dark page.
        credit: the part of a gradient's points that it earns in the course, from 0 to 1.
        at_fault: the gradient's own line is the one to mend.
        spoilt: the value is wrong, so that what is made of it is wrong as well.
        open: nothing was compared, so that it does not count among the gradients judged.
        explained: the word alone does not tell, so that a table with it explains it below.
    """

    meaning: str
    style: str
    by_day: tuple[str, str]
    by_night: tuple[str, str]
    credit: float = 0.0
    at_fault: bool = False
    spoilt: bool = False
    open: bool = False
    explained: bool = False


# In the order in which docs/checking.md and the sheet list them.
VERDICTS: Mapping[Verdict, Meaning] = MappingProxyType(
    {
        "right": Meaning(
            "agrees with autograd's",
            "green",
            by_day=("#0f6b34", "#ddf3e3"),
            by_night=("#7fe0a0", "#15341f"),
            credit=1.0,
        ),
        "wrong": Meaning(
            "this line is at fault: it is wrong given its own upstream gradient",
            "bold red",
            by_day=("#b0151d", "#ffe3e1"),
            by_night=("#ff9c94", "#4a1a1b"),
            at_fault=True,
            spoilt=True,
        ),
        "shape": Meaning(
            "right values in a wrong shape, by a line of its own",
            "bold yellow",
            by_day=("#7a4a00", "#ffedc9"),
            by_night=("#f3c56b", "#3e2e0c"),
            credit=0.5,  # the derivative is right; what is missing is a keepdim or a view
            at_fault=True,
            spoilt=True,
        ),
        "follows": Meaning(
            "its own line is right; it is wrong because it is made of a gradient that is",
            "dim",
            by_day=("#5f5a4c", "#ece8dc"),
            by_night=("#c4bca6", "#312e27"),
            credit=1.0,  # one wrong line costs its own points, not those of all that is made of it
            spoilt=True,
            explained=True,
        ),
        "skipped": Meaning(
            "an intermediate that the backward leaves out, as a fused one does: no fault",
            "dim",
            by_day=("#59636e", "#eceff2"),
            by_night=("#a3adb8", "#272d35"),
            open=True,
            explained=True,
        ),
        "todo": Meaning(
            "still missing: the gradient of an input, a `...` in its place, or a branch to be added later",
            "bold magenta",
            by_day=("#7a1f8f", "#f5e3fa"),
            by_night=("#e7a6f7", "#3b1b45"),
            open=True,
            explained=True,
        ),
        "vacuous": Meaning(
            "zero but for rounding here (a bias before batch norm): no evidence either way",
            "cyan",
            by_day=("#0b5c74", "#d9f0f7"),
            by_night=("#86d7ee", "#0f3340"),
            credit=1.0,  # nothing more can be asked of it on these inputs
            explained=True,
        ),
    }
)


@dataclass(frozen=True)
class Kind:
    """A kind of mistake.

    Attributes:
        meaning: in a few words.
        hint: the likely cause and what to try; it does not give the answer away.
        detail: the facts that a mistake of this kind may tell.
    """

    meaning: str
    hint: str
    detail: tuple[str, ...] = ()


# The ways of use that a backward may refuse with an exception, rather than give wrong numbers in them.
WAYS_OF_USE = ("layout", "frozen_input", "unused_output", "modifies_input", "shared_state", "shapes")
# In the order in which docs/checking.md lists them.
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "missing_branch": Kind(
            "what comes through one or more consumers is not added",
            "A tensor that is used more than once receives the sum of what each use sends back.",
            ("branches",),
        ),
        "repeated_branch": Kind(
            "it is added more than once", "Each use of a tensor sends its gradient back once.", ("branches",)
        ),
        "sign": Kind(
            "the whole gradient, or one branch, is negated",
            "Look at the minus signs of the forward line, and at each derivative's own sign.",
            ("branches",),
        ),
        "scale": Kind(
            "a constant factor: 1/n, n for n - 1, a missing 2",
            "Look for a mean's division, Bessel's n - 1 and the factor that a power brings down.",
            ("factor", "guess"),
        ),
        "unreduced": Kind(
            "not summed over the axes along which the forward broadcast",
            "Where the forward broadcast a tensor, its gradient is summed over those axes.",
            ("axes",),
        ),
        "overreduced": Kind(
            "summed or averaged over an axis that should stay",
            "Sum only over the axes along which the forward broadcast.",
            ("axes",),
        ),
        "shape": Kind(
            "right values; `keepdim` lost or too many, not viewed back, not expanded",
            "A gradient has exactly the shape of its tensor: look at keepdim, view and expand.",
            ("expected", "got"),
        ),
        "transposed": Kind(
            "the transpose of the right answer, or its elements in another order",
            "Write the shapes of both factors next to the product; only one order of them fits.",
        ),
        "product": Kind(
            "a matrix product written as `*`",
            "`*` multiplies element by element, `@` rows by columns: what does the forward line do?",
        ),
        "wrong_upstream": Kind(
            "another tensor's gradient where this one's upstream belongs, or none at all",
            "The upstream gradient is that of the tensor that the forward line makes.",
            ("used", "expected"),
        ),
        "wrong_point": Kind(
            "the right derivative at the wrong tensor: `1 - hpreact**2` for `1 - h**2`",
            "Look at which tensor the forward line was applied to, and which one it made.",
            ("used", "expected"),
        ),
        "swapped": Kind(
            "this gradient and another one have each other's value, or another variable is returned as it",
            "The two gradients have each other's value: are their names exchanged?",
            ("with",),
        ),
        "overwritten": Kind(
            "repeated indices overwrite where they accumulate, or `=` where `+=` belongs",
            "Several gradients arrive in one place: they accumulate, the last one does not win.",
        ),
        "aliased": Kind(
            "changed in place through another name of the same memory: `dx = dy`, then `dx += ...`",
            "Two names for one tensor: a change through one changes both. Where does it need a copy?",
            ("with",),
        ),
        "partial": Kind(
            "wrong in some rows, columns or a tail block only",
            "Look at the bounds of slices and loops, and at the last block.",
            ("where",),
        ),
        "zero": Kind("all zeros, or None", "Nothing arrives here: is the gradient assigned at all?"),
        "nonfinite": Kind(
            "NaN or infinity, and where it comes from; or numbers where the right gradient is infinite",
            "Look for a division by zero, a logarithm of zero, an overflowing exp, or memory left unwritten.",
            ("origin",),
        ),
        "ignores_upstream": Kind(
            "a function that is not linear in its upstream gradient, or reads one element of it",
            "A backward is linear in the gradient that arrives: every term holds it once.",
            ("gradients",),
        ),
        "layout": Kind(
            "wrong for a transposed, permuted, strided, expanded or offset tensor, or with channels last",
            "Use strides, or call contiguous() first; reshape instead of view.",
        ),
        "modifies_input": Kind(
            "an input, a saved tensor or the upstream gradient is changed in place",
            "Write into a new tensor, or into a clone.",
        ),
        "shared_state": Kind(
            "wrong once the function is called again before its backward runs",
            "What the backward needs belongs to its own call: keep it on ctx, not on the class or a module.",
            ("gradients",),
        ),
        "frozen_input": Kind(
            "wrong where another input needs no gradient",
            "Look at the index in ctx.needs_input_grad: it counts the forward's arguments, plain ones too.",
            ("gradients",),
        ),
        "unused_output": Kind(
            "wrong where one of the outputs is not used",
            "The gradient of an output that is not used is None, or zeros: the others still count.",
            ("gradients",),
        ),
        "shapes": Kind(
            "right for the first shapes that were given, and wrong for others",
            "What is taken for granted: a number of axes, a multiple of a block, more than one row?",
            ("shapes", "kind"),
        ),
        "second_order": Kind(
            "the backward, differentiated again, gives something else: an intermediate kept on `ctx`",
            "Autograd sees what depends on an input only through inputs and outputs that were saved: compute "
            "the rest from them in the backward, or mark that @once_differentiable.",
            ("wrong",),
        ),
        "forward_mode": Kind(
            "the tangents that `jvp` gives are wrong",
            "jvp goes with the forward: each tangent times the same derivative that the backward has.",
            ("wrong",),
        ),
        "vmap": Kind(
            "a batch under `torch.func.vmap` is not what its samples are one by one",
            "Look at in_dims: an input's batch may be along any axis, or it may have none.",
            ("wrong",),
        ),
        "nondeterministic": Kind(
            "two runs differ by more than rounding",
            "Look for uninitialised memory (empty), races and random numbers.",
        ),
        "dtype": Kind(
            "wrong dtype or device, or a reduction in a lower one",
            "Compute in float32 or better and cast once, at the end, to the tensor's own dtype.",
        ),
        "unexplained": Kind(
            "none of these; the message says what was ruled out",
            "Check this line with small tensors; report.explain(name) shows the rule.",
        ),
    }
)
