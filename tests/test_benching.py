import functools
import io
import json
import math
import re
import runpy
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

import backhand
from backhand.benching import (
    BenchReport,
    Errand,
    Timing,
    bench,
    bridging,
    errands,
    gradchecks,
    racing,
    timing,
    word_timing,
)
from backhand.benching.plotting import plot_bench
from backhand.engines import ENGINES, Running
from backhand.errors import ConfigError
from backhand.passes import batch_norm_fused, mlp_chunked
from backhand.rendering.bench_tables import bench_tables, figure

QUICK = ("lecture's loop", "fused", "native")


@pytest.fixture(scope="module")
def report() -> BenchReport:
    return bench(
        sizes=[(3, 16)],
        batches=[16, 64],
        hidden=[8],
        types=[],
        contenders=QUICK,
        rounds=2,
        seconds=0.01,
        errands=False,
    )


@pytest.mark.seconds
def test_each_contender_is_timed_on_each_size_and_batch(report: BenchReport) -> None:
    taken = [(t.name, t.batch_size, t.n_hidden) for t in report.timings]
    growing = [(name, 16, 8) for name in QUICK if name in timing.GROWING]
    assert taken == [(n, b, 16) for b in (16, 64) for n in QUICK] + growing
    for t in report.timings:
        assert t.failure is None
        assert 0 < t.low <= t.microseconds <= t.high
        assert t.loss_error < timing.CLOSE_ENOUGH
        assert t.share_of_peak == pytest.approx(
            6 * t.batch_size * (3 * 3 + 27) * t.n_hidden / t.microseconds / 1e3 / report.peak_gflops
        )
    assert [t.ratio for t in report.timings if t.name == "lecture's loop"] == [1, 1, 1]


def uphill(
    parameters: dict[str, Tensor],
    Xs: Tensor,
    Ys: Tensor,
    rates: Sequence[float],
    running: Running | None = None,
) -> Tensor:
    return ENGINES["fused"](parameters, Xs, Ys, [-rate for rate in rates], running)


@pytest.mark.seconds
def test_a_contender_that_trains_wrongly_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> Tensor:
        raise ImportError("No module named 'jax'")

    monkeypatch.setattr(timing, "CONTENDERS", {**timing.CONTENDERS, "uphill": uphill, "missing": missing})
    found = bench(
        sizes=[(3, 16)],
        batches=[16],
        hidden=[],
        types=[],
        contenders=["uphill", "missing"],
        rounds=1,
        seconds=0.01,
        errands=False,
    )
    _, wrong, absent = found.timings
    assert wrong.failure is not None
    assert "not the same training" in wrong.failure
    assert math.isnan(wrong.microseconds)
    assert absent.failure == "ImportError: No module named 'jax'"


def sloppy(
    parameters: dict[str, Tensor],
    Xs: Tensor,
    Ys: Tensor,
    rates: Sequence[float],
    running: Running | None = None,
) -> Tensor:
    return ENGINES["fused"](parameters, Xs, Ys, rates, running) + 3e-5


def slow(
    parameters: dict[str, Tensor],
    Xs: Tensor,
    Ys: Tensor,
    rates: Sequence[float],
    running: Running | None = None,
) -> Tensor:
    time.sleep(0.02 * len(rates))
    return ENGINES["fused"](parameters, Xs, Ys, rates, running)


@pytest.mark.seconds
def test_a_loss_that_is_off_by_more_than_rounding_is_refused_and_a_slow_one_is_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "CONTENDERS", {**timing.CONTENDERS, "sloppy": sloppy, "slow": slow})
    monkeypatch.setattr(timing, "CHECKED_STEPS", 3)
    found = bench(
        sizes=[(3, 16)],
        batches=[16],
        hidden=[],
        types=[],
        contenders=["sloppy", "slow"],
        rounds=1,
        seconds=0.001,
        errands=False,
    )
    _, off, late = found.timings
    assert off.failure is not None
    assert off.loss_error == pytest.approx(3e-5, rel=0.1)
    assert late.failure is None
    assert late.microseconds >= 20_000  # it sleeps for as long


def test_contenders_are_timed_in_turn_and_a_ratio_is_taken_round_by_round() -> None:
    clock = {"slow": iter([4.0, 9.0]), "lecture": iter([2.0, 3.0])}
    asked = []

    def pace(name: str, steps: int) -> float:
        asked.append((name, steps))
        return next(clock[name])

    times = racing.raced(pace, {"lecture": 5, "slow": 2}, rounds=2)
    assert asked == [("lecture", 5), ("slow", 2)] * 2
    blank = Timing(name="slow", n_embd=3, n_hidden=16, batch_size=16)
    found = racing.summarised(blank, times, "lecture")
    assert found.ratio == pytest.approx((2 / 4 + 3 / 9) / 2)
    assert (found.microseconds, found.low < found.microseconds < found.high) == (6.5e6, True)
    assert racing.summarised(replace(blank, name="absent"), times, "lecture").failure is None


