"""The command line: one short function a verb. Exit status: 0 right, 1 wrong or failed, 2 misused."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console, RenderableType
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from .errors import BackhandError, CheckError, WrongGradientError
from .language.config import CleaningStep, SplitName, TrainConfig, described
from .language.recipes import config_of
from .rendering.output import drop_output, leave, of_the_machine, ready_output, show_json

Options = Annotated[TrainConfig, arg(name="")]
RunPath = Annotated[Path, Positional, arg(metavar="RUN", help="a run folder")]
Json = Annotated[bool, described("print JSON, for a program to read")]


def check(
    files: Annotated[
        tuple[Path, ...],
        Positional,
        described(
            "files, and folders of them: a .py file (a pass, a custom Function, a script) or a notebook "
            "(default: the lecture's pass)",
            "[FILE...]",
        ),
    ] = (),
    *,
    loss: Annotated[str, arg(help="name of the scalar in which a script or a notebook ends")] = "loss",
    stop_after: Annotated[
        int | None, described("last code cell of a notebook to run, from 1", "CELL")
    ] = None,
    time_limit: Annotated[
        float | None,
        described("leave a cell, a pass or a Function after so many seconds of computing", "SECONDS"),
    ] = None,
    data: Annotated[
        Path | None,
        described("a folder in which to look for files that a notebook would have fetched", "DIR"),
    ] = None,
    draws: Annotated[int, arg(help="independent sets of inputs to try")] = 3,
    seed: Annotated[int, arg(help="seeds the draws")] = 0,
    jobs: Annotated[int, described("how many files to check at once", "N")] = 1,
    dtype: Annotated[
        Literal["float64", "float32", "bfloat16", "float16"] | None,
        described("judge in this one (default: the finest in which the code is accurate)", "DTYPE"),
    ] = None,
    rtol: Annotated[float | None, described("how far off an element may be, as a part of it", "PART")] = None,
    atol: Annotated[float | None, described("the same, as an absolute amount", "AMOUNT")] = None,
    html: Annotated[Path | None, described("also write the sheet, one HTML file, here", "FILE")] = None,
    json: Json = False,
) -> None:
    """Check hand-written gradients: which line is wrong, and what is the mistake."""
    import backhand

    from .checking.sources.batches import is_folder
    from .rendering.outcomes import show_checked, show_report, show_several

    precision = None if dtype is None else getattr(import_module("torch"), dtype)
    if not files:
        report = backhand.check_file(draws=draws, seed=seed, dtype=precision, rtol=rtol, atol=atol)
        show_report(report, report.to_html() if html is not None else "", html, json)
        return
    checked = backhand.check_files(
        files,
        jobs=jobs,
        loss=loss,
        stop_after=stop_after,
        time_limit=time_limit,
        draws=draws,
        seed=seed,
        dtype=precision,
        rtol=rtol,
        atol=atol,
        data=data,
        page=html is not None,
        progress=len(files) == 1,
    )
    if len(files) == 1 and not is_folder(files[0]):
        found = tuple(checked)
        if len(found) == 1:
            show_checked(found[0], html, json)
            return
        checked = iter(found)
    if html is not None:
        raise CheckError("--html is for one sheet; name one file that has one thing to check.")
    show_several(checked, json)


def train(
    config: Options,
    *,
    out: Annotated[Path | None, described("run folder (default: runs/ and the list's name)", "RUN")] = None,
    resume: Annotated[bool, described("go on with the run in the folder, with its own options")] = False,
    overwrite: Annotated[bool, described("replace the run in the folder")] = False,
    backward: Annotated[
        Path | None, described("train with your own backward, once it is checked: your mlp_fused.py", "FILE")
    ] = None,
    json: Json = False,
) -> None:
    """Train a model on a list of words, into a run folder."""
    import backhand

    from .language.evaluating import final_scores, worse_than_counting
    from .language.processes import is_follower
    from .language.training import TrainingInterrupted
    from .rendering.progress import training_progress
    from .rendering.tables import run_line, sample_lines, score_table

    engine = None
    if backward is not None:
        from .learning.engine import engine_of

        try:
            engine = engine_of(backward)
        except WrongGradientError as wrong:  # many lines: its report
            print(wrong, file=sys.stderr)
            sys.exit(wrong.exit_status)
    with training_progress(Console(stderr=True, quiet=is_follower())) as watch:
        try:
            run = backhand.train(
                config,
                out=out,
                resume=resume,
                overwrite=overwrite,
                engine=engine,
                watch=watch.steps,
                watch_dev=watch.dev,
            )
        except TrainingInterrupted as stopped:  # it ends in the command that goes on
            if backward is None:
                raise
            raise TrainingInterrupted(f"{stopped} --backward {backward}") from None
    if is_follower():
        return
    scores = final_scores(run)
    if json:
        show_json({"run": str(run.path), "step": run.step, "kept": run.kept, "results": run.results})
    else:
        show("", score_table(scores), "", sample_lines(run.sample(), marks=sys.stdout.isatty()), "")
        show(run_line(run, backward))
    sys.stdout.flush()
    if worse := worse_than_counting(scores, run.config):
        print(f"backhand: {worse}", file=sys.stderr)


def evaluate(
    run: RunPath,
    *,
    split: Annotated[SplitName, arg(help="which part of the training list")] = "all",
    words: Annotated[Path | None, described("measure on all words of this file instead", "FILE")] = None,
    column: Annotated[str | None, described("the column of --words that holds them", "NAME")] = None,
    json: Json = False,
) -> None:
    """Measure a run's loss, beside a bigram model and blind guessing."""
    import backhand

    from .rendering.tables import score_table

    scores = backhand.evaluate(run, split=split, words=words, column=column)
    if json:
        show_json([score.to_dict() for score in scores])
    else:
        show(score_table(scores))


