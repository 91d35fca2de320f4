"""The command line: `npgpt2 train`, `generate`, `eval`, `params`, `export`, and the study commands.

For an error that you can correct, a command prints one line on standard error, and ends with status
2. If a signal stops it, the status is 130. If there are several ranks, only rank 0 prints. Another
rank prints only if it fails alone, and then all ranks end.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from typing import Any, NoReturn, TypeAlias

import numpy as np

from npgpt2 import __version__, interrupt, validate
from npgpt2.config import PRESETS, TrainingConfig
from npgpt2.disk.files import as_argument
from npgpt2.generation.evaluation import evaluate
from npgpt2.generation.sampling import Sampling
from npgpt2.machine import process
from npgpt2.machine.ranks import Ranks, launched
from npgpt2.parameter_table import format_table
from npgpt2.progress import Progress
from npgpt2.text import TextModel, export, read_config
from npgpt2.training import data
from npgpt2.training.run import Run, new_run_directory
from npgpt2.training.trainer import Trainer

Command: TypeAlias = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with the given arguments; return the exit status."""
    sys.stdout, sys.stderr = (s or open(os.devnull, "w") for s in (sys.stdout, sys.stderr))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for characters that the terminal cannot show
    try:
        ranks = launched()
    except (ImportError, ValueError) as error:
        return _report(error)
    if ranks.rank == 0:
        status, said = _run_command(argv, ranks), ""
    else:  # the output is kept, and shown only if this rank fails alone
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as kept:
            status = _run_command(argv, ranks)
        said = kept.getvalue()
    ranks.end(status, said)
    return status


def _run_command(argv: Sequence[str] | None, ranks: Ranks) -> int:
    """Run the command line on this rank; return the exit status."""
    try:
        interrupt.raise_again()
        args = _parser().parse_args(argv, argparse.Namespace(ranks=ranks))
        command: Command = args.command
        with np.errstate(all="ignore"):  # NaN and infinity raise one error, not warnings
            status = command(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has gone, as in `npgpt2 ... | head`
        status = 1
    except KeyboardInterrupt:
        print()  # so that the next output begins on a new line
        status = 130
    except MemoryError as error:
        status = _report(f"not enough memory ({error}); take a smaller batch or model")
    except (OSError, ValueError, TypeError, IndexError, ArithmeticError, ImportError) as error:
        status = _report(error)
    except Exception:
        if ranks.size == 1:
            raise
        traceback.print_exc()  # do not raise: the other ranks would wait for this one
        status = 1
    try:
        sys.stdout.flush()
    except OSError:  # Python would try again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _report(error: Exception | str) -> int:
    """Print an error in one line; return the status."""
    line = error.line if isinstance(error, validate.Problems) else str(error)
    if isinstance(error, OSError) and error.filename is not None:
        line = f"{error.filename}: {error.strerror}{_WAYS_OUT.get(type(error), '')}"
    print("npgpt2: error:", " ".join(line.splitlines()), file=sys.stderr)
    return 2


_WAYS_OUT: dict[type, str] = {
    FileNotFoundError: "; check the path",
    IsADirectoryError: "; name a file",
    NotADirectoryError: "; name a directory",
    FileExistsError: "; choose another name",
    PermissionError: "; change its permissions, or choose another path",
}


# -- train ---------------------------------------------------------------------------------------


def _train(args: argparse.Namespace) -> int:
    """Train a character-level GPT-2 on a text, and print a text that it generates."""
    ranks: Ranks = args.ranks
    if not args.no_tuning:
        process.tune(ranks.cores() if ranks.size > 1 else None)
    trainer = _trainer(args)
    model, run = trainer.model, trainer.run
    print(
        f"{run.directory}: {model.get_num_params():,} parameters, {len(run.vocabulary)} different "
        f"characters, {len(trainer.tokens):,} to train on, {len(trainer.val_tokens):,} to validate "
        f"on; step {trainer.step} of {trainer.config.steps}",
        flush=True,
    )
    # The command that is printed works even if the program is not on the PATH.
    program = sys.argv[0] if os.path.basename(sys.argv[0]) == "npgpt2" else "npgpt2"
    program, directory = as_argument(program), as_argument(run.directory)
    if not trainer.train():
        print(
            f"stopped and saved at step {trainer.step}; continue with: "
            f"{program} train --resume {directory}"
        )
        return 130
    if ranks.rank > 0:
        return 0
    print(f"validation loss {trainer.val_loss:.4f} nats per character; a sample:\n")
    sample = TextModel(model, run.vocabulary).stream(None, 400, Sampling(0.8), trainer.config.seed)
    _print_text(sample)
    print(f"\nmore: {program} generate {directory} --max-new-tokens 1000")
    return 0


def _trainer(args: argparse.Namespace) -> Trainer:
    """Start the run that the arguments ask for, or resume it."""
    ranks: Ranks = args.ranks
    names = {f.name for f in fields(TrainingConfig)}
    given = {name: value for name, value in vars(args).items() if name in names}
    if args.resume is None:
        config, file, out = TrainingConfig(**given), args.text, args.out
        text = ranks.once(lambda: data.python_reference() if file is None else data.read_text(file))
        directory = ranks.once(new_run_directory) if out is None else out
        return Trainer.start(directory, config, text, ranks)
    flags = [f"--{name.replace('_', '-')}" for name in given]
    flags += [f"--{name}" for name in ("text", "out") if getattr(args, name) is not None]
    if flags:
        raise ValueError(
            f"--resume continues with the settings of the run; leave out {', '.join(flags)}"
        )
    return Trainer.resume(args.resume, ranks)


def _add_train_arguments(train: argparse.ArgumentParser) -> None:
    train.epilog = (
        "Several processes can train one model: mpiexec -n 2 npgpt2 train, with the same arguments "
        "(pip install 'npgpt2[mpi]'). Each process takes its share of every batch."
    )
    train.add_argument(
        "--text", metavar="FILE", help="UTF-8 text (default: the Python language reference)"
    )
    train.add_argument(
        "--out", metavar="DIR", help="new run directory (default: runs/001, runs/002, ...)"
    )
    train.add_argument("--resume", metavar="RUN", help="continue a run that was stopped")
    for f in fields(TrainingConfig):
        train.add_argument(
            f"--{f.name.replace('_', '-')}",
            type=type(f.default),
            default=argparse.SUPPRESS,
            metavar=type(f.default).__name__.upper(),
            help=f"{f.metadata['help']} (default: {f.default})",
        )
    _add_no_tuning(train)


def _add_no_tuning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-tuning",
        action="store_true",
        help="do not change settings of the process. Without this flag, the process keeps freed "
        "memory for reuse, which is faster if the C library is glibc, and the ranks on one machine "
        "divide its cores among them",
    )


