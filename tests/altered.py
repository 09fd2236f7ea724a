"""Passes with a piece of their source changed, so that the checker has something to find, and verdicts."""

import inspect
import linecache
import types

import torch

import backhand

torch.set_num_threads(1)  # the tensors are small: more threads only get in each other's way


def altered(module: types.ModuleType, *changes: tuple[str, str]) -> types.ModuleType:
    """Return a copy of a module whose backward reads differently."""
    text = inspect.getsource(module)
    at = text.index("def backward")
    head, tail = text[:at], text[at:]
    for old, new in changes:
        assert old in tail, old
        tail = tail.replace(old, new, 1)
    return from_text(head + tail)


def from_text(text: str) -> types.ModuleType:
    """Return a module made of source text, whose lines can be shown."""
    name = f"<altered {abs(hash(text))}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    module = types.ModuleType("altered")
    exec(compile(text, name, "exec"), module.__dict__)
    return module


def verdicts(report: backhand.Report) -> dict[str, str]:
    """Return the verdict on each tensor."""
    return {row.name: row.verdict for row in report.rows}