def sample(
    run: RunPath,
    *,
    n: Annotated[int, arg(aliases=["-n"], help="how many words")] = 20,
    seed: Annotated[int, arg(help="seeds the draws; the default is the lecture's")] = 2147483647 + 10,
    temperature: Annotated[float, arg(help="below 1 for likelier words, above 1 for wilder ones")] = 1.0,
    top_k: Annotated[int | None, described("draw each symbol from the K likeliest only", "K")] = None,
    prefix: Annotated[str, described("letters that every word begins with", "LETTERS")] = "",
    new_only: Annotated[bool, described("leave out words of the training list")] = False,
    out: Annotated[Path | None, described("write the words into this file, one a line", "FILE")] = None,
    json: Json = False,
) -> None:
    """Draw new words from a run; on a terminal, those of the training list are marked."""
    import backhand

    from .language.files import write_atomically
    from .rendering.tables import sample_lines

    samples = backhand.sample(
        run, n=n, seed=seed, temperature=temperature, top_k=top_k, prefix=prefix, new_only=new_only
    )
    lines = sample_lines(samples, marks=out is None and sys.stdout.isatty())
    if out is not None:
        write_atomically(out, f"{lines}\n".encode())
    if json:
        show_json([vars(sample) for sample in samples])
    elif out is None:
        show(lines)


def inspect(
    run: Annotated[
        str, Positional, arg(metavar="[RUN]", help="a run folder; or a word list, to look before training")
    ] = "names",
    *,
    column: Annotated[str | None, described("the CSV column of a word list", "NAME")] = None,
    clean: Annotated[tuple[CleaningStep, ...], described("cleaning steps of a word list, as for train")] = (),
    block_size: Annotated[int, arg(help="symbols of context, before training")] = TrainConfig.block_size,
    n_embd: Annotated[int, arg(help="size of an embedding, before training")] = TrainConfig.n_embd,
    n_hidden: Annotated[
        int | None, described("units of the hidden layer, before training (default: as for train)", "INT")
    ] = None,
    batch_size: Annotated[int, arg(help="contexts in the minibatch")] = TrainConfig.batch_size,
    rate: Annotated[float, arg(help="learning rate, for the size of the updates")] = TrainConfig.rate,
    seed: Annotated[int, arg(help="seeds the parameters and the minibatch")] = TrainConfig.seed,
    split_seed: Annotated[int, arg(help="seeds the shuffle of the words")] = TrainConfig.split_seed,
    png: Annotated[Path | None, described("draw heat maps of h and dlogits into this file", "FILE")] = None,
    json: Json = False,
) -> None:
    """Look into one minibatch of a run, or of a word list before training."""
    import backhand

    from .rendering.tables import inspection_tables

    config = TrainConfig(
        words=run,
        column=column,
        clean=clean,
        block_size=block_size,
        n_embd=n_embd,
        n_hidden=n_hidden,
        batch_size=batch_size,
        rate=rate,
        seed=seed,
        split_seed=split_seed,
    )
    inspection = backhand.inspect(config, png=png)
    if json:
        show_json(inspection.to_dict())
    else:
        show(inspection_tables(inspection))


