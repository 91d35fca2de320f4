'''A catalogue of bugs: real ones from other code, and mistakes that people make on paper.

Each bug is a small change to one function of this library, easy to overlook. Inside a block of
`injected`, every call of the function runs the changed code:

>>> from autograd import Tensor
>>> from npgpt2 import functional as F
>>> x = Tensor([-1.0, 2.0])
>>> bug = BUGS["gelu-cubic-coefficient"]
>>> with bug.injected():
...     F.gelu(x).data.round(3)
array([-0.168,  1.925])
>>> F.gelu(x).data.round(3)
array([-0.159,  1.955])
>>> print(bug.diff())
--- functional.gelu
+++ gelu-cubic-coefficient
-    a, c = 0.044715, math.sqrt(2.0 / math.pi)
+    a, c = 0.0044715, math.sqrt(2.0 / math.pi)

`detectors.py` measures which check sees which bug.

The bugs are in the text files beside this one, separated by blank lines. An entry has the name of
the bug and of its function, then the changed lines, then a lesson:

>>> (bug,) = parse("""
... tanh-square-forgotten  autograd.tensor:tanh
... -        return (g * (1.0 - out * out),)
... +        return (g * (1.0 - out),)
... The derivative is 1 - tanh**2.
... """)
>>> bug.title, bug.lesson
('tensor.tanh', 'The derivative is 1 - tanh**2.')

Lines with - are in the source, lines with + take their place, and lines with a space stay. A line
`...` separates two places in one function.

Bugs change internals of the library on purpose: private functions too, and exact lines, comments
included. If you change one of these lines, an error names the bugs that you must change too.
'''

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.resources import files
from itertools import takewhile

from npgpt2.learn import injection
from npgpt2.learn.injection import Function, source_of

_FILES = ("engine", "ops", "fused", "model", "optim", "generation")
_SEPARATOR = "\n...\n"


@dataclass(frozen=True)
class Bug:
    """Wrong code in place of right code, in one function."""

    name: str  # short and unique
    function: Function
    hunks: tuple[str, ...]  # the changed lines, a hunk for each place in the source
    lesson: str  # the mistake, and why people overlook it

    @property
    def title(self) -> str:
        """The module and name of the function, such as functional.gelu."""
        module = self.function.__module__.rpartition(".")[2]
        return f"{module}.{self.function.__qualname__}"

    def sources(self) -> tuple[str, str]:
        """Return the dedented source of the function, without and with the bug.

        Raises
        ------
        ValueError
            The - and context lines of a hunk do not occur exactly once.
        """
        source = source_of(self.function)
        lines = source.splitlines()
        for hunk in self.hunks:
            old = [line[1:] for line in hunk.splitlines() if line[0] in " -"]
            new = [line[1:] for line in hunk.splitlines() if line[0] in " +"]
            starts = [i for i in range(len(lines)) if lines[i : i + len(old)] == old]
            if len(starts) != 1:
                raise ValueError(
                    f"bug {self.name}: {self.title} must contain its - and context lines exactly "
                    f"once, not {len(starts)} times; copy them from the source, with more context "
                    "if they occur several times:\n" + "\n".join(old)
                )
            lines[starts[0] : starts[0] + len(old)] = new
        return source, "\n".join(lines) + "\n"

    def diff(self) -> str:
        """Return the changed lines under the names of the function and of the bug."""
        return f"--- {self.title}\n+++ {self.name}\n" + _SEPARATOR.join(self.hunks)

    def injected(self) -> AbstractContextManager[None]:
        """Inside this block the function has the bug: see `npgpt2.learn.injection.injected`."""
        return injection.injected(self.function, self.sources()[1], f"bug {self.name}")


def parse(text: str) -> Iterator[Bug]:
    """Yield the bugs in a text; raise ValueError if a bug lacks a part or its function."""
    for entry in re.split(r"\n\n+", text.strip("\n")):
        head, *lines = entry.splitlines()
        change = list(takewhile(lambda line: line[0] in " -+" or line == "...", lines))
        lesson = " ".join(lines[len(change) :])
        if len(head.split()) != 2 or not change or not lesson:
            raise ValueError(
                f"bug {head!r}: write a name and a module:function, then the changed lines, then "
                "a lesson"
            )
        name, path = head.split()
        try:
            function = inspect.unwrap(pkgutil.resolve_name(path))
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"bug {name}: there is no function {path}: {error}") from error
        yield Bug(name, function, tuple("\n".join(change).split(_SEPARATOR)), lesson)


def _read() -> dict[str, Bug]:
    bugs: dict[str, Bug] = {}
    for name in _FILES:
        for bug in parse((files(__name__) / f"{name}.txt").read_text(encoding="utf-8")):
            if bugs.setdefault(bug.name, bug) is not bug:
                raise ValueError(f"there are two bugs called {bug.name}; rename one of them")
    return bugs


BUGS = _read()
