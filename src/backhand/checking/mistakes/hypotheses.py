"""Name a culprit's mistake: try the explanations, simplest first, keep one that reproduces the gradient."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as with_changes

import torch

from backhand.checking.mistakes.branches import (
    all_zero,
    branches,
    branches_above,
    coupling,
    paths,
    whole_factor,
)
from backhand.checking.mistakes.evidence import (
    first_not_finite,
    is_plausible,
    overwrites,
    scene_of,
    search_for,
    unassigned,
    unread,
    unread_upstream,
)
from backhand.checking.mistakes.finding import Finder, Finding
from backhand.checking.mistakes.neighbourhood import Scene
from backhand.checking.mistakes.shapes import (
    cut_short,
    overreduced,
    partial,
    rearranged,
    right_values,
    transposed,
    unreduced,
)
from backhand.checking.mistakes.upstreams import (
    another_gradient,
    another_point,
    another_upstream,
    extra_factor,
    overwritten,
)
from backhand.checking.mistakes.wording import in_words
from backhand.checking.mistakes.workbench import (
    Budget,
    Search,
    by_accumulating,
    by_dropped_term,
    by_edit,
    by_other_upstream,
)
from backhand.checking.report import Mistake
from backhand.checking.running.names import root
from backhand.checking.running.program import assigned, writes_surely
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.comparing import close, fit_shape
from backhand.checking.verdicts.localising import Judgement
from backhand.checking.verdicts.variables import Variables, extended
from backhand.errors import in_short

# Of two explanations that fit, the earlier is named and the later mentioned.
OF_SHAPE: tuple[Finder, ...] = (transposed, right_values, unreduced, overreduced)
OF_VALUES: tuple[Finder, ...] = (
    all_zero,
    whole_factor,
    branches,
    branches_above,
    transposed,
    overwritten,
    cut_short,
    another_upstream,
    another_point,
    overreduced,
    extra_factor,
    another_gradient,
    paths,
)
AT_LAST: tuple[Finder, ...] = (coupling, partial, rearranged)

CHEAP: tuple[Finder, ...] = (whole_factor, branches, transposed, another_gradient)


@dataclass(frozen=True)
class Case:
    """A culprit, and the draws on which its gradient is wrong."""

    chosen: Pass
    name: str
    judged: Sequence[Judgement]
    budget: Budget
    last: Sequence[Finder] = ()

    @property
    def first(self) -> Judgement:
        """The first of the draws, from which the words are taken."""
        return self.judged[0]

    def search(self, also: Sequence[ast.stmt] = ()) -> Search | None:
        """Return what an edit of the gradient's statements is looked for in; None without source."""
        return search_for(self.chosen, self.name, self.judged, self.budget, also)


def name_mistake(
    chosen: Pass,
    name: str,
    judged: Sequence[Judgement],
    budget: Budget | None = None,
    last: Sequence[Finder] = (),
) -> Mistake:
    """Return the mistake in one gradient, from the draws on which it is wrong.

    Args:
        chosen: the pass.
        name: of the tensor.
        judged: the draws.
        budget: shared by the gradients of a report.
        last: what to try where nothing else reproduces the gradient.
    """
    case = Case(chosen, name, judged, budget or Budget(), last)
    return in_words(chosen, judged[0], name, _find(case))


def _find(case: Case) -> Finding:
    first, name = case.first, case.name
    culprit = first.culprits[name]
    if first.repair is not None and name in first.repair.aliased:
        changed_by = first.repair.aliased[name].through
        return Finding("aliased", {"with": changed_by}, f"changed in place through {changed_by}")
    if culprit.value is None:
        return _without_value(case)
    if not bool(torch.isfinite(culprit.value).all()) and bool(torch.isfinite(culprit.expected).all()):
        return Finding("nonfinite", {"origin": first_not_finite(first, name)}, "NaN or infinity")
    if name not in first.draw.trace.tensors:
        return Finding("repeated_branch", {"branches": []}, "the output does not depend on this tensor")
    return _raising(case) or _swapped(first, name) or _by_source(case) or _by_values(case)


def _by_source(case: Case) -> Finding | None:
    """Explain by what the statements say plainly: an `=` for a `+=`, an upstream gradient not read."""
    search = case.search()
    if search is None:
        return None
    upstreams = [path for path, _ in unread(case.chosen, case.first, case.name) if path.isidentifier()]
    return by_accumulating(search) or (by_other_upstream(search, upstreams) if upstreams else None)


def _by_values(case: Case) -> Finding:
    chosen, name, first = case.chosen, case.name, case.first
    scenes = [scene_of(j, name) for j in case.judged[:2] if j.culprits[name].value is not None]
    found = _explain(scenes)
    if found is not None and found.kind == "missing_branch" and overwrites(chosen, first, name):
        words = f"{found.words}, for it is assigned twice and `=` drops what was there"
        return Finding("overwritten", found.detail, words)
    if found is not None and found.kind == "repeated_branch" and first.repair is not None:
        search = case.search()
        if search is None or by_dropped_term(search) is None:  # no term is there twice
            words = found.words.replace("is added twice", "times 2")
            return Finding("scale", {"factor": 2.0, "guess": "2", **found.detail}, words)
    if found is not None and found.kind == "overreduced":  # it may have another cause, where factors sum to 1
        edited = _edited(case)
        return edited if edited is not None and edited.kind != "overreduced" else found
    if found is not None and is_plausible(chosen, first, name, found):
        return found
    return (
        _guarded(scenes[0])
        or _edited(case)
        or found
        or by_alias(first, name)
        or _first(AT_LAST[:1], scenes)
        or unread_upstream(chosen, first, name)
        or _first(AT_LAST[1:], scenes)
        or _first(case.last, scenes[:1])  # they have looked at the first draw alone
        or Finding("unexplained", {"ruled_out": _ruled_out()}, "no simple slip reproduces it")
    )


