"""The native engine, held to the fused one: machine code of the same backward."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from backhand import Contexts, TrainConfig, Vocabulary, split_words
from backhand.engines import ENGINES, NativeEngineWarning, Running, native
from backhand.language.model import draw_parameters
from backhand.passes import mlp_fused

Case = tuple[dict[str, Tensor], Tensor, Tensor]


def random_case(
    *, vocabulary: int, block_size: int, n_embd: int, n_hidden: int, n: int, steps: int, seed: int = 0
) -> Case:
    """A model and minibatches of the given sizes; small symbols are the likelier ones, so contexts repeat."""
    config = TrainConfig(block_size=block_size, n_embd=n_embd, n_hidden=n_hidden)
    generator = torch.Generator().manual_seed(seed)
    parameters = draw_parameters(config, vocabulary, generator)
    likely = 1 / torch.arange(1, vocabulary + 1).double()
    draws = torch.multinomial(likely, steps * n * (block_size + 1), True, generator=generator)
    symbols = draws.view(steps, n, block_size + 1)
    return parameters, symbols[..., :-1], symbols[..., -1]


def in_float64(case: Case, rates: list[float]) -> tuple[dict[str, Tensor], Tensor]:
    parameters = {name: p.double() for name, p in case[0].items()}
    return parameters, ENGINES["fused"](parameters, case[1], case[2], rates)


def copied(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.clone() for name, p in parameters.items()}


@given(
    vocabulary=st.integers(2, 70),
    block_size=st.integers(1, 6),
    n_embd=st.integers(1, 40),
    n_hidden=st.integers(1, 70),
    n=st.integers(2, 150),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_any_sizes_give_the_parameters_that_the_fused_engine_gives(
    vocabulary: int, block_size: int, n_embd: int, n_hidden: int, n: int, seed: int
) -> None:
    sizes = {"vocabulary": vocabulary, "block_size": block_size, "n_embd": n_embd, "n_hidden": n_hidden}
    case = random_case(**sizes, n=n, steps=1, seed=seed)
    expected, loss = in_float64(case, [0.1])
    tensors = mlp_fused.forward(case[1][0], case[2][0], **{k: p.double() for k, p in case[0].items()})
    magnified = (
        1 + tensors["bnvar_inv"].max().item()
    ) ** 2  # where examples hardly differ, rounding is what does
    losses = native.engine(case[0], *case[1:], [0.1])
    assert losses.item() == pytest.approx(loss.item(), abs=2e-6 * magnified)
    for name, p in case[0].items():
        assert (p - expected[name]).abs().max() < 2e-6 * magnified, name


@pytest.mark.parametrize("n", [5, 32, 127, 1000])
def test_running_statistics_are_those_of_the_fused_engine(n: int) -> None:
    case = random_case(vocabulary=27, block_size=3, n_embd=7, n_hidden=50, n=n, steps=20)
    kept = []
    for engine in ("fused", "native"):
        running = Running(torch.zeros(1, 50), torch.ones(1, 50))
        ENGINES[engine](copied(case[0]), *case[1:], [0.05] * 20, running)
        kept.append(torch.cat(running))
    assert torch.allclose(*kept, rtol=0, atol=1e-6)
    assert not torch.equal(kept[0][0], torch.zeros(50))


def test_steps_are_the_same_bit_for_bit_however_they_are_cut_into_calls() -> None:
    case = random_case(vocabulary=30, block_size=4, n_embd=9, n_hidden=37, n=45, steps=40)
    at_once, cut = copied(case[0]), copied(case[0])
    losses = native.engine(at_once, *case[1:], [0.1] * 40)
    parts = [native.engine(cut, case[1][a:b], case[2][a:b], [0.1] * (b - a)) for a, b in [(0, 3), (3, 40)]]
    assert torch.equal(torch.cat(parts), losses)
    assert all(torch.equal(p, cut[name]) for name, p in at_once.items())


def test_repeated_contexts_count_as_often_as_they_occur() -> None:
    parameters, Xs, Ys = random_case(vocabulary=5, block_size=2, n_embd=3, n_hidden=11, n=300, steps=5)
    assert len(Xs[0].unique(dim=0)) < 30
    expected, _ = in_float64((parameters, Xs, Ys), [0.1] * 5)
    native.engine(parameters, Xs, Ys, [0.1] * 5)
    assert all((p - expected[name]).abs().max() < 2e-6 for name, p in parameters.items())


def test_logits_too_large_for_exp_give_a_finite_loss_and_nan_stays_nan() -> None:
    case = random_case(vocabulary=27, block_size=3, n_embd=5, n_hidden=20, n=32, steps=1)
    huge = copied(case[0])
    huge["W2"] *= 1e4
    expected = ENGINES["fused"](copied(huge), *case[1:], [0.0])
    assert native.engine(huge, *case[1:], [0.0]).item() == pytest.approx(expected.item(), rel=1e-5)
    case[0]["W1"][3, 4] = torch.nan
    native.engine(case[0], *case[1:], [0.1])
    assert not case[0]["W1"].isfinite().all()


def test_a_symbol_beyond_the_vocabulary_is_refused() -> None:
    parameters, Xs, Ys = random_case(vocabulary=9, block_size=3, n_embd=5, n_hidden=20, n=8, steps=2)
    for wrong in (9, -1):
        Xs[1, 2, 0] = wrong
        with pytest.raises(IndexError, match="from 0 to 8"):
            native.engine(parameters, Xs, Ys, [0.1] * 2)


def test_parameters_that_are_views_of_others_are_updated_in_place() -> None:
    case = random_case(vocabulary=12, block_size=3, n_embd=5, n_hidden=20, n=8, steps=3)
    strided = {name: torch.zeros(*p.shape[:-1], p.shape[-1] * 2)[..., ::2] for name, p in case[0].items()}
    for name, p in strided.items():
        p.copy_(case[0][name])
    native.engine(case[0], *case[1:], [0.1] * 3)
    native.engine(strided, *case[1:], [0.1] * 3)
    assert all(torch.equal(p, strided[name]) for name, p in case[0].items())


def test_float64_is_left_to_the_fused_engine_with_a_warning() -> None:
    case = random_case(vocabulary=12, block_size=3, n_embd=5, n_hidden=20, n=8, steps=3)
    expected, losses = in_float64(case, [0.1] * 3)
    parameters = {name: p.double() for name, p in case[0].items()}
    with pytest.warns(NativeEngineWarning, match=r"C is torch\.float64; the fused engine"):
        assert torch.equal(native.engine(parameters, *case[1:], [0.1] * 3), losses)
    assert all(torch.equal(p, expected[name]) for name, p in parameters.items())


def test_without_numba_the_fused_engine_trains_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(vocabulary=12, block_size=3, n_embd=5, n_hidden=20, n=8, steps=3)
    expected = ENGINES["fused"](copied(case[0]), *case[1:], [0.1] * 3)
    monkeypatch.setitem(sys.modules, "backhand.engines.native_steps", None)
    native.steps.cache_clear()
    try:
        with pytest.warns(NativeEngineWarning, match="pip install numba"):
            assert torch.equal(native.engine(case[0], *case[1:], [0.1] * 3), expected)
        native.warm()
    finally:
        native.steps.cache_clear()


@pytest.mark.seconds
def test_on_a_cpu_without_avx2_the_fused_engine_trains_with_a_warning() -> None:
    script = """