# -- generate ------------------------------------------------------------------------------------

_DIRECTORY = "run directory made by train, or a Hugging Face directory"

_SAMPLING_FLAGS: Iterable[tuple[str, type, float | None, str]] = (
    (
        "--max-new-tokens",
        int,
        400,
        "number of tokens to add; in a run, a token is a character (default: 400)",
    ),
    ("--temperature", float, 0.8, "0 always takes the most probable token (default: 0.8)"),
    ("--top-k", int, None, "sample among the K most probable tokens (default: all)"),
    (
        "--top-p",
        float,
        None,
        "sample among the fewest tokens that together have probability P (default: all)",
    ),
    ("--seed", int, None, "the same seed gives the same text (default: a new seed every time)"),
)


def _generate(args: argparse.Namespace) -> int:
    """Continue a prompt with a trained model, and print the text as it is generated."""
    if not args.no_tuning:
        process.tune()
    sampling = Sampling(args.temperature, args.top_k, args.top_p)
    if args.seed is not None:
        validate.integer("seed", args.seed, minimum=0, maximum=math.inf)
    model = TextModel.open(args.directory)
    text = model.stream(args.prompt, args.max_new_tokens, sampling, args.seed, args.stop)
    print(args.prompt or "", end="", flush=True)
    start, *tokens = _print_text(text)
    if len(tokens) > 1:
        rate = (len(tokens) - 1) / (tokens[-1] - tokens[0])
        print(
            f"first token after {tokens[0] - start:.3g} s, then {rate:,.1f} tokens/s",
            file=sys.stderr,
        )
    return 0


def _print_text(text: Iterable[str]) -> list[float]:
    """Print each piece of a text as it comes; return the times of the start and of each token."""
    times = [time.perf_counter()]
    for piece in text:
        times.append(time.perf_counter())
        print(piece, end="", flush=True)
    print()
    return times[:-1]  # the last piece, the rest of the text, has no token


