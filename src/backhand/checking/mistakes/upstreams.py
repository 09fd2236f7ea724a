"""Explain a gradient by putting another tensor in a right one's place: a wrong upstream, a wrong point."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.graph import Node

from backhand.checking.mistakes.branches import OF, whole_factor
from backhand.checking.mistakes.finding import Finding
from backhand.checking.mistakes.neighbourhood import EXACT, NEAR, Saved, Scene
from backhand.checking.running import private
from backhand.checking.running.precision import OF_SUMMANDS, RELATIVE
from backhand.checking.running.private import Gradients, step
from backhand.checking.verdicts.comparing import coarser, constant_ratio, fits


def another_upstream(scene: Scene) -> Finding | None:
    """Find another tensor's gradient, or none at all, where an upstream gradient belongs."""
    for consumers, stops in _levels(scene):
        for c in consumers:
            rest = scene.expected - scene.contributions(consumers)[c]
            for label, upstream in _upstreams(scene, c):
                if scene.same(scene.value, rest + scene.through(c, upstream, stops)):
                    told = f"{label} was used" if label else "no upstream gradient was used"
                    detail = {"used": label, "expected": scene.d(c)}
                    return Finding("wrong_upstream", detail, f"{told} where {scene.d(c)} belongs")
    return None


def _levels(scene: Scene) -> Iterator[tuple[list[str], list[str] | None]]:
    yield scene.consumers, None
    if scene.frontier != scene.consumers:
        yield scene.frontier, scene.frontier


def _upstreams(scene: Scene, consumer: str) -> Iterator[tuple[str | None, Tensor]]:
    right = scene.handed[consumer]
    yield None, torch.ones_like(right)
    for name, gradient in scene.others.items():
        if name != consumer and fits(gradient, right):
            yield scene.d(name), gradient.expand(right.shape)
    for name, value in scene.values.items():
        if fits(value, right) and value.shape == right.shape:
            yield name, value


def added_too_early(scene: Scene) -> Finding | None:
    """Find that what arrives at one output is added to what arrives at another, and goes through that."""
    upstream = {n: scene.trace.upstream[f"d{n}"] for n in scene.trace.outputs}
    if not 1 < len(upstream) <= OF:
        return None
    parts = {n: scene.through(n, u, ()) for n, u in upstream.items()}
    for a, b in itertools.permutations(upstream, 2):
        rest = scene.expected - parts[a] - parts[b]
        if upstream[a].shape != upstream[b].shape or not bool(parts[b].any()):
            continue
        if scene.same(scene.value, rest + scene.through(a, upstream[a] + upstream[b], ())):
            words = f"{scene.d(b)} is added to {scene.d(a)}, and goes through the derivative of {a} with it"
            hint = f"What comes by way of {b} goes beside what comes by way of {a}, and is added to that."
            return Finding("wrong_upstream", {"used": scene.d(a), "expected": scene.d(b)}, words, hint=hint)
    return None


def handed_on(scene: Scene) -> Finding | None:
    """Find an upstream gradient that is handed on as it is, without the local derivative."""
    for consumer, own in scene.parts.items():
        upstream = scene.handed[consumer]
        rest = scene.expected - own
        if upstream.shape != rest.shape or not scene.same(scene.value, rest + upstream):
            continue
        words = f"{scene.d(consumer)} is handed on as it is: the local derivative is missing"
        return Finding("wrong_point", {"used": None, "expected": consumer}, words)
    return None


def another_point(scene: Scene) -> Finding | None:
    """Find a local derivative that is evaluated at another tensor than the forward's, or at none."""
    for consumer, own in scene.parts.items():
        rest = scene.expected - own
        for saved in scene.saved(consumer):
            for label, tensor in _points(scene, saved):
                try:
                    with saved.replaced(tensor):
                        predicted = scene.through(consumer, scene.handed[consumer])
                except RuntimeError:  # it does not fit there after all
                    continue
                if scene.same(scene.value, rest + predicted):
                    return _at(scene, consumer, saved.original, label, own, predicted)
    return None