@pytest.mark.seconds
def test_types_of_models_are_timed_beside_eager_pytorch_once_their_losses_are_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hasty(kind: str, parameters: dict[str, Tensor], Xs: Tensor, Ys: Tensor) -> Tensor:
        return word_timing.native(kind, parameters, Xs, Ys) + 2 * word_timing.CLOSE_ENOUGH

    monkeypatch.setattr(word_timing, "CONTENDERS", word_timing.CONTENDERS | {"hasty": hasty})
    monkeypatch.setattr(word_timing, "CHECKED_STEPS", 5)
    monkeypatch.setattr(word_timing, "WIDTH", 8)
    told: list[str] = []
    found = word_timing.measure_types(["rnn"], "names", ["native", "hasty"], 2, 0.001, 50.0, told.append)
    eager, native, off = found
    assert told == ["rnn, batch 32"]
    assert (eager.name, eager.ratio, native.name) == (word_timing.EAGER, 1, "native")
    assert 0 < native.low <= native.microseconds <= native.high
    assert native.ratio > 1
    assert native.loss_error < word_timing.CLOSE_ENOUGH
    assert "a loss is off by 2" in (off.failure or "")
    # at a peak of 50,000 operations a microsecond, 8 x 8 and 8 x 27 numbers in the matrices of each state
    states = native.share_of_peak * native.microseconds * 50e3 / (6 * 8 * (8 + 27))
    assert 32 < states < 32 * 6  # words of seven symbols, of which many begin alike
    assert eager.share_of_peak < native.share_of_peak
    file = io.StringIO()
    report = BenchReport({}, 1.0, (), types=(eager, native, off))
    Console(width=80, file=file).print(bench_tables(report))
    text = file.getvalue()
    assert re.search(r"^native .*\d\.\d", text, re.MULTILINE)
    assert re.search(r"^hasty +not timed", text, re.MULTILINE)
    assert "not the same training" in text


def test_what_an_errand_returns_in_seconds_is_its_time() -> None:
    told = errands.timed("told", lambda: 123.0, words=7)
    assert (told.seconds, told.low, told.high, told.words) == (123.0, 123.0, 123.0, 7)
    assert 0 <= errands.timed("taken", lambda: "nothing").seconds < 1


@pytest.mark.parametrize(
    ("microseconds", "shown"),
    [(1234.5, "1,234"), (100, "100"), (99.94, "99.9"), (12.34, "12.3"), (1.234, "1.23")],
)
def test_a_time_is_shown_with_three_digits_at_least(microseconds: float, shown: str) -> None:
    assert figure(microseconds) == shown


def test_a_report_becomes_json_and_a_picture(report: BenchReport) -> None:
    failed = replace(report.timings[-1], microseconds=math.nan, failure="not installed")
    whole = replace(report, timings=(*report.timings, failed), errands=(Errand("start", 0.1, 0.1, 0.2),))
    written = json.loads(json.dumps(whole.to_dict(), allow_nan=False))
    assert written["timings"][0]["name"] == "lecture's loop"
    assert written["timings"][-1]["microseconds"] is None
    assert written["machine"]["torch"] == torch.__version__
    assert plot_bench(whole).startswith(b"\x89PNG")


def test_the_tables_of_the_recorded_run_are_those_of_its_figures() -> None:
    folder = Path(__file__).parents[1] / "benchmarks"
    record = runpy.run_path(str(folder / "record.py"))
    text = (folder / "README.md").read_text(encoding="utf-8")
    recorded = json.loads((folder / "recorded.json").read_text(encoding="utf-8"))
    assert record["with_tables"](text, recorded) == text
    assert f"{recorded['timings'][-1]['ratio']:.1f}" in text


def test_the_tables_on_a_terminal_of_80_columns_lose_nothing(report: BenchReport) -> None:
    slow = replace(report.timings[0], microseconds=123456.7, low=112233.4, high=134567.8)
    names = ("calibration and evaluation", "backhand train --steps 1000")
    errands = tuple(Errand(name, 1.234e-5, 1.233e-5, 1.235e-5, 1_000_000) for name in names)
    whole = replace(
        report, timings=(slow, *report.timings[1:]), errands=errands, peak_memory={"fused": 321.4}
    )
    file = io.StringIO()
    Console(width=80, file=file).print(bench_tables(whole))
    text = file.getvalue()
    for shown in ("112,233 to 134,568", "lecture's loop", "batch 64", "hidden 8", "1,000,000", "321", *names):
        assert shown in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_gradcheck_and_the_checker_agree_on_the_pass() -> None:
    drawn = mlp_chunked.inputs(torch.Generator().manual_seed(0))
    assert gradchecks.gradcheck(drawn, fast=True)
    assert backhand.check(mlp_chunked, draws=1).ok
    assert [row.name for row in backhand.check(gradchecks.with_a_wrong_line()).culprits] == ["bndiff2"]


