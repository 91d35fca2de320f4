"""The study commands: `npgpt2 practice`, `explain`, `play`, `contributions`, `museum`, `plot`.

Each command is a function that reads the arguments and prints the `report` of a tool. Each tool is
a file beside this one, which is imported when its command runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from npgpt2.config import PRESETS, GPT2Config
from npgpt2.learn.trace import random_batch
from npgpt2.model import GPT2Model
from npgpt2.text import TextModel

Command: TypeAlias = Callable[[argparse.Namespace], int]


def add_commands(add: Callable[[str, Command], argparse.ArgumentParser]) -> None:
    """Add the commands to a parser: `add(name, command)` returns the parser of its arguments."""
    practice = add("practice", _practice)
    practice.add_argument("name", nargs="?", metavar="NAME", help="an exercise (default: list all)")
    practice.add_argument(
        "file", nargs="?", metavar="FILE", help="the file with your answer, to be judged"
    )
    practice.add_argument("--start", metavar="FILE", help="write a file for you to fill in")
    practice.add_argument("--hint", type=int, metavar="N", help="show hint 1, 2 or 3")
    practice.add_argument("--derivation", action="store_true", help="show the derivation")

    explain = add("explain", _explain)
    explain.add_argument("--full", action="store_true", help="show every node; fold nothing")
    explain.add_argument("--html", metavar="FILE", help="write a page instead, as play does")

    play = add("play", _play)
    play.add_argument("--html", metavar="FILE", required=True, help="where to write the page")

    contributions = add("contributions", _contributions)
    contributions.add_argument(
        "name", metavar="NAME",
        help="a parameter, such as wte or h.0.attn.c_attn.bias; or stream, the residual stream",
    )  # fmt: skip
    for command in (explain, play, contributions):
        command.add_argument(
            "directory", nargs="?", metavar="DIR",
            help="run or Hugging Face directory (default: a small model with random weights)",
        )  # fmt: skip
        command.add_argument(
            "--preset", metavar="SIZE", help=f"one of {', '.join(PRESETS)}, with random weights"
        )
        command.add_argument(
            "--prompt", metavar="TEXT",
            help="text whose tokens the model of DIR predicts (default: random tokens)",
        )  # fmt: skip

    museum = add("museum", _museum)
    museum.add_argument(
        "bug", nargs="?", default="", metavar="BUG",
        help="the name of a bug, or a part of names for a matrix of the bugs (default: all bugs)",
    )  # fmt: skip
    museum.add_argument("--write", metavar="FILE", help="write the whole matrix as Markdown")

    plot = add("plot", _plot)
    plot.add_argument("run", metavar="RUN", help="run directory that npgpt2 train made")
    plot.add_argument("--prompt", metavar="TEXT", help="also draw the attention maps of this text")
    plot.add_argument(
        "--out", metavar="FILE", help="where to write, .png or .svg (default: RUN/plot.png)"
    )


def _practice(args: argparse.Namespace) -> int:
    """Judge the gradients that you write by hand, and show the mistakes in them."""
    from npgpt2.learn import practice
    from npgpt2.learn.judge.verdict import Verdict

    said = practice.report(
        args.name,
        args.file,
        start_file=args.start,
        hint=args.hint,
        show_derivation=args.derivation,
    )
    print(said)
    return 1 if isinstance(said, Verdict) and not said.passed else 0


def _explain(args: argparse.Namespace) -> int:
    """List every node of a backward pass: its formula, its norms, and the sums of gradients."""
    from npgpt2.learn import ledger

    if args.html is not None:
        if args.full:
            raise ValueError("--full is for the text; the page always has every node")
        return _play(args)
    print(ledger.report(*_model_and_batch(args), full=args.full))
    return 0


def _play(args: argparse.Namespace) -> int:
    """Write a page that plays a backward pass, one vjp after the other."""
    from npgpt2.learn import page

    if Path(args.html).is_dir():
        raise IsADirectoryError(f"--html {args.html!r} is a directory; name a file")
    print(page.report(*_model_and_batch(args), path=args.html))
    return 0


def _contributions(args: argparse.Namespace) -> int:
    """Split a gradient into the paths it came from."""
    from npgpt2.learn import contributions

    model, ids, targets = _model_and_batch(args)
    print(contributions.report(model, args.name, ids, targets))
    return 0


def _model_and_batch(args: argparse.Namespace) -> tuple[GPT2Model, Any, Any]:
    """Return the model, without dropout, and the batch that the arguments ask for."""
    if args.directory is not None and args.preset is not None:
        raise ValueError("give a directory or --preset, not both")
    if args.prompt is not None and args.directory is None:
        raise ValueError("--prompt needs a directory: a model that knows its characters")
    if args.directory is not None:
        text = TextModel.open(args.directory)
        if args.prompt is None:
            return text.model, *random_batch(text.model)
        tokens = text.tokenizer.encode(args.prompt)
        P = text.model.config.n_positions
        if not 2 <= len(tokens) <= P + 1:
            raise ValueError(
                f"the prompt has {len(tokens)} tokens, and must have 2 to n_positions + 1 = {P + 1}"
            )
        return text.model, tokens[None, :-1], tokens[None, 1:]
    if args.preset is None:
        config = GPT2Config(vocab_size=65, n_positions=64, n_embd=128, n_layer=4, n_head=4)
    elif args.preset in PRESETS:
        config = PRESETS[args.preset]()
    else:
        raise ValueError(f"--preset {args.preset} is not one of {', '.join(PRESETS)}")
    model = GPT2Model(config, rng=0).eval()
    return model, *random_batch(model)


def _museum(args: argparse.Namespace) -> int:
    """Show which check catches which bug, or show one bug and train with it."""
    from npgpt2.learn import museum
    from npgpt2.progress import Progress

    if args.write is not None and args.bug:
        raise ValueError(f"--write writes the matrix of all bugs; leave out {args.bug}")
    if args.write is not None:
        print(museum.write(args.write, Progress))
    else:
        print(museum.report(args.bug, Progress))
    return 0


def _plot(args: argparse.Namespace) -> int:
    """Draw the loss and gradient norm of a run, and the attention maps of a prompt."""
    from npgpt2.learn import plots

    print(plots.report(args.run, args.prompt, args.out))
    return 0