def _at(scene: Scene, consumer: str, right: Tensor, label: str, own: Tensor, predicted: Tensor) -> Finding:
    """Return that the derivative of a consumer is evaluated at a tensor by this label, or at 1."""
    expected = _name_of(scene, right)
    detail = {"used": label, "expected": expected}
    if label == "1":
        words = f"the factor {expected or 'of the local derivative'} is missing"
        factor = scene.values.get(expected or "")
        if factor is not None and not (fits(factor, own) and scene.same(own, predicted * factor)):
            words = f"of the derivative of {consumer}, what depends on {expected} is missing"  # a power, say
        return Finding("wrong_point", detail, words)
    kind = "transposed" if label.endswith(".T") and label[:-2] == str(expected) else "wrong_point"
    right_one = expected or f"what the forward's line for {consumer} applies the operation to"
    used = "its transpose" if expected is None and kind == "transposed" else label
    words = f"the derivative is evaluated at {used}, not at {right_one}"
    return Finding(kind, detail, words)


def _points(scene: Scene, saved: Saved) -> Iterator[tuple[str, Tensor]]:
    right = saved.original
    for name, value in scene.values.items():
        if fits(value, right) and value.dtype == right.dtype:
            candidate = value.expand(right.shape)
            if not torch.equal(candidate, right):
                yield name, candidate
    yield "1", torch.ones_like(right)
    if right.dim() == 2 and right.shape[0] == right.shape[1]:
        yield f"{_name_of(scene, right)}.T", right.T


def _name_of(scene: Scene, value: Tensor) -> str | None:
    for name, candidate in scene.values.items():
        if candidate.shape == value.shape and fits(candidate, value) and torch.equal(candidate, value):
            return name
    return None


def extra_factor(scene: Scene) -> Finding | None:
    """Find a tensor by which the gradient is multiplied though it should not be, or one left out."""
    if scene.value.numel() < 2:
        return None
    for branch, (user, right) in _parts(scene).items():
        for name, value in scene.values.items():
            if value.numel() < 2 or not fits(value, right):
                continue
            if scene.same(user, right * value):
                words = f"multiplied by {name}, which does not belong there{branch}"
                return Finding("wrong_point", {"used": name, "expected": None}, words)
            if scene.same(user * value, right):
                detail = {"used": None, "expected": name}
                return Finding("wrong_point", detail, f"the factor {name} is missing{branch}")
    return None


def product_left_out(scene: Scene) -> Finding | None:
    """Find two tensors that are missing as factors of the whole, with a constant besides."""
    user, right = scene.value, scene.expected
    fitting = {n: v for n, v in scene.values.items() if v.numel() > 1 and fits(v, right)}
    if user.numel() < 2 or user.shape != right.shape:
        return None
    for (a, first), (b, second) in itertools.combinations(list(fitting.items())[:NEAR], 2):
        factor = constant_ratio(right, user * first * second)
        if factor and scene.same(right, factor * user * first * second):
            more = "" if abs(factor - 1) < EXACT else f", and a constant factor of {factor:.6g}"
            detail = {"used": None, "expected": f"{a} * {b}"}
            return Finding("wrong_point", detail, f"the factors {a} and {b} are missing{more}")
    return None


def _parts(scene: Scene) -> dict[str, tuple[Tensor, Tensor]]:
    parts = {"": (scene.value, scene.expected)}
    if len(scene.parts) > 1:
        for c, own in scene.parts.items():
            parts[f" (in the branch through {c})"] = (scene.value - (scene.expected - own), own)
    return parts


