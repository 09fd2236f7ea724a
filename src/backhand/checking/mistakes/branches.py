"""Explain a gradient as a sum of its branches with wrong coefficients: missing, repeated, negated, scaled."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from backhand.checking.mistakes.finding import Finding, listed
from backhand.checking.mistakes.neighbourhood import NEAR, Scene
from backhand.checking.running.complexes import as_reals
from backhand.checking.running.names import root
from backhand.checking.verdicts.comparing import constant_ratio

# Which branches are wrong together: up to so many of up to so many. A weight that a loop uses at every turn
# has a branch a turn; each of them alone is looked at, but not every choice of four.
TOGETHER = 4
OF = 6
# The least squares that give several coefficients at once lose some digits more than one alone.
SOLVED = 10


def all_zero(scene: Scene) -> Finding | None:
    """Find a gradient of zeros, or of nothing but rounding."""
    if not scene.value.numel() or not scene.same(scene.value, torch.zeros_like(scene.value)):
        return None
    if not bool(scene.expected.any()):
        return None
    return Finding("zero", {}, "all zeros, but for rounding" if bool(scene.value.any()) else "all zeros")


def whole_factor(scene: Scene) -> Finding | None:
    """Find the whole gradient negated or multiplied by a constant; zeros are told as that."""
    factor = constant_ratio(scene.value, scene.expected)
    if not factor or abs(factor - 1) < scene.exact or not scene.same(scene.value, factor * scene.expected):
        return None
    if abs(factor + 1) < scene.exact:
        branches = {"branches": scene.consumers}
        return Finding("sign", branches, "the right gradient with the opposite sign")
    return _scale(scene, factor, scene.consumers, "the right gradient")


def with_coefficient(coefficient: float, scene: Scene) -> Finding | None:
    """Find branches, through the direct consumers or through the given ones, with this coefficient."""
    for parts in _levels(scene):
        for chosen in choices(parts):
            part = torch.stack([parts[c] for c in chosen]).sum(0)
            if scene.same(scene.value, scene.expected + (coefficient - 1) * part):
                return _named(scene, chosen, coefficient)
    return None


def scaled(scene: Scene) -> Finding | None:
    """Find the coefficients of the branches, all at once."""
    for parts in _levels(scene):
        found = _several(scene, parts)
        if found is not None:
            return found
    return None


def _levels(scene: Scene) -> Iterator[dict[str, Tensor]]:
    """Yield the branches through the direct consumers, then those through the given ones."""
    for consumers in (scene.consumers, scene.frontier):
        parts = {c: p for c, p in scene.contributions(consumers).items() if bool(p.any())}
        if len(parts) > 1:
            yield parts


def choices(parts: dict[str, Tensor], *, whole: bool = False) -> Iterator[list[str]]:
    """Yield the branches that may be wrong together, one alone first; all of them only if asked for."""
    most = min(len(parts) if whole else len(parts) - 1, TOGETHER if len(parts) <= OF else 1)
    for size in range(1, most + 1):
        yield from map(list, itertools.combinations(parts, size))
    if whole and len(parts) > most:
        yield list(parts)


def paths(scene: Scene) -> Finding | None:
    """Find one of several paths to a consumer that is cut, negated, doubled or scaled."""
    if scene.value.numel() < 2:
        return None
    for c, own in scene.parts.items():
        for node in scene.nodes(c):
            for i in range(len(node.next_functions)):
                part = own - scene.without_path(c, node, i)
                factor = constant_ratio(scene.value - (scene.expected - part), part)
                if factor is None or abs(factor - 1) < scene.exact:
                    continue
                nearest = float(round(factor)) if abs(factor - round(factor)) < scene.exact else factor
                if scene.same(scene.value, scene.expected + (nearest - 1) * part):
                    return _named(scene, [c], nearest, f"one of the paths through {c}")
    return None


def in_upstreams(scene: Scene) -> Finding | None:
    """Find a branch cut, doubled or negated in the gradient of a consumer.

    One without a name is made within the statements; that of an output begins with what arrives from above.
    One with a name is right, but may have been read before its last branch was added.
    """
    for consumer in scene.consumers:
        upper = replace(scene, name=consumer)
        parts, arrived = dict(upper.parts), scene.handed[consumer]
        if consumer in scene.trace.outputs:
            parts[scene.d(consumer)] = arrived - sum(parts.values(), torch.zeros_like(arrived))
        if len(parts) < 2:
            continue
        rest = scene.expected - scene.parts[consumer]
        for branch, part in parts.items():
            for coefficient in (0.0,) if consumer in scene.given else (0.0, 2.0, -1.0):
                predicted = rest + scene.through(consumer, arrived + (coefficient - 1) * part)
                if bool(part.any()) and scene.same(scene.value, predicted):
                    told = f"in what arrives at {consumer}, the branch through {branch}"
                    return _named(scene, [branch], coefficient, told)
    return None


def coupling(scene: Scene) -> Finding | None:
    """Find a missing term that couples the elements along an axis, as a softmax and a norm have one.

    Their Jacobians are a diagonal and a product of two vectors: with g for the part that is there, what is
    missing is a constant times `v * (w * g).sum(axis, keepdim=True)`, for tensors v and w of the forward.
    """
    user, expected = scene.value, scene.expected
    if user.numel() < 4:
        return None
    missing = expected - user
    own = [scene.name, *scene.consumers]
    alike = sorted((n for n, v in scene.values.items() if v.shape == user.shape), key=lambda n: n not in own)
    vectors = [("", torch.ones_like(user)), *((n, scene.values[n]) for n in alike[:NEAR])]
    there = [user]  # or one branch of several
    if 1 < len(scene.consumers) <= OF:
        there += [part - missing for part in scene.parts.values()]
    for part, axis in itertools.product(there, range(user.dim())):
        for inner, w in vectors:
            summed = (w * part).sum(axis, keepdim=True)
            for outer, v in vectors:
                factor = constant_ratio(missing, v * summed)
                if factor and scene.same(missing, factor * v * summed):
                    text = f"{outer} * ({inner} * ...).sum({axis}, keepdim=True)"
                    text = text.replace("( * ...)", "(...)").removeprefix(" * ")
                    words = f"the term that couples the elements along axis {axis} is missing: `{text}`"
                    return Finding("missing_branch", {"branches": [], "axes": [axis]}, words)
    return None


def _named(scene: Scene, chosen: list[str], coefficient: float, through: str = "") -> Finding:
    through = through or f"the branch through {listed(chosen)}"
    if coefficient == 0:
        return Finding("missing_branch", {"branches": chosen}, f"{through} is missing")
    if coefficient == -1:
        return Finding("sign", {"branches": chosen}, f"{through} has the opposite sign")
    if coefficient == 2:
        return Finding("repeated_branch", {"branches": chosen, "times": 2}, f"{through} is added twice")
    return _scale(scene, coefficient, chosen, through)


def doubled(found: Finding) -> Finding:
    """Return a branch that is there twice as one that is multiplied by two, which reads differently."""
    words = found.words.replace("is added twice", "times 2")
    return replace(found, kind="scale", detail={"factor": 2.0, "guess": "2", **found.detail}, words=words)


def _several(scene: Scene, parts: dict[str, Tensor]) -> Finding | None:
    if scene.value.numel() < len(parts) + 1:
        return None
    # on the CPU, for no GPU has a driver that solves what is of less than full rank
    matrix = torch.stack([as_reals(p).flatten() for p in parts.values()], dim=1).to("cpu", torch.float64)
    norms, solved_to = matrix.norm(dim=0), SOLVED * scene.exact
    if not bool(norms.isfinite().all() & scene.value.isfinite().all()) or not bool(norms.all()):
        return None  # of what is not finite nothing can be said
    value = as_reals(scene.value.to(scene.expected.dtype)).flatten().to(matrix)
    solved = torch.linalg.lstsq(matrix / norms, value, driver="gelsd").solution
    coefficients = [float(c) for c in solved / norms]
    coefficients = [float(round(c)) if abs(c - round(c)) < solved_to else c for c in coefficients]
    predicted = sum(
        (c * part for c, part in zip(coefficients, parts.values(), strict=True)), 0 * scene.expected
    )
    if not scene.same(scene.value, predicted.to(scene.value)):
        return None
    wrong = {c: a for c, a in zip(parts, coefficients, strict=True) if a != 1}
    if not wrong:
        return None
    if len(set(wrong.values())) > 1:
        values = list(wrong.values())
        if max(values) - min(values) > solved_to * abs(values[0]):
            return _each(scene, wrong)
    return _named(scene, list(wrong), next(iter(wrong.values())))


def _each(scene: Scene, wrong: dict[str, float]) -> Finding:
    """Name one of several branches that are wrong in different ways, and that others are missing.

    One that is there, and wrong, comes first: a gradient that only lacks branches may be right so far.
    """
    there = {c: a for c, a in wrong.items() if a}
    chosen = min(there, key=lambda c: abs(there[c]))
    found = _named(scene, [chosen], there[chosen])
    missing = [c for c, a in wrong.items() if not a]
    lost = f", and the branch through {listed(missing)} is missing" if missing else ""
    return replace(found, words=f"{found.words}{lost}")


def _scale(scene: Scene, factor: float, chosen: Sequence[str], what: str) -> Finding:
    guess, origin = guess_factor(factor, scene)
    digits = min(6, max(2, int(-math.log10(scene.exact))))  # none that are rounding
    number = f"{factor:.{digits}g}"
    told = f"{what} times {number}" + (f" = {guess}" if guess not in ("", number) else "")
    words = f"{told}; {origin}" if origin else told
    return Finding("scale", {"factor": factor, "guess": guess, "branches": list(chosen)}, words)


# Three is the size of something rather than a number that a derivative brings down.
THREE = {"3": (3.0, ""), "1/3": (1 / 3, "")}


def guess_factor(factor: float, scene: Scene) -> tuple[str, str]:
    """Return how a factor may have come about, and of what its number is the size; empty if nothing fits."""
    candidates = {"2": (2.0, ""), "1/2": (0.5, "")}
    sizes = _sizes(scene)
    for k, origin in (*sizes.items(), *_far_sizes(scene).items()):  # these come before powers of a near one
        for text, value in {f"{k}": float(k), f"1/{k}": 1 / k}.items():
            candidates.setdefault(text, (value, f"{k} is {origin}"))
    candidates |= {text: value for text, value in THREE.items() if text not in candidates}
    for k, origin in sizes.items():
        powers = {f"{k}**0.5": k**0.5, f"{k}**-0.5": k**-0.5, f"{k}**2": k**2, f"{k}**-2": k**-2}
        for text, value in powers.items():
            candidates.setdefault(text, (value, f"{k} is {origin}"))
    for k, origin in sizes.items():  # what is a size is not explained as another one less 1
        one_less = {f"{k}/{k - 1}": k / (k - 1), f"{k - 1}/{k}": (k - 1) / k}
        one_less |= {f"{k - 1}": k - 1, f"1/{k - 1}": 1 / (k - 1)}
        for text, value in one_less.items():
            candidates.setdefault(text, (value, f"{k} is {origin}"))
    for sign, mark in ((1, ""), (-1, "-")):
        for text, (value, origin) in candidates.items():
            if abs(sign * factor - value) < scene.exact * value:
                return mark + text, origin
    return "", ""


def _sizes(scene: Scene) -> dict[int, str]:
    """Return the sizes in play above 1, each with what it is the size of."""
    named = {name: scene.trace.tensors[name] for name in (scene.name, *scene.consumers)}
    found = _along_axes(named)
    for name, t in named.items():
        found.setdefault(t.numel(), f"the number of elements of {name}")
    return {size: origin for size, origin in found.items() if size > 1}


def _far_sizes(scene: Scene) -> dict[int, str]:
    """Return the sizes above 1 of all tensors of the forward, and of its lists."""
    found = _along_axes(scene.trace.tensors)
    items = Counter(root(name) for name in scene.trace.tensors if name[len(root(name)) + 1 : -1].isdigit())
    found |= {length: f"the length of {name}" for name, length in items.items() if length not in found}
    return {size: origin for size, origin in found.items() if size > 1}


def _along_axes(named: Mapping[str, Tensor]) -> dict[int, str]:
    found: dict[int, str] = {}
    for name, t in named.items():
        for axis, size in enumerate(t.shape):
            found.setdefault(size, f"the size of {name} along axis {axis}")
    return found
