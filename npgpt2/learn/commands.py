"""The commands for studying: `npgpt2 museum`, `plot`.

Each is a function here that reads arguments, and a tool in a file of its own that does the work.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

Command: TypeAlias = Callable[[argparse.Namespace], int]


def add_commands(add: Callable[[str, Command], argparse.ArgumentParser]) -> None:
    """Add the commands to a parser: `add(name, command)` returns the parser of its arguments."""
    museum = add("museum", _museum)
    museum.add_argument(
        "bug", nargs="?", default="", metavar="BUG",
        help="show this one; or, given a part of a name, the matrix of all that have it",
    )  # fmt: skip

    plot = add("plot", _plot)
    plot.add_argument("run", metavar="RUN", help="run directory made by train")
    plot.add_argument("--prompt", metavar="TEXT", help="draw the attention maps of this text too")
    plot.add_argument(
        "--out", metavar="FILE", help="where to write, .png or .svg (default: RUN/plot.png)"
    )


def _museum(args: argparse.Namespace) -> int:
    """Show which check sees which of the catalogued bugs, or one bug and what becomes of it."""
    from npgpt2.learn import museum

    museum.main(args.bug)
    return 0


def _plot(args: argparse.Namespace) -> int:
    """Draw loss and gradient norm of a run, and attention maps of a prompt."""
    from npgpt2.learn import plots

    plots.main(args.run, args.prompt, args.out)
    return 0