def besides_a_branch(scene: Scene) -> Finding | None:
    """Find a branch that is missing and, in what is there, another slip."""
    if not 1 < len(scene.consumers) <= OF:
        return None
    for consumer, part in scene.parts.items():
        if not bool(part.any()):
            continue
        rest = scene.without(consumer)
        for finder in (whole_factor, another_upstream, handed_on, another_point):
            found = finder(rest)
            if found is not None:
                words = f"the branch through {consumer} is missing, and in what is there {found.words}"
                return replace(found, kind="missing_branch", words=words)
    return None


def another_gradient(scene: Scene) -> Finding | None:
    """Find the gradient of another tensor in this one's place.

    Not that of one whose right gradient is the same: then both are wrong for one reason.
    """
    for name, gradient in scene.others.items():
        is_alike = scene.same(scene.expected, scene.trace.gradients.get(name))
        if not is_alike and gradient.shape == scene.value.shape and scene.same(scene.value, gradient):
            detail = {"used": scene.d(name), "expected": scene.d(scene.name)}
            return Finding("wrong_upstream", detail, f"it equals {scene.d(name)}, another tensor's gradient")
    return None


def overwritten(scene: Scene) -> Finding | None:
    """Find repeated indices that overwrite one another where they must accumulate."""
    for consumer, own in scene.parts.items():
        rest = scene.expected - own
        for source, upstream in _indexing(scene, consumer):
            if _any_of(scene.value - rest, source, upstream, scene):
                return Finding(
                    "overwritten", {}, "of the gradients that repeated indices send here, one is kept"
                )
    return None


def _indexing(scene: Scene, consumer: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for each indexing operation on this tensor, which element is read by each of its results."""
    end = scene.trace.edges[scene.name]
    place = torch.arange(scene.tensor.numel()).view(scene.tensor.shape).to(scene.tensor.device)
    for node in scene.nodes(consumer):
        if not any(following == end for following in node.next_functions):
            continue
        read = _read_by(node, place)
        if read is None:
            continue
        arrived = _arriving_at(scene, consumer, node)
        if arrived is not None and arrived.shape == read.shape:
            yield read.flatten(), arrived.flatten()


def _arriving_at(scene: Scene, consumer: str, node: Node) -> Tensor | None:
    """Return the gradient that an operation on the way from a consumer is given."""
    seen: list[Tensor | None] = []

    def recorded(reached: Node, gradients: Gradients) -> Gradients:
        seen.extend(gradients[:1] if reached == node else ())
        return step(reached, gradients)

    scene.through(consumer, scene.handed[consumer], step=recorded)
    return seen[0] if seen else None


def _read_by(node: Node, place: Tensor) -> Tensor | None:
    """Return what an indexing operation reads of a tensor; None where it is none, or does not tell."""
    kind, indices, index, dim = (
        node.name(),
        *(private.saved(node, name) for name in ("indices", "index", "dim")),
    )
    if kind.startswith("IndexBackward") and indices is not None:
        return place[tuple(slice(None) if i is None else i for i in indices)]
    if kind.startswith("EmbeddingBackward") and indices is not None:
        return place[indices]
    if index is None or dim is None:
        return None
    dim = dim if dim < place.dim() else dim - 2**64  # a negative one, read as if it had no sign
    if kind.startswith("IndexSelectBackward"):
        return place.index_select(dim, index)
    return place.gather(dim, index) if kind.startswith("GatherBackward") else None


def _any_of(user: Tensor, source: Tensor, upstream: Tensor, scene: Scene) -> bool:
    """Tell whether each element of the gradient is a value that one of its readers sends, or zero."""
    flat = user.reshape(-1)
    dtype = coarser(user.dtype, upstream.dtype)
    floor = OF_SUMMANDS[dtype] * float(scene.expected.abs().max())
    match = (flat[source] - upstream).abs() <= RELATIVE[dtype] * upstream.abs() + floor
    hit = torch.zeros(flat.shape, dtype=torch.bool, device=flat.device)
    hit[source[match]] = True
    read = torch.zeros_like(hit)
    read[source] = True
    return bool((hit | (~read & (flat.abs() <= floor))).all())
