"""What a module has to be checked: a pass or several, custom Functions with their references."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from backhand.checking.judging import check
from backhand.checking.report import Report
from backhand.checking.sources.declaring import Declared, plain_name
from backhand.checking.sources.functions import check_function
from backhand.errors import CheckError


@dataclass(frozen=True)
class Subject:
    """One thing to be checked.

    Attributes:
        name: its own among several of a file.
        check: makes the report; raises `CheckError` where there is nothing to compare.
    """

    name: str
    check: Callable[[], Report]


def subjects_of(module: ModuleType, path: Path, found: Declared, options: Mapping[str, Any]) -> list[Subject]:
    """Return what a module has to be checked.

    Raises:
        CheckError: it has custom Functions and lacks what they are compared with.
    """
    passes = [_pass(module, stem, options) for stem in found.passes]
    own = [k for k in found.kernels if _own(module, k, "reference") is not None]
    if passes or own:
        # a Function beside them that has no reference of its own is a part of what is judged
        return passes + [_kernel(module, path, name, options) for name in own]
    if len(found.kernels) > 1 and hasattr(module, "reference") and hasattr(module, "inputs"):
        raise CheckError(
            f"{path} has several custom Functions, {', '.join(found.kernels)}, and one reference: "
            "give each a file of its own, or call backhand.check_function."
        )
    return [_kernel(module, path, name, options) for name in found.kernels[:1]]


def _pass(module: ModuleType, stem: str, options: Mapping[str, Any]) -> Subject:
    if not stem:
        return Subject("backward", partial(check, module, **options))
    forward, backward = (_own(module, stem, part) for part in ("forward", "backward"))
    inputs, out = (_part(module, stem, part) for part in ("inputs", "out"))
    return Subject(stem, partial(check, forward, backward, inputs=inputs, out=out, **options))


def _kernel(module: ModuleType, path: Path, name: str, options: Mapping[str, Any]) -> Subject:
    """Return a custom Function beside its reference, its own or the module's."""
    reference, inputs = (_part(module, name, part) for part in ("reference", "inputs"))
    lacking = [part for part, value in (("reference", reference), ("inputs", inputs)) if value is None]
    if lacking:
        raise CheckError(
            f"{path} has the custom Function {name}, but no {' and no '.join(lacking)}: "
            "to check it, add `reference`, the same in plain torch operations, and `inputs`, "
            "its arguments by name or a function of a torch.Generator that draws them."
        )
    function = getattr(module, name)
    said = {part: _part(module, name, part) or () for part in ("shapes", "no_gradient", "allow")}
    return Subject(name, partial(check_function, function, reference, inputs, **said, **options))


def _part(module: ModuleType, name: str, part: str) -> Any:
    """Return what belongs to one pass or Function: its own, or what the module has for all."""
    own = _own(module, name, part)
    return getattr(module, part, None) if own is None else own


def _own(module: ModuleType, name: str, part: str) -> Any:
    """Return `norm_inputs` or `inputs_norm`, or None."""
    wanted = plain_name(f"{name}{part}"), plain_name(f"{part}{name}")
    return next((value for key, value in vars(module).items() if plain_name(key) in wanted), None)
