"""What the backward's own statements tell of a gradient: which of them make it, and what they read."""

import ast
from collections.abc import Sequence

import torch
from torch import Tensor

from backhand.checking.mistakes.deriving import derived
from backhand.checking.mistakes.finding import Finding
from backhand.checking.mistakes.neighbourhood import Scene
from backhand.checking.mistakes.workbench import Bench, Budget, Search
from backhand.checking.running.names import nearest, root
from backhand.checking.running.program import numbers_in
from backhand.checking.running.slicing import slice_of
from backhand.checking.running.statements import begins_anew, reads, simple_statements, writes
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.localising import Judgement
from backhand.checking.verdicts.repairing import Observed, Variables, extended


def scene_of(judgement: Judgement, name: str) -> Scene:
    """Return the surroundings of a culprit; one that has no value is seen with the right one."""
    culprit, draw = judgement.culprits[name], judgement.draw
    given = set(draw.user)
    value = culprit.expected
    if culprit.value is not None:
        value = culprit.value
        value = value if value.is_floating_point() else value.to(culprit.expected.dtype)
    else:
        given |= set(draw.matched) | set(judgement.repair.observed if judgement.repair else ())
    return Scene(
        trace=draw.trace,
        name=name,
        value=value,
        expected=culprit.expected,
        handed=dict(culprit.handed),
        given=frozenset(given),
        gradient_names=draw.matched,
        summands=culprit.summands,
    )


def search_for(
    chosen: Pass, name: str, judged: Sequence[Judgement], budget: Budget, also: Sequence[ast.stmt] = ()
) -> Search | None:
    """Return what an edit of a gradient's statements is looked for in; None where there is no source."""
    source, benches, kept = chosen.backward_source, [], []
    statements: list[ast.stmt] = []
    matched: dict[str, str] = {}
    for judgement in judged[:2]:
        if judgement.repair is None or name not in judgement.repair.observed or source is None:
            return None
        seen = judgement.repair.observed[name]
        matched = extended(judgement.draw, source)
        statements = [*seen.statements, *also]
        if seen.namespace:
            known = derived(scene_of(judgement, name)) if name in judgement.draw.trace.tensors else []
            kept.append([what for what, _ in known])
            more = {what.variable: value for what, value in known}
            culprit = judgement.culprits[name]
            benches.append(Bench(seen.namespace | more, culprit.expected, culprit.summands))
    assert source is not None
    paths = Variables(source, matched).path
    if name not in paths or not benches:
        return None
    gradients = {path: tensor for tensor, path in paths.items()}
    gradients |= {f"d{output}": output for output in judged[0].draw.trace.outputs}
    values, forward = judged[0].draw.trace.values, chosen.forward_source
    numbers = {v for v in values.values() if isinstance(v, float)}
    numbers |= numbers_in(forward.statements) if forward is not None else set()
    names = frozenset(n for n in benches[0].namespace if not n.startswith("__"))
    return Search(
        source, paths[name], statements, gradients, benches, names, budget, sorted(numbers), kept[0]
    )


def statements_of(chosen: Pass, judgement: Judgement, name: str) -> list[ast.stmt] | None:
    """Return the statements that make a gradient and its temporaries; None without source."""
    source = chosen.backward_source
    seen = judgement.repair.observed.get(name) if judgement.repair is not None else None
    if source is None or seen is None:
        return None
    paths = Variables(source, extended(judgement.draw, source)).path
    if name not in paths:
        return None
    known = {root(path): tensor for tensor, path in paths.items()}
    return slice_of(source, paths[name], seen.statements, known)


def names_read(chosen: Pass, judgement: Judgement, name: str) -> set[str] | None:
    """Return the variables that these statements read; None without source."""
    statements = statements_of(chosen, judgement, name)
    return None if statements is None else {n for s in statements for n in reads(s)}


def unread(chosen: Pass, judgement: Judgement, name: str) -> list[tuple[str, str]]:
    """Return the upstream gradients, each with its tensor, that a gradient's statements never read."""
    read = names_read(chosen, judgement, name)
    if read is None or chosen.backward_source is None or name not in judgement.draw.trace.tensors:
        return []
    scene = scene_of(judgement, name)
    paths = Variables(chosen.backward_source, extended(judgement.draw, chosen.backward_source)).path
    upstream = [(paths.get(c, scene.d(c)), c) for c in scene.frontier]
    return [(path, c) for path, c in upstream if root(path) not in read]


def unread_upstream(chosen: Pass, judgement: Judgement, name: str) -> Finding | None:
    """Find an upstream gradient that the statements of this gradient never read."""
    for path, consumer in unread(chosen, judgement, name):
        words = f"{path}, the gradient that comes from {consumer}, is not used"
        return Finding("wrong_upstream", {"used": None, "expected": path}, words)
    return None


def unassigned(chosen: Pass, judgement: Judgement, seen: Observed, error: NameError) -> Finding:
    """Tell of a variable that a gradient's line uses though nothing above has assigned it."""
    missing, source = error.name or "", chosen.backward_source
    late = source is not None and source.times_assigned(missing)
    is_gradient = missing.startswith("d")
    tensors = [name for name, value in seen.namespace.items() if isinstance(value, Tensor)]
    alike = [name for name in tensors if name.startswith("d") == is_gradient]
    known = missing in {f"d{name}" for name in judgement.draw.trace.values}
    when = "is assigned below" if late else "was never assigned"
    words = f"the line raises NameError, for {missing} {when}"
    hint = "A line can use only what stands above it" + (nearest(missing, () if known else alike) or ".")
    if is_gradient:
        return Finding("wrong_upstream", {"used": None, "expected": missing}, words, hint=hint)
    return Finding("unexplained", {"ruled_out": []}, words, hint=hint)


def is_plausible(chosen: Pass, judgement: Judgement, name: str, found: Finding) -> bool:
    """Tell whether the statements can have done what a finding says; without source, whatever it says."""
    used, read = found.detail.get("used"), names_read(chosen, judgement, name)
    if read is None or not isinstance(used, str) or not used[:1].isidentifier():
        return True
    tensors = {gradient: tensor for tensor, gradient in judgement.draw.matched.items()}
    source = chosen.backward_source
    paths = Variables(source, judgement.draw.matched).path if source else {}
    return root(paths.get(tensors.get(used, ""), used)).removesuffix(".T") in read


def overwrites(chosen: Pass, judgement: Judgement, name: str) -> bool:
    """Tell whether the source assigns a gradient afresh after it had a value, so that the value is lost."""
    source = chosen.backward_source
    if source is None or name not in judgement.draw.matched:
        return False
    path = Variables(source, judgement.draw.matched).path.get(name, "")
    return _is_assigned_twice(source.statements, path) if path.isidentifier() else False


def _is_assigned_twice(statements: Sequence[ast.stmt], variable: str) -> bool:
    count = 0
    for top in statements:
        looped = isinstance(top, ast.For | ast.While)
        for s in simple_statements((top,)):
            if begins_anew(s, variable) and variable in writes(s):
                count += 2 if looped else 1
    return count > 1


def first_not_finite(judgement: Judgement, name: str) -> str:
    """Return the first tensor in which something is not finite: of the forward, or of the backward."""
    for tensor, value in judgement.draw.trace.tensors.items():
        if not bool(torch.isfinite(value).all()):
            return tensor
    seen = judgement.repair.observed if judgement.repair is not None else {}
    for tensor, observed in seen.items():
        if observed.value is not None and not bool(torch.isfinite(observed.value).all()):
            return judgement.draw.matched.get(tensor, f"d{tensor}")
    return judgement.draw.matched.get(name, f"d{name}")
