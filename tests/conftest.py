"""What several tests need: the lecture's own list of words, and a small finished run."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import backhand
from backhand import Run, TrainConfig

torch.set_num_threads(1)  # the tensors are small; a second thread only waits
os.environ["OMP_NUM_THREADS"] = "1"  # the same for the processes that tests start
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = (
        "1"  # read when Triton is imported, which PyTorch's compiler may be first to do
    )
# the examples of docstrings are those of the backhand under test, which a wheel may have brought
os.environ["PY_IGNORE_IMPORTMISMATCH"] = "1"
os.environ.pop("VIRTUAL_ENV", None)  # IPython warns where another environment is active than the one in use

# doctests are looked for in every module; this one imports what is an extra
collect_ignore = [] if find_spec("triton") else ["triton_kernels.py"]

ELSEWHERE = "BACKHAND_LECTURE_WORDS"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Let every test draw the same numbers, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def lecture_list() -> Path:
    """The lecture's names.txt, which is not part of the project."""
    default = Path(__file__).parents[2] / "shared" / "data" / "names.txt"
    path = Path(os.environ.get(ELSEWHERE) or default)
    if not path.exists():
        pytest.skip(f"the lecture's names.txt is not at {path}; set {ELSEWHERE} to where it is")
    return path


@pytest.fixture(scope="session")
def lecture_words(lecture_list: Path) -> list[str]:
    return backhand.read_words(lecture_list)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on the embedded names; tests only read it."""
    config = TrainConfig(n_hidden=24, steps=400)
    return backhand.train(config, out=tmp_path_factory.mktemp("runs") / "small")
