"""Helpers written out in the place of their calls."""

import ast
import functools

import torch

from backhand.checking.running.inlining import FRAME, inlined
from backhand.checking.running.instrumenting import surroundings
from backhand.checking.running.program import source_of


def slope(x, scale=2.0):
    s = torch.sigmoid(scale * x)
    return scale * s * (1 - s)


def pair(dy, w):
    dy = 2 * dy
    return dy * w, dy.sum(0)


class Kept:
    @staticmethod
    def doubled(dx):
        dx = 2 * dx
        return dx

    @staticmethod
    def fill(dx, dy, x):
        dx.copy_(dy * x)

    @staticmethod
    def backward(dy, x):
        dx = torch.empty_like(dy)
        Kept.fill(dx, dy, x)
        return Kept.doubled(dx)


def either(x):
    if x.dim() > 1:
        return x
    return -x


def uses_a_helper(dy, x):
    s = slope(x)
    return dy * s


def hands_on(dy, w):
    return pair(w=w, dy=dy.flip(0))


def calls_twice(dy, x):
    a = slope(x)
    b = slope(dy)
    return a * b


def ends_twice(x):
    return either(x)


def text_of(function) -> list[str]:
    source = source_of(function)
    assert source is not None
    return [ast.unparse(s) for s in inlined(source, surroundings(function)).statements]


def test_a_helper_stands_in_the_place_of_its_call_with_names_of_its_own() -> None:
    assert text_of(uses_a_helper) == [
        "scale = 2.0",
        "s_ = torch.sigmoid(scale * x)",
        "s = scale * s_ * (1 - s_)",
        "return dy * s",
    ]


def test_a_parameter_that_a_helper_changes_does_not_change_the_callers() -> None:
    assert text_of(hands_on) == [
        "dy_ = dy.flip(0)",
        "dy_ = 2 * dy_",
        "return (dy_ * w, dy_.sum(0))",
    ]


def test_its_lines_are_those_of_the_helper() -> None:
    source = source_of(uses_a_helper)
    assert source is not None
    numbers = [s.lineno for s in inlined(source, surroundings(uses_a_helper)).statements]
    first = slope.__code__.co_firstlineno
    assert numbers[1:3] == [first + 1, first + 2]


def test_what_is_called_twice_is_written_out_twice_and_keeps_the_names_that_it_has_in_the_file() -> None:
    source = source_of(calls_twice)
    assert source is not None
    written = inlined(source, surroundings(calls_twice))
    assert [ast.unparse(s) for s in written.statements] == [
        "scale = 2.0",
        "s = torch.sigmoid(scale * x)",
        "a = scale * s * (1 - s)",
        ast.unparse(ast.parse("x_, scale_ = (dy, 2.0)")),  # as this version of Python writes it
        "s_ = torch.sigmoid(scale_ * x_)",
        "b = scale_ * s_ * (1 - s_)",
        "return a * b",
    ]
    assert written.as_written == {"x_": "x", "scale_": "scale", "s_": "s"}


def test_what_ends_in_two_places_does_so_where_it_is_called() -> None:
    assert text_of(ends_twice) == ["if x.dim() > 1:\n    return x\nelse:\n    return -x"]


def fill_or_not(dx, dy):
    if dy is None:
        return
    dx.copy_(2 * dy)


def fills(dx, dy):
    fill_or_not(dx, dy)
    return dx


def within_a_loop(x):
    for part in x:
        if part is not None:
            return part
    return x


def ends_in_a_loop(x):
    y = within_a_loop(x)
    return y


def test_what_may_end_early_is_written_out_but_where_that_is_in_a_loop() -> None:
    assert text_of(fills)[0] == "if dy is None:\n    pass\nelse:\n    dx.copy_(2 * dy)"
    assert text_of(ends_in_a_loop) == ["y = within_a_loop(x)", "return y"]


def test_helpers_that_a_class_keeps_and_those_that_only_fill_are_written_out() -> None:
    assert text_of(Kept.backward) == [
        "dx = torch.empty_like(dy)",
        "dx.copy_(dy * x)",
        "dx_ = dx",
        "dx_ = 2 * dx_",
        "return dx_",
    ]


def calls_within(dy, x, is_plain=True):
    both = dy * slope(x), Kept.doubled(dy)
    if is_plain:
        return both
    return dy if x is None else slope(x)


def test_helpers_within_an_expression_are_written_out_above_it_where_they_are_called_in_any_case() -> None:
    text = text_of(calls_within)
    assert text[-1] == "return dy if x is None else slope(x)"
    assert text[:-2] == [
        "scale = 2.0",
        "s = torch.sigmoid(scale * x)",
        "slope_ = scale * s * (1 - s)",
        "dx = dy",
        "dx = 2 * dx",
        "doubled_ = dx",
        ast.unparse(ast.parse("both = (dy * slope_, doubled_)")),
    ]
    source = source_of(calls_within)
    assert source is not None
    found = inlined(source, surroundings(calls_within))
    assert (found.as_written["slope_"], found.as_written["doubled_"]) == ("slope(x)", "Kept.doubled(dy)")
    frames = [getattr(statement, FRAME) for statement in found.statements]
    assert frames[1] == {"x", "scale", "s"}  # a slip in the helper's line is no variable of its caller
    assert frames[-1] == {"dy", "x", "is_plain", "both"}


def compiled(x):
    return x * torch.sigmoid(x)


# what `torch.compile` leaves on what it makes; the real one takes seconds to import its compiler
compiled = functools.partial(compiled)
compiled._torchdynamo_inline = compiled.func


def calls_what_is_compiled(x):
    y = compiled(x)
    return y


def test_what_is_compiled_is_written_out_as_it_was_before() -> None:
    assert text_of(calls_what_is_compiled) == ["y = x * torch.sigmoid(x)", "return y"]
