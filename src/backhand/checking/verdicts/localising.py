"""Which gradients of one draw are wrong, and which of them by their own fault."""

import ast
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from backhand.checking.running.containers import as_gradient_of, is_one_tensor
from backhand.checking.running.names import root
from backhand.checking.running.precision import OF_SUMMANDS, RELATIVE
from backhand.checking.running.statements import (
    assigned,
    gives_nothing,
    is_ellipsis,
    kept_as,
    reads,
    writes,
    writes_surely,
)
from backhand.checking.running.trials import Draw
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.comparing import (
    PIECE,
    allclose,
    close,
    coarser,
    fit_shape,
    right_but_for_shape,
)
from backhand.checking.verdicts.fault import Fault
from backhand.checking.verdicts.faults import explained
from backhand.checking.verdicts.lives import Lives, later_ways
from backhand.checking.verdicts.repairing import Alias, Observed, Repair, recorded, repair, variables_of
from backhand.checking.verdicts.rounding import Summands
from backhand.checking.verdicts.truths import rounding_alone
from backhand.checking.verdicts.unreturned import unreturned
from backhand.checking.verdicts.variables import is_rebound


@dataclass(frozen=True)
class Culprit:
    """A gradient that is wrong given its own upstream.

    Attributes:
        value: what its lines make of the upstream gradients in `handed`; None where they made nothing.
        expected: what they should make.
        handed: the gradient that each tensor hands on.
        summands, noise: by which the rounding of a right one is measured; see `close`.
        cancels: with the true upstream gradients the difference cancels; `handed` has others.
        faults: the statements that made it wrong, where they are known.
    """

    name: str
    value: Tensor | None
    expected: Tensor
    handed: Mapping[str, Tensor]
    shape_only: bool = False
    summands: float = 0.0
    noise: float = math.inf
    cancels: bool = False
    faults: tuple[Fault, ...] = ()

    @property
    def fault(self) -> Fault | None:
        """The first of them."""
        return self.faults[0] if self.faults else None


@dataclass(frozen=True)
class Judgement:
    """The verdict on one draw.

    Attributes:
        right: whether each gradient agrees with autograd's.
        vacuous: tensors whose true gradient is zero but for rounding.
        summands: the size of what was added up to make each gradient.
        culprits: by tensor name, in the order of the backward.
        ambiguous: gradients that are not those of the last value that the forward gave a name; not judged.
        lucky: gradients made of another upstream gradient (the first name) than their own (the second), which
            are right only because a branch cancels.
        shared: gradients that are changed through another name by less than rounding.
        balanced: gradients that are right with a culprit's value, which is another tensor's gradient.
        followers: gradients that are wrong because of the same statement as a culprit.
        unreturned: gradients that are right in a variable that is not returned for them, with that.
        lives: which statements write which gradient, if the backward was run to see that.
    """

    draw: Draw
    right: Mapping[str, bool]
    vacuous: frozenset[str]
    summands: Summands
    culprits: Mapping[str, Culprit] = field(default_factory=dict)
    repair: Repair | None = None
    ambiguous: frozenset[str] = frozenset()
    lucky: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    shared: Mapping[str, Alias] = field(default_factory=dict)
    balanced: frozenset[str] = frozenset()
    followers: frozenset[str] = frozenset()
    unreturned: Mapping[str, str] = field(default_factory=dict)
    lives: Lives | None = None

    def seen(self, name: str) -> Observed | None:
        """Return what the repaired run showed of a gradient; None without source."""
        return self.repair.observed.get(name) if self.repair is not None else None


def judge(
    chosen: Pass,
    draw: Draw,
    like: Judgement | None = None,
    instead: Callable[[Judgement], Draw | None] = lambda _: None,
) -> Judgement:
    """Return the verdict on one draw; what is known of another one's summands is taken over from it.

    Args:
        chosen, draw: what is judged.
        like: the verdict on another draw.
        instead: tells by what is wrong, before it is known why, whether another draw is to be judged.
    """
    summands = Summands(draw, like.summands if like is not None else None, chosen.asked.tolerance)
    summands.known |= rounding_alone(chosen, draw)
    vacuous = summands.vacuous() if like is None else like.vacuous
    right = compared(draw, summands)
    # what is right where the backward raised may be so in the first turn of a loop alone
    open_ = [n for n in right if not right[n] or draw.error is not None]
    ambiguous = frozenset(n for n in open_ if is_rebound(chosen, draw, n))
    if ambiguous:
        draw = draw.without(ambiguous)
        right = {n: is_right for n, is_right in right.items() if n not in ambiguous}
    apart = unreturned(chosen, draw, right, rightness(draw, summands)) if like is None else like.unreturned
    rest = draw.without(apart)  # of what is returned in their place nothing else is made wrong
    others = {n: is_right for n, is_right in right.items() if n not in apart}
    judgement = Judgement(rest, others, vacuous, summands, ambiguous=ambiguous)
    empty, lost = _empty(chosen, rest), _lost(chosen, draw)
    if not all(others.values()) or empty or draw.error is not None:
        if (other := instead(judgement)) is not None:
            return judge(chosen, other, like)
        judgement = _localised(chosen, judgement, like)
    gradients = draw.trace.gradients
    stubs = {n for n in (*judgement.culprits, *empty) if is_to_be_written(chosen, draw, n)}
    culprits = {n: c for n, c in judgement.culprits.items() if n not in stubs}
    empty = [n for n in empty if n not in stubs]
    empty += lost[:1] if not culprits and not empty else []  # the line that raised is to be told
    given = {n: None for n in empty if n not in culprits} | {n: draw.user.get(n) for n in apart}
    more = {n: blame(n, value, gradients[n], gradients) for n, value in given.items()}
    found = replace(judgement, draw=draw, right=right, unreturned=apart, culprits={**culprits, **more})
    return _balanced(found)