def _guarded(scene: Scene) -> Finding | None:
    """Find numbers where the right gradient has none, as a clamp or an epsilon in the backward makes them."""
    value, expected = scene.value, scene.expected
    if value.shape != expected.shape or not bool((value.isfinite() & ~expected.isfinite()).any()):
        return None
    hint = "A guard belongs in the forward too; or choose inputs away from where it is infinite."
    return Finding("nonfinite", {"origin": scene.name}, "finite where the right gradient is not", hint=hint)


def _edited(case: Case) -> Finding | None:
    search = case.search()
    return by_edit(search) if search is not None else None


def _raising(case: Case) -> Finding | None:
    """Mend a line that raised within a loop, so that a part of the gradient was never added."""
    name, first, source = case.name, case.first, case.chosen.backward_source
    if first.repair is None or source is None or name not in first.draw.matched:
        return None
    path = Variables(source, extended(first.draw, source)).path.get(name, "")
    for statement, error in first.repair.errors:
        if root(path) in writes_surely(statement):
            search = case.search([statement])
            found = by_edit(search) if search is not None else None
            if found is not None:
                found.words += f" ({_raises(error)})"
            return found
    return None


def _swapped(judgement: Judgement, name: str) -> Finding | None:
    """Find another culprit that has this one's gradient while this one has its."""
    own = judgement.culprits[name]
    for other, culprit in judgement.culprits.items():
        if other == name or own.value is None or culprit.value is None:
            continue
        if close(own.value, culprit.expected) and close(culprit.value, own.expected):
            gradient = judgement.draw.matched.get(other, f"d{other}")
            return Finding("swapped", {"with": gradient}, f"it and {gradient} have each other's value")
    return None


def _explain(scenes: Sequence[Scene]) -> Finding | None:
    """Return the first explanation that holds on every scene."""
    first = scenes[0]
    if first.value.shape != first.expected.shape:
        found = _first(OF_SHAPE, scenes)
        if found is not None:
            return found
        fitted = [_fitted(s) for s in scenes]
        if any(s is None for s in fitted):
            return None
        found = _first(OF_VALUES, [s for s in fitted if s is not None])
        if found is not None:
            found.words += f"; besides, its shape is {tuple(first.value.shape)}"
        return found
    found = _first(OF_VALUES, scenes)
    if found is not None:
        others = [f for f in (finder(first) for finder in CHEAP) if f is not None and f.kind != found.kind]
        found.also = others[0].words if others else ""
    return found


def _fitted(scene: Scene) -> Scene | None:
    value = fit_shape(scene.value, scene.expected)
    return None if value is None else with_changes(scene, value=value, _contributions={})


def _first(finders: Sequence[Finder], scenes: Sequence[Scene]) -> Finding | None:
    for finder in finders:
        found = finder(scenes[0])
        if found is not None and all(_agrees(found, finder(s)) for s in scenes[1:]):
            return found
    return None


def _agrees(found: Finding, other: Finding | None) -> bool:
    """Tell whether two draws gave the same explanation: the same kind, and the same constant factor."""
    if other is None or other.kind != found.kind:
        return False
    a, b = found.detail.get("factor"), other.detail.get("factor")
    return a is None or b is None or abs(a - b) <= 1e-9 * abs(a)


def by_alias(judgement: Judgement, name: str) -> Finding | None:
    """Find memory shared with another gradient, where there is no source that tells who changed it."""
    value = judgement.draw.user.get(name)
    if value is None or judgement.repair is not None:
        return None
    for other, tensor in judgement.draw.user.items():
        if other != name and tensor.data_ptr() == value.data_ptr() and tensor.shape == value.shape:
            with_ = judgement.draw.matched[other]
            return Finding("aliased", {"with": with_}, f"shares its memory with {with_}")
    return None


def _without_value(case: Case) -> Finding:
    """Explain a gradient that its line did not make: the line raised, or gave None."""
    chosen, name, first = case.chosen, case.name, case.first
    seen = first.repair.observed.get(name) if first.repair is not None else None
    if first.repair is None or seen is None or seen.error is None:
        return Finding("zero", {}, "None")
    raised = _cause(seen.error, first.repair.errors)
    if isinstance(raised, NameError):
        return unassigned(chosen, first, seen, raised)
    found = _by_source(case) or _edited(case) or unread_upstream(chosen, first, name)
    told = _raises(raised)
    if found is not None:
        return Finding(found.kind, found.detail, f"{found.words} ({told})")
    return Finding("unexplained", {"ruled_out": []}, told)


def _cause(error: Exception, errors: Sequence[tuple[ast.stmt, Exception]]) -> Exception:
    """Return why a line raised: where a variable is not there, what the line that makes it raised."""
    followed: set[str | None] = set()
    while isinstance(error, NameError) and error.name not in followed:
        missing = error.name
        followed.add(missing)
        error = next((e for statement, e in errors if missing in assigned(statement)), error)
    return error


def _raises(error: Exception) -> str:
    return f"the line raises {in_short(error)}"


def _ruled_out() -> list[str]:
    return ["branches", "sign", "scale", "transpose", "another upstream", "another point", "a small edit"]