def _add_generate_arguments(generate: argparse.ArgumentParser) -> None:
    generate.add_argument("directory", metavar="DIR", help=_DIRECTORY)
    generate.add_argument(
        "--prompt", metavar="TEXT", help="text to continue (default: begin a new text)"
    )
    generate.add_argument(
        "--stop", metavar="TEXT", action="append", default=[],
        help="end before this text; may be given several times",
    )  # fmt: skip
    for flag, kind, default, text in _SAMPLING_FLAGS:
        generate.add_argument(
            flag, type=kind, default=default, metavar=kind.__name__.upper(), help=text
        )
    _add_no_tuning(generate)


# -- eval ----------------------------------------------------------------------------------------


def _eval(args: argparse.Namespace) -> int:
    """Measure how well a model predicts a text."""
    if not args.no_tuning:
        process.tune()
    model, text = TextModel.open(args.directory), data.read_text(args.text)
    tokens = model.tokenizer.encode(text)
    if len(tokens) < 2:
        raise ValueError(
            f"{args.text} is one token long, but only the tokens after the first are predicted; "
            "give a longer text"
        )
    result = evaluate(
        model.model, tokens, stride=args.stride, batch_size=args.batch_size, progress=Progress
    )
    n_bytes = len(text.encode())
    print(
        f"{n_bytes:,} bytes, {len(tokens):,} tokens; the model predicted all but the first:\n"
        f"loss           {result.loss:.6f} nats per token\n"
        f"perplexity     {result.perplexity:.6g}\n"
        f"bits per byte  {result.bits_per_byte(n_bytes):.6f}"
    )
    return 0


def _add_eval_arguments(evaluation: argparse.ArgumentParser) -> None:
    evaluation.add_argument("directory", metavar="DIR", help=_DIRECTORY)
    evaluation.add_argument("--text", metavar="FILE", required=True, help="UTF-8 text")
    evaluation.add_argument(
        "--stride", type=int, metavar="INT",
        help="number of tokens by which the window of n_positions tokens moves. A smaller stride "
        "gives each token more context, and takes longer (default: half a window)",
    )  # fmt: skip
    evaluation.add_argument(
        "--batch-size", type=int, default=8, metavar="INT", help="windows per batch (default: 8)"
    )
    _add_no_tuning(evaluation)


# -- export, params ------------------------------------------------------------------------------


def _export(args: argparse.Namespace) -> int:
    """Write the model of a run to a new Hugging Face directory, for transformers and others."""
    run = Run.open(args.run)
    export(run, args.directory)
    print(f"{args.directory}: model and tokenizer; npgpt2 generate {as_argument(args.directory)}")
    return 0


def _add_export_arguments(exported: argparse.ArgumentParser) -> None:
    exported.add_argument("run", metavar="RUN", help="run directory made by train")
    exported.add_argument("directory", metavar="DIR", help="new directory to make")


def _params(args: argparse.Namespace) -> int:
    """Show how the parameters of a model add up, without making its weights."""
    preset = PRESETS.get(args.model) or PRESETS.get(f"gpt2-{args.model}")
    if preset is not None and os.path.exists(args.model):
        raise ValueError(
            f"{args.model} is the name of a published size and of a directory; "
            f"write ./{args.model} for the directory"
        )
    if preset is not None:
        config = preset()
    elif os.path.exists(args.model):
        config = read_config(args.model)
    else:
        raise ValueError(f"{args.model!r} is neither one of {', '.join(PRESETS)} nor a directory")
    print(
        f"{args.model}: n_layer={config.n_layer}, n_head={config.n_head}, n_embd={config.n_embd}, "
        f"vocab_size={config.vocab_size}, n_positions={config.n_positions}\n"
    )
    print(format_table(config))
    return 0


def _add_params_arguments(params: argparse.ArgumentParser) -> None:
    params.add_argument("model", metavar="MODEL", help=f"{', '.join(PRESETS)}, or a {_DIRECTORY}")


# -- the parser ----------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in the arguments in one line, and guesses no option."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="npgpt2", description="GPT-2 in plain NumPy.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, command: Command) -> argparse.ArgumentParser:
        text = command.__doc__
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    _add_train_arguments(add("train", _train))
    _add_generate_arguments(add("generate", _generate))
    _add_eval_arguments(add("eval", _eval))
    _add_params_arguments(add("params", _params))
    _add_export_arguments(add("export", _export))
    from npgpt2.learn.commands import add_commands  # only the command line needs it

    add_commands(add)
    return parser