def _balanced(judgement: Judgement) -> Judgement:
    """Acquit what is right with another tensor's gradient that stands above under a wrong name.

    Not so where one wrong line takes back what another one does: both are to be changed.
    """
    user, gradients, culprits = judgement.draw.user, judgement.draw.trace.gradients, judgement.culprits
    right = {n for n in culprits if judgement.right.get(n) and n not in judgement.vacuous}
    wrong = [user[n] for n in culprits if n in user and n not in right]
    nameless = [g for n, g in gradients.items() if n not in user]
    if not right or not any(close(value, g) for value in wrong for g in nameless):
        return judgement
    left = {name: culprit for name, culprit in culprits.items() if name not in right}
    return replace(judgement, balanced=frozenset(right), culprits=left)


def _empty(chosen: Pass, draw: Draw) -> list[str]:
    """Return the inputs for which a function gives None; in a script that is yet to be written."""
    if chosen.scope is not None:
        return []
    wanted = [n for n in draw.trace.wanted if n in draw.matched and n in draw.trace.gradients]
    return [n for n in wanted if draw.given.get(draw.matched[n], ...) is None]


def _lost(chosen: Pass, draw: Draw) -> list[str]:
    """Return the gradients that a backward which raised would have returned, that of the line first."""
    source = chosen.backward_source
    if draw.error is None or draw.is_unfinished or chosen.contract != "returned" or source is None:
        return []
    lost = [n for n in draw.trace.wanted if n in draw.trace.gradients and n not in draw.user]
    raised = [s for s in source.simple if s.lineno <= (draw.error_line or 0) <= (s.end_lineno or s.lineno)]
    paths = variables_of(chosen, draw).path
    return sorted(lost, key=lambda n: not any(paths.get(n) in assigned(s) for s in raised))


def vacuity(judgement: Judgement) -> str:
    """Say why a vacuous gradient is no evidence."""
    if judgement.draw.dtype == torch.float64:
        return "its true gradient is zero here"
    return "its gradient is no larger than rounding here"


def compared(draw: Draw, summands: Summands) -> dict[str, bool]:
    """Return whether each of the user's gradients is right."""
    right = draw.trace.gradients
    alike = all(n in right and v.shape == right[n].shape for n, v in draw.user.items())
    is_small = draw.trace.layout.size <= PIECE  # of large ones each is compared piece by piece
    plain = draw.ran is None and summands.asked is None  # the tolerances are those of the table
    if draw.user and alike and is_small and plain and _all_right(draw, summands):
        return dict.fromkeys(draw.user, True)
    is_right = rightness(draw, summands)
    # where the output does not depend on a tensor, only zeros are right
    return {n: is_right(n, v) if n in right else not bool(v.any()) for n, v in draw.user.items()}


def rightness(draw: Draw, summands: Summands) -> Callable[[str, Tensor | None], bool]:
    """Return what tells whether a value is a tensor's right gradient; whatever has none is not judged."""
    right = draw.trace.gradients

    def is_right(name: str, value: Tensor | None) -> bool:
        if name not in right or value is None:
            return name not in right
        if summands.asked is not None:
            return allclose(value, right[name], *summands.asked)
        if close(value, right[name], 0.0, summands.noise(name)):
            return True
        return close(value, right[name], summands[name], summands.noise(name))

    return is_right