@pytest.mark.slow
def test_the_fast_mode_of_gradcheck_overlooks_a_forgotten_bessels_correction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mlp_chunked, "backward", gradchecks.with_a_wrong_line().backward)
    drawn = mlp_chunked.inputs(torch.Generator().manual_seed(0))
    assert gradchecks.gradcheck(drawn, fast=True)
    assert not gradchecks.gradcheck(drawn, fast=False)


@pytest.mark.slow
def test_gradcheck_refuses_a_wrong_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    right = mlp_chunked.backward

    @functools.wraps(right)
    def negated(*given: Tensor, **named: Tensor) -> dict[str, Tensor]:
        return {name: -gradient for name, gradient in right(*given, **named).items()}

    monkeypatch.setattr(mlp_chunked, "backward", negated)
    drawn = mlp_chunked.inputs(torch.Generator().manual_seed(0))
    assert not gradchecks.gradcheck(drawn, fast=True)


@pytest.mark.slow
def test_errands_are_timed_and_the_lists_of_words_are_of_several_sizes() -> None:
    found = errands.measure_errands("municipios", watch=lambda text: None)
    assert {e.words for e in found} == {None, 8133, *errands.LISTS}
    assert all(0 < e.low <= e.seconds <= e.high for e in found)
    assert {"check", "gradcheck", "100,000 sampled words", "backhand --help"} <= {e.name for e in found}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contenders": ["steam"]}, "no contender 'steam'; choose from"),
        ({"types": ["lstm"]}, "no type 'lstm' to time; choose from rnn, gru"),
        ({"sizes": [], "png": "bars.png"}, "--png draws the timings of the lecture's model"),
        ({"rounds": 0}, "--rounds is 0"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bench(**options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile uses what PyTorch has deprecated
@pytest.mark.parametrize("name", ["torch.compile", "JAX jit + scan"])
def test_the_peers_train_as_the_engines_do(name: str) -> None:
    if name.startswith("JAX"):
        pytest.importorskip("jax")
    found = bench(
        sizes=[(3, 16)],
        batches=[16],
        hidden=[],
        types=[],
        contenders=[name],
        rounds=1,
        seconds=0.01,
        errands=False,
    ).timings[1]
    assert found.failure is None
    assert found.loss_error < timing.CLOSE_ENOUGH


@pytest.mark.slow
@pytest.mark.parametrize("kind", word_timing.TYPES)
def test_the_models_of_whole_words_in_jax_train_as_plain_pytorch_does(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jax")
    monkeypatch.setattr(word_timing, "CHECKED_STEPS", 20)
    monkeypatch.setattr(word_timing, "WIDTH", 8)
    found = word_timing.measure_types([kind], "names", ["JAX jit + scan"], 1, 0.001, 50.0, print)
    assert [timing.failure for timing in found] == [None, None]


def test_the_states_of_a_minibatch_are_counted_by_what_its_words_begin_with() -> None:
    X = torch.tensor([[0, 5, 1, 0], [0, 5, 2, 3], [0, 0, 0, 0]])
    Y = torch.tensor([[5, 1, 0, -1], [5, 2, 3, 0], [0, -1, -1, -1]])
    assert word_timing.count_states(X, Y) == len({(), (5,), (5, 1), (5, 2), (5, 2, 3)})


def test_differentiable_is_measured_beside_a_bare_function_and_by_what_it_keeps(report: BenchReport) -> None:
    assert [o.name for o in report.overheads] == [
        f"{what}, {kind}" for what in ("batch norm", "product") for kind in ("training", "inference")
    ]
    for o in report.overheads:
        assert 0 < o.low <= o.ratio <= o.high
        assert o.ratio == pytest.approx(o.microseconds / o.bare, rel=0.9)
    assert all(0 < kept.by_hand <= kept.by_autograd for kept in report.kept.values())
    (fused,) = (kept for name, kept in report.kept.items() if name.startswith("linear"))
    assert fused.by_hand * 8 < fused.by_torch
    file = io.StringIO()
    Console(width=80, file=file).print(bench_tables(report))
    assert f"{fused.by_torch / 1e6:.3g}" in file.getvalue()
    assert f"{report.overheads[0].ratio:.2f}" in file.getvalue()


def test_the_bare_function_gives_what_the_pass_gives() -> None:
    by_hand = [torch.randn(n, 5, requires_grad=True) for n in (8, 1, 1)]
    upstream = torch.randn(8, 5)
    found = torch.autograd.grad(bridging.Bare.apply(*by_hand), by_hand, upstream)
    wired = backhand.differentiable(batch_norm_fused)
    expected = torch.autograd.grad(wired(*by_hand), by_hand, upstream)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
