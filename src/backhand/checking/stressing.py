"""Checks of a whole function: linear in its upstream gradient, the same for every layout, clean, repeatable.


They run on any *probe*, a function from named tensors (what a backward reads) to named gradients.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backhand.checking.meanings import KINDS
from backhand.checking.mistakes.finding import listed
from backhand.checking.report import Mistake
from backhand.checking.running.names import as_gradient, flatten
from backhand.checking.running.sandbox import running
from backhand.checking.running.trials import Draw
from backhand.checking.sources.protocol import Pass, arguments
from backhand.checking.verdicts.comparing import close
from backhand.checking.verdicts.localising import Judgement
from backhand.errors import in_short

Gradients = dict[str, Tensor]
Probe = Callable[[Mapping[str, Any]], Gradients]
Same = Callable[[str, Tensor, Tensor], bool]


def stress(
    probe: Probe, given: Mapping[str, Any], upstream: Sequence[str], sizes: Mapping[str, float]
) -> list[Mistake]:
    """Return what fails.

    Args:
        probe: calls the backward on named arguments, without changing them itself.
        given: the arguments.
        upstream: which of them are upstream gradients.
        sizes: of the summands of each gradient, by which its rounding is measured.
    """
    same = partial(_same, sizes)
    found = [*_modified(probe, given, upstream)]
    base = None if found else _called(probe, given)
    if base is None:  # what follows would only echo it
        return found
    found += _repeated(probe, given, base, same)
    if found:
        return found
    return [
        *_linearity(probe, given, upstream, base, same),
        *_layouts(probe, given, upstream, base, same),
    ]


def _linearity(
    probe: Probe, given: Mapping[str, Any], upstream: Sequence[str], base: Gradients, same: Same
) -> Iterator[Mistake]:
    if not upstream:
        return
    scaled = _called(probe, {**given, **{u: -2 * given[u] for u in upstream}})
    if scaled is None:
        return
    bad = sorted(n for n, g in base.items() if n in scaled and not same(n, scaled[n], -2 * g))
    if bad:
        unmoved = [n for n in bad if same(n, scaled[n], base[n])]
        told = "does not change" if unmoved == bad else "does not do so too"
        yield _mistake(
            "ignores_upstream",
            f"{', '.join(bad)} {told} when the upstream gradient {', '.join(upstream)} is multiplied by -2.",
            {"gradients": bad},
        )
        return
    generator = torch.Generator().manual_seed(1)
    changed = {u: _but_first(given[u], generator) for u in upstream}
    other = _called(probe, {**given, **changed})
    if other is not None and any(given[u].numel() > 1 for u in upstream):
        bad = sorted(n for n, g in base.items() if bool(g.any()) and n in other and same(n, other[n], g))
        if bad and len(bad) == len(base):
            message = (
                f"only the first element of {', '.join(upstream)} is read: {', '.join(bad)} use no other."
            )
            yield _mistake("ignores_upstream", message, {"gradients": bad})


def _but_first(value: Tensor, generator: torch.Generator) -> Tensor:
    noise = (
        torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.dtype).to(value.device)
    )
    noise.view(-1)[0] = value.reshape(-1)[0]
    return noise


def _repeated(probe: Probe, given: Mapping[str, Any], base: Gradients, same: Same) -> Iterator[Mistake]:
    again = _called(probe, given)
    bad = sorted(n for n, g in base.items() if again is None or n not in again or not _identical(again[n], g))
    if bad:
        close_ = again is not None and all(n in again and same(n, again[n], base[n]) for n in bad)
        how = "by rounding" if close_ else "by more than rounding"
        yield _mistake(
            "nondeterministic", f"two runs give different {', '.join(bad)}, {how}.", {"gradients": bad}
        )


def _identical(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())


def layouts(value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors with the same values that lie in memory in other ways."""
    if value.dim() >= 2:
        yield "transposed", value.mT.contiguous().mT
    if value.dim() >= 1:
        yield "strided", torch.stack([value, torch.zeros_like(value)], dim=-1)[..., 0]
        yield "offset", torch.cat([value.new_zeros(1), value.reshape(-1)])[1:].view(value.shape)


def _layouts(
    probe: Probe, given: Mapping[str, Any], upstream: Sequence[str], base: Gradients, same: Same
) -> Iterator[Mistake]:
    for name, value in given.items():
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() < 2:
            continue
        tried = [(label, changed, base) for label, changed in layouts(value)]
        if name in upstream:
            spread = value.reshape(-1)[:1].reshape([1] * value.dim())
            like = _called(probe, {**given, name: spread.expand(value.shape).clone()})
            if like is not None:
                tried.append(("expanded", spread.expand(value.shape), like))
        for label, changed, expected in tried:
            message = _differs(probe, {**given, name: changed}, expected, same)
            if message:
                told = f"a {label} {name} {message}; a contiguous one with the same values does not."
                yield _mistake("layout", told, {"argument": name, "layout": label})
                break