@np.errstate(invalid="ignore")  # infinity from infinity: NaN
def _all_right(draw: Draw, summands: Summands) -> bool:
    """Compare all elements of all gradients at once, which is quick, and enough where all are right."""
    trace, known = draw.trace, summands.known
    difference = trace.joined_with(draw.user) - trace.joined
    np.abs(difference, out=difference)
    sizes = trace.largest | {n: max(size, trace.largest[n]) for n, size in known.items()}
    worst, finest = difference.max(initial=0.0), min(OF_SUMMANDS.values())
    if not worst < math.inf:  # something is not finite: each by itself
        return False
    if worst <= finest * min(sizes.values()):
        return True
    dtypes = {n: coarser(draw.user.get(n, g).dtype, g.dtype) for n, g in trace.gradients.items()}
    floors = [OF_SUMMANDS[d] * sizes[n] for n, d in dtypes.items()]
    relative = trace.layout.spread(RELATIVE[d] for d in dtypes.values())
    allowed = np.abs(trace.joined) * relative + trace.layout.spread(floors)
    return bool((difference <= allowed).all())


def _localised(chosen: Pass, judgement: Judgement, first: Judgement | None) -> Judgement:
    draw, summands, handed = judgement.draw, judgement.summands, judgement.draw.trace.gradients
    culprits: dict[str, Culprit] = {}
    if chosen.backward_source is not None:
        known = first.lives if first is not None else None
        lives = recorded(chosen, draw) if known is None else known
        found, lives = _repaired(chosen, draw, summands, lives)
        for name in (n for n in found.culprits if not is_to_be_written(chosen, draw, n)):
            seen = found.aliased.get(name) or found.observed.get(name)
            value = seen.value if seen is not None else None
            if not any(_is_one_item(draw, name, other) for other in culprits):
                culprits[name] = blame(name, value, handed[name], handed, summands)
        shared = {n: alias for n, alias in found.aliased.items() if n not in found.culprits}
        judgement = replace(judgement, repair=found, shared=shared, lives=lives)
        left = _by_faults(chosen, judgement, culprits, first)
        judgement = replace(judgement, followers=frozenset(culprits) - frozenset(left))
        culprits = left
    culprits |= _misdirected(judgement)
    if not culprits and not all(judgement.right.values()):
        culprits = _by_hooks(judgement)
    return replace(judgement, culprits=culprits)


def is_to_be_written(chosen: Pass, draw: Draw, name: str) -> bool:
    """Tell whether a stub stands in the place of a gradient, or of what is to be added to it last.

    `...` always is one, and so is what is made of a variable that is; zeros are beside one that is a
    statement: a loop that is yet to be written. The None of a course's layers is; in a pass of its own it may
    be meant.
    """
    source, given = chosen.backward_source, draw.given.get(draw.matched.get(name, ""))
    if given is ...:
        return True
    if source is None or not source.stubs:
        return False
    paths = variables_of(chosen, draw).path
    variable = root(paths.get(name, ""))
    makers = [s for s in source.simple if variable in writes_surely(s) | kept_as(s)]
    if given is not None:
        is_begun = isinstance(given, Tensor) and any(map(is_ellipsis, source.stubs)) and not bool(given.any())
        return is_begun and all(s.lineno != draw.error_line for s in makers)
    if not makers:
        return False
    blank = {n for s in source.stubs if gives_nothing(s, ...) for n in writes_surely(s)}
    waits = reads(makers[-1]) & blank.difference(
        map(root, paths.values())
    )  # what no known gradient stands for
    of_a_course = chosen.runner is not None and chosen.runner.over_numpy
    return bool(waits) or gives_nothing(makers[-1], None if of_a_course else ...)


def _is_one_item(draw: Draw, name: str, other: str) -> bool:
    """Tell whether two items of a list are one tensor, which can be right as one of them at most."""
    a, b = draw.user.get(name), draw.user.get(other)
    is_item = "[" in name and root(name) == root(other)
    return is_item and a is not None and b is not None and is_one_tensor(a, b)


def _repaired(chosen: Pass, draw: Draw, summands: Summands, lives: Lives) -> tuple[Repair, Lives]:
    """Return the repaired run, and where it took each gradient to be complete.

    Of a gradient that was made under another name either that line is wrong or one that took it from there:
    the one that leaves the fewest culprits, and of as many the last, of which nothing else is made.
    """
    is_right = rightness(draw, summands)
    found = repair(chosen, draw, is_right, lives)
    if any(life.later for n in found.culprits for life in lives.get(n, ())):
        for way in later_ways(lives):
            other = repair(chosen, draw, is_right, way)
            if len(other.culprits) <= len(found.culprits):
                found, lives = other, way
    return found, lives