def learn(
    folder: Annotated[
        Path | None, Positional, arg(metavar="[FOLDER]", help="where the exercises are (default: learn)")
    ] = None,
    *,
    numpy: Annotated[bool, described("the course over NumPy, by default in learn_numpy")] = False,
    check: Annotated[bool, described("judge every exercise at once, and leave")] = False,
    listing: Annotated[
        bool, described("list the exercises and what is done, and leave", name="list")
    ] = False,
    reset: Annotated[
        str | None, described("blank an exercise again; your file is kept as .old", "NAME")
    ] = None,
    notebook: Annotated[bool, described("write the exercises as notebooks, and leave")] = False,
    json: Json = False,
) -> None:
    """Learn to write backward passes: short exercises, judged at every save."""
    import backhand

    folder = folder or Path("learn_numpy" if numpy else "learn")
    if reset is not None:
        kept = backhand.reset_exercise(folder, reset, numpy=numpy)
        print(f"{reset} is blank again" + (f"; your file is kept as {kept}" if kept else ""))
    elif notebook:
        print(*backhand.write_notebooks(folder, numpy=numpy), sep="\n")
    elif check or listing or json:
        progress = backhand.judge_folder(folder, numpy=numpy)
        if json:
            show_json(progress.to_dict())
        else:
            print(progress)
        sys.stdout.flush()
        if check and not progress.done:
            sys.exit(1)
    elif sys.stdin is None or not sys.stdin.isatty():  # nobody is there to press a key
        print(backhand.learn(folder, numpy=numpy))
    else:
        from .learning.watching import keys_need_enter
        from .rendering.classroom import Screen

        screen = Screen(enter=keys_need_enter())
        screen.wait(f"judging what is in {folder}/")
        backhand.learn(folder, numpy=numpy, screen=screen)


def bench(
    *,
    words: Annotated[str, described("list of words, as train takes it", "WORDS")] = "names",
    rounds: Annotated[int, arg(help="how often each contender is timed")] = 7,
    seconds: Annotated[float, arg(help="about how long each time")] = 0.2,
    kind: Annotated[
        str | None, arg(name="type", metavar="TYPE", help="time one type of model of whole words alone")
    ] = None,
    png: Annotated[Path | None, described("draw the timings into this file", "FILE")] = None,
    json: Json = False,
) -> None:
    """Time every engine beside the lecture's loop, torch.compile and JAX."""
    import backhand

    from .rendering.bench_tables import bench_tables

    log = Console(stderr=True)
    alone: dict[str, Any] = {"sizes": (), "hidden": (), "types": (kind,), "errands": False} if kind else {}
    report = backhand.bench(
        words=words,
        rounds=rounds,
        seconds=seconds,
        png=png,
        watch=lambda text: log.print(text, style="dim"),
        **alone,
    )
    if json:
        show_json(report.to_dict())
    else:
        show(bench_tables(report))


def show(*what: RenderableType) -> None:
    """Print tables and text on standard output, one below the other."""
    console = Console()
    for each in what:
        console.print(each)


def main() -> None:
    """Run the verb that the command line names."""
    # PyTorch reads it when it is imported. These tensors are small: on a busy machine, a second thread makes
    # training several times slower.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if sys.argv[1:] == ["--version"]:
        from importlib.metadata import version

        print(f"backhand {version('backhand')}")
        return
    verbs = {verb.__name__: verb for verb in (check, learn, train, evaluate, sample, inspect, bench)}
    try:
        ready_output()
        train.__annotations__["config"] = Annotated[options_of(sys.argv[1:]), arg(name="")]
        with log_shown():
            tyro.extras.subcommand_cli_from_dict(
                verbs,
                prog="backhand",
                description="Backpropagation written by hand: check it, learn it, train with it.",
                config=(FlagCreatePairsOff, OmitArgPrefixes),
            )
        sys.stdout.flush()
    except BackhandError as error:
        leave(str(error), error.exit_status)
    except KeyboardInterrupt as interrupt:
        leave(str(interrupt) or "interrupted", 130)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        drop_output()
    except (MemoryError, OSError, RuntimeError) as error:
        leave(of_the_machine(error), 1)


def options_of(arguments: list[str]) -> type[TrainConfig]:
    """Return the options of the type of model that the command line names: each has defaults of its own."""
    kind = TrainConfig.type
    for i, argument in enumerate(arguments):
        if argument == "--type":
            kind = "".join(arguments[i + 1 : i + 2])
        elif argument.startswith("--type="):
            kind = argument.removeprefix("--type=")
    return config_of(kind) if arguments[:1] == ["train"] else TrainConfig


@contextmanager
def log_shown() -> Iterator[None]:
    """Print on standard error what the package tells its log: that something takes a while; and warnings."""
    log, handler = logging.getLogger("backhand"), logging.StreamHandler()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"backhand: {message}", file=sys.stderr)
            yield
    finally:
        log.removeHandler(handler)