import sys, torch, warnings
from backhand.engines import ENGINES, native
torch.manual_seed(1)
shapes = dict(C=(9, 5), W1=(15, 20), b1=(20,), W2=(20, 9), b2=(9,), bngain=(1, 20), bnbias=(1, 20))
parameters = {name: torch.randn(shape) for name, shape in shapes.items()}
X = torch.randint(0, 9, (5, 16, 4))
before = {name: p.clone() for name, p in parameters.items()}
expected = ENGINES["fused"](before, X[..., :3], X[..., 3], [0.1] * 5)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", native.NativeEngineWarning)
    losses = native.engine(parameters, X[..., :3], X[..., 3], [0.1] * 5)
print(torch.equal(losses, expected), *(each.message for each in caught))
"""
    older = os.environ | {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"}
    done = subprocess.run([sys.executable, "-c", script], env=older, capture_output=True, text=True)
    reason = "the native engine needs a CPU with AVX2 or NEON, and this has neither"
    assert done.stdout.strip() == f"True {reason}; the fused engine takes its place", done.stderr


@pytest.mark.slow
def test_the_command_tells_in_one_line_that_the_fused_engine_takes_its_place(tmp_path: Path) -> None:
    script = "import sys; sys.modules['numba'] = None; from backhand.cli import main; main()"
    options = ["train", "names", "--steps", "2", "--n-hidden", "4", "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", script, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "Numba" in line]
    assert len(told) == 1
    assert told[0].startswith("backhand: the native engine needs Numba, which cannot be imported")
    assert told[0].endswith("; the fused engine takes its place")


IN_ANOTHER_PROCESS = """
import logging, sys, torch
from backhand.engines import native
assert "numba" not in sys.modules, "Numba is imported before it is needed"
{before}
compiled = []
log = logging.getLogger("backhand")
log.setLevel("INFO")
told = logging.Handler()
told.emit = lambda record: compiled.append(record.getMessage())
log.addHandler(told)
native.warm()
generator = torch.Generator().manual_seed(1)
shapes = dict(C=(9, 5), W1=(15, 20), b1=(20,), W2=(20, 9), b2=(9,), bngain=(1, 20), bnbias=(1, 20))
parameters = {{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}}
X = torch.randint(0, 9, (50, 16, 4), generator=generator)
losses = native.engine(parameters, X[..., :3], X[..., 3], [0.1] * 50)
print(bool(compiled), losses.sum().item().hex(), parameters["W1"].sum().item().hex())
"""


def in_another_process(cache: Path, before: str = "") -> list[str]:
    script = IN_ANOTHER_PROCESS.format(before=before)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_a_run_that_compiles_and_one_that_loads_what_was_compiled_agree_bit_for_bit(tmp_path: Path) -> None:
    compiled, *first = in_another_process(tmp_path)
    assert compiled == "True"
    loaded, *second = in_another_process(tmp_path)
    assert loaded == "False"
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize(
    "before",
    [
        "from numba.core import caching; caching.CacheImpl._locator_classes = []",
        "from numba.core import caching\n"
        "def full(*_): raise OSError(28, 'No space left on device')\n"
        "caching.IndexDataCacheFile.save = full",
    ],
    ids=["no folder", "full disk"],
)
def test_a_cache_that_cannot_be_written_is_no_error(before: str, tmp_path: Path) -> None:
    compiled, *kept = in_another_process(tmp_path, before)
    assert compiled == "True"
    assert in_another_process(tmp_path)[1:] == kept


@pytest.mark.slow
def test_a_version_of_numba_that_was_not_tried_compiles_as_it_does_itself(tmp_path: Path) -> None:
    later = (
        "import numba; from numba.core.compiler import Compiler\n"
        "numba.version_info = numba.version_info._replace(short=(9, 0))\n"
        "from backhand.engines import linking; assert linking.PART is linking.PROGRAM is Compiler"
    )
    plainly = in_another_process(tmp_path / "later", later)
    assert plainly == in_another_process(tmp_path / "now")


def test_tanh_and_exp_are_within_float32_rounding() -> None:
    from numba import njit

    from backhand.engines import kernels

    @njit
    def both(x: np.ndarray, tanh: np.ndarray, exp: np.ndarray) -> None:
        for i in range(len(x)):
            tanh[i] = kernels.tanh(x[i])
            exp[i] = kernels.exp(-abs(x[i]))

    x = np.concatenate([np.linspace(-20, 20, 100_001), np.geomspace(1e-20, 80, 1000)]).astype(np.float32)
    tanh, exp = np.empty_like(x), np.empty_like(x)
    both(x, tanh, exp)
    exact = x.astype(np.float64)
    assert (np.abs(tanh - np.tanh(exact)) <= 4e-7 * np.abs(np.tanh(exact))).all()
    assert np.abs(tanh).max() <= 1
    assert np.abs(exp / np.exp(-np.abs(exact)) - 1).max() < 3e-7
    ends = np.array([88, 1e30, np.inf], np.float32)
    both(ends, tanh[:3], exp[:3])
    assert (exp[:3] == 0).all()
    assert np.allclose(tanh[:3], 1, rtol=0, atol=4e-7)


@pytest.mark.slow
@pytest.mark.parametrize(("n_embd", "n_hidden"), [(10, 200), (30, 300)])
def test_6000_steps_stay_within_2e_6_of_float64(lecture_words: list[str], n_embd: int, n_hidden: int) -> None:
    config = TrainConfig(n_embd=n_embd, n_hidden=n_hidden)
    vocabulary = Vocabulary.of(lecture_words)
    contexts = Contexts(split_words(lecture_words).train, vocabulary, config.block_size)
    generator = torch.Generator().manual_seed(config.seed)
    parameters = draw_parameters(config, len(vocabulary), generator)
    Xs, Ys = contexts[torch.randint(0, len(contexts), (6000, 32), generator=generator)]
    _, expected = in_float64((parameters, Xs, Ys), [0.1] * 6000)
    losses = native.engine(parameters, Xs, Ys, [0.1] * 6000)
    assert (losses - expected).abs().max() < 2e-6