def _by_faults(
    chosen: Pass, judgement: Judgement, culprits: dict[str, Culprit], first: Judgement | None
) -> dict[str, Culprit]:
    """Return the culprits, of those that one statement has made wrong only the first.

    On a later draw the statements are those of the first one.
    """
    if first is not None:
        kept = {n: c for n, c in culprits.items() if n not in first.followers}
        return {n: replace(c, faults=_faults_of(first, n)) for n, c in (kept or culprits).items()}
    repaired, lives = judgement.repair, judgement.lives
    assert repaired is not None
    assert lives is not None
    if not any(_is_open(chosen, judgement, name) for name in culprits):
        return _one_a_cause(repaired, culprits)
    is_right = rightness(judgement.draw, judgement.summands)
    with warnings.catch_warnings(action="ignore"):  # what is put somewhere may make nonsense
        found = explained(chosen, judgement.draw, is_right, lives, repaired, judgement.vacuous)
    for one in found:
        name, *followers = [n for n in one.gradients if n in culprits] or [""]
        culprits = {n: c for n, c in culprits.items() if n not in followers}
        culprits |= {name: replace(culprits[name], faults=one.faults)} if name else {}
    return _one_a_cause(repaired, _one_a_loop(repaired, culprits))


def _one_a_cause(repaired: Repair, culprits: dict[str, Culprit]) -> dict[str, Culprit]:
    """Return the culprits, of those of which nothing was made as one line raised only the first."""
    first: dict[ast.stmt, str] = {}
    for name, culprit in culprits.items():
        cause = repaired.cause(name)
        if culprit.value is None and cause is not None:
            first.setdefault(cause[0], name)
    lost = {n for n in culprits if (cause := repaired.cause(n)) is not None and first.get(cause[0], n) != n}
    return {n: c for n, c in culprits.items() if n not in lost}


def _one_a_loop(repaired: Repair, culprits: dict[str, Culprit]) -> dict[str, Culprit]:
    """Return the culprits, of items of a container that the same line completes only the first.

    This is what can be said where the statement at fault could not be found.
    """
    first: dict[tuple[str, ast.stmt], str] = {}
    for name, seen in sorted(repaired.observed.items(), key=lambda item: item[1].step):
        if name in culprits and not culprits[name].faults and "[" in name and seen.statements:
            first.setdefault((root(name), seen.statements[-1]), name)
    others = {n for n in culprits if "[" in n and not culprits[n].faults} - set(first.values())
    return {n: c for n, c in culprits.items() if n not in others}


def _is_open(chosen: Pass, judgement: Judgement, name: str) -> bool:
    """Tell whether more than the text is needed to say which statement made a gradient wrong.

    It is not where that has statements of its own alone, outside of loops, that read no temporary but
    numbers: no known value stands for one.
    """
    source, seen = chosen.backward_source, judgement.seen(name)
    if source is None or seen is None:
        return False
    own = seen.statements
    paths = variables_of(chosen, judgement.draw).path
    gradients, variable = {root(path) for path in paths.values()}, root(paths.get(name, ""))
    if any(variable in writes(s) for s in source.simple if s not in source.statements):
        return True
    numbers = {n for n, value in seen.namespace.items() if isinstance(value, int | float)}
    temporaries = {n for s in own for n in reads(s) if source.makers(n)} - gradients - numbers
    return bool(temporaries) or any(s not in source.statements for s in own)


def _faults_of(judgement: Judgement, name: str) -> tuple[Fault, ...]:
    return judgement.culprits[name].faults if name in judgement.culprits else ()


def _misdirected(judgement: Judgement) -> dict[str, Culprit]:
    """Blame gradients of tensors on which the output does not depend."""
    unreached, user = judgement.draw.trace.unreached, judgement.draw.user
    wrong = [name for name, right in judgement.right.items() if not right and name in unreached]
    return {n: blame(n, user[n], torch.zeros_like(unreached[n]).detach(), {}) for n in wrong}


def _by_hooks(judgement: Judgement) -> dict[str, Culprit]:
    """Judge each gradient given the user's own upstream gradients, in one pass of autograd."""
    draw = judgement.draw
    given = {}
    for name, value in draw.user.items():
        if name in draw.trace.tensors:
            fitted = fit_shape(value, draw.trace.tensors[name])
            if fitted is not None:
                given[name] = fitted.to(draw.trace.tensors[name].dtype).contiguous()
    expected = draw.trace.local_gradients(given)
    handed = expected | given
    culprits = {}
    for name in reversed(draw.trace.tensors):
        if name not in draw.user or name in draw.trace.outputs:
            continue
        size, noise = judgement.summands.get(name, 0.0), judgement.summands.noise(name)
        if not close(draw.user[name], expected[name], size, noise):
            culprits[name] = blame(name, draw.user[name], expected[name], handed, judgement.summands)
    return culprits


def blame(
    name: str,
    value: Tensor | None,
    expected: Tensor,
    handed: Mapping[str, Tensor],
    summands: Summands | None = None,
) -> Culprit:
    """Return a wrong gradient with what it should be."""
    value = as_gradient_of(expected, value)
    size = summands.get(name, 0.0) if summands is not None else 0.0
    noise = summands.noise(name) if summands is not None else math.inf
    shape_only = value is not None and right_but_for_shape(value, expected, size)
    return Culprit(name, value, expected, handed, shape_only, size, noise)