def _differs(probe: Probe, given: Mapping[str, Any], expected: Gradients, same: Same) -> str:
    try:
        found = probe(given)
    except Exception as error:  # the user's code may raise anything
        return f"raises {in_short(error)}"
    bad = sorted(n for n, g in expected.items() if n not in found or not same(n, found[n], g))
    return f"gives a wrong {', '.join(bad)}" if bad else ""


def _modified(probe: Probe, given: Mapping[str, Any], upstream: Sequence[str]) -> Iterator[Mistake]:
    own = {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in given.items()}
    _called(probe, own)
    for name, value in own.items():
        if isinstance(value, Tensor) and not torch.equal(value.nan_to_num(), given[name].nan_to_num()):
            what = "upstream gradient" if name in upstream else "tensor"
            yield modified(name, what)


def modified(name: str, what: str) -> Mistake:
    """Return the mistake of changing an argument in place."""
    message = f"the {what} {name} is changed in place; others that hold it see the change."
    return _mistake("modifies_input", message, {"argument": name})


def _called(probe: Probe, given: Mapping[str, Any]) -> Gradients | None:
    try:
        return probe(given)
    except Exception:  # reported by the check that looks for it
        return None


def _same(sizes: Mapping[str, float], name: str, a: Tensor, b: Tensor) -> bool:
    size = float(b.abs().max()) if b.numel() else 0.0
    return close(a, b, 10 * max(size, sizes.get(name, 0.0)))


# What makes a tolerance useless is the choice of inputs, not the kernel: a hint of its own.
UNTOLD = "Choose inputs whose gradients stand out of the rounding, or let the code run in float64."


def _mistake(kind: str, message: str, detail: dict[str, Any], hint: str = "") -> Mistake:
    return Mistake(kind, message, hint or KINDS[kind].hint, detail)


def stress_pass(chosen: Pass, shown: Draw, judged: Sequence[Judgement]) -> tuple[Mistake, ...]:
    """Return the failed stress checks of a pass."""
    drawn = judged[0].draw
    if drawn.error is not None:
        return ()
    given = {
        name: value.detach().contiguous() if isinstance(value, Tensor) else value
        for name, value in arguments(chosen, drawn.trace.values, drawn.trace.upstream).items()
    }

    def probe(values: Mapping[str, Any]) -> Gradients:
        with running(drawn.dtype, drawn.seed + 1, drawn.promote), torch.no_grad():
            flat = flatten(chosen.backward(**values))
        found = {drawn.matched[n]: as_gradient(flat.get(drawn.matched[n])) for n in drawn.matched}
        return {n: g.clone() for n, g in found.items() if g is not None}

    upstream = [u for u in drawn.trace.upstream if u in given]
    sizes = {drawn.matched[n]: judged[0].summands.get(n, 0.0) for n in drawn.matched}
    found = stress(probe, given, upstream, sizes)
    if not upstream and drawn.user:
        message = f"backward does not ask for the upstream gradient {', '.join(drawn.trace.upstream)}."
        found.insert(0, _mistake("ignores_upstream", message, {"gradients": sorted(drawn.matched.values())}))
    return (*found, *wrong_dtypes(shown))


def untold(judgement: Judgement, zero: Collection[str]) -> list[Mistake]:
    """Refuse a tolerance under which zeros, the negative or the double of a gradient would pass.

    Args:
        judgement: the verdict in a lower dtype than float64.
        zero: gradients that are zero in exact arithmetic, for which that is as it should be.
    """
    bad = [n for n in judgement.draw.user if n in judgement.vacuous and judgement.right[n] and n not in zero]
    if not bad:
        return []
    gradients = [judgement.draw.matched[n] for n in bad]
    message = f"{listed(gradients)}: with this tolerance zeros or the double would pass as well."
    return [_mistake("dtype", message, {"gradients": gradients}, UNTOLD)]


def wrong_dtypes(drawn: Draw) -> list[Mistake]:
    """Return gradients whose dtype or device is not their tensor's."""
    found = []
    for name, value in drawn.user.items():
        tensor = drawn.trace.tensors.get(name)
        if tensor is None or value.dim() == 0:
            continue
        for what, got, expected in (
            ("dtype", value.dtype, tensor.dtype),
            ("device", value.device, tensor.device),
        ):
            if got != expected:
                message = f"{drawn.matched[name]} has {what} {got}, but {name} has {expected}."
                found.append(_mistake("dtype", message, {"expected": str(expected), "got": str(got)}))
    return found
