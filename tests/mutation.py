"""Mutation testing: would the tests notice a small slip in the code that they test?

    python -m tests.mutation                        every mutant of every numerical file
    python -m tests.mutation autograd/backward.py   the mutants of one file
    python -m tests.mutation --sample 100           a random sample, the same for the same --seed
    python -m tests.mutation --list                 list the mutants, and run nothing

A mutant is the code with one operator, constant, axis or term changed. The fast tests run on each
mutant. If they all pass, the mutant is a survivor: no test looks closely at the changed line, or
the change makes no difference. EQUIVALENT lists changes that make no difference, with reasons.

>>> for mutant in mutants("npgpt2/toy.py", "def f(x):\\n    return 0.5 - x.T\\n"):
...     print(f"{mutant.kind:15} {mutant.old:10} {mutant.new}")
operator        0.5 - x.T  0.5 + x.T
term dropped    0.5 - x.T  0.5
term dropped    0.5 - x.T  -x.T
constant        0.5        1.5
view dropped    x.T        x

No file changes: each mutant lives in a forked process, where an import hook loads it.

Source: DeMillo, Lipton & Sayward, Hints on test data selection, IEEE Computer 11(4), 1978.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import linecache
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from itertools import accumulate, islice, pairwise
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, cast

ROOT = Path(__file__).parents[1]
FILES = [
    f"autograd/{name}.py"
    for name in (
        "backward tensor einsum numpy_protocols rows ownership check comparison evaluation "
        "difference verdict"
    ).split()
] + [
    f"npgpt2/{name}.py"
    for name in (
        "functional composed layers model module optim cache validate machine/work machine/packs "
        "generation/sampling generation/generation generation/evaluation training/data"
    ).split()
]
ALSO = {  # more tests of a file, besides its doctests and the test file of its name
    "autograd/tensor.py": "tests/test_autograd/test_ops.py",
    "autograd/comparison.py": "tests/test_autograd/test_check.py",
    "npgpt2/composed.py": "tests/test_npgpt2/test_functional.py",
    "npgpt2/training/data.py": "tests/test_npgpt2/test_training/test_trainer.py",
    "npgpt2/functional.py": "tests/test_npgpt2/test_cache.py",
    "npgpt2/machine/packs.py": "tests/test_npgpt2/test_optim.py",
}
ENGINE = "tests/test_autograd"  # these tests run for files of autograd only
HEAVY = ["numpy", "torch", "pytest", "hypothesis", "hypothesis.extra.numpy"]
# These tests do not run: tests of shrinking (Hypothesis shrinks nothing here), and tests that start
# another process.
LEFT_OUT = "shrink_to or the_smallest or graph_of_50000_ops or without_hypothesis"
MEMORY = 6 * 2**30  # bytes of address space for each mutant
GRACE = 30.0  # seconds; tests may take this plus 5 times their time without a mutant
ONE_THREAD = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1")

# (file, old line, new line), without indentation -> why no test can notice the change
EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "autograd/tensor.py",
        "if self.grad_fn is None or self.parents is None:",
        "if self.grad_fn is None or False:",
    ): "both are None, or neither",
    (
        "npgpt2/functional.py",
        "_ROWS = 64",
        "_ROWS = 65",
    ): "only the speed changes",
    (
        "npgpt2/optim.py",
        "if factor < 1.0:",
        "if factor <= 1.0:",
    ): "a product with 1",
    (
        "autograd/tensor.py",
        "array = array.astype(like.dtype, copy=False)",
        "array = array.astype(like.dtype, copy=True)",
    ): "only slower: a constant is never written to",
    (
        "autograd/verdict.py",
        "return self.absolute_error / (max(abs(self.analytic), abs(self.numeric)) or 1.0)",
        "return self.absolute_error / (max(abs(self.analytic), abs(self.numeric)) or 2.0)",
    ): "it divides an error of 0",
    (
        "npgpt2/functional.py",
        "scores = q[b, :, t] @ k[b, :, seen].swapaxes(-1, -2)",
        "scores = q[b, :, t] @ k[b, :, seen].swapaxes(-1, 2)",
    ): "the same axis, of four",
    (
        "npgpt2/functional.py",
        "dscores = dout[b, :, t] @ v[b, :, seen].swapaxes(-1, -2)",
        "dscores = dout[b, :, t] @ v[b, :, seen].swapaxes(-1, 2)",
    ): "the same axis, of four",
    (
        "npgpt2/functional.py",
        "z -= np.maximum.reduce(z.real, axis=-1, keepdims=True)",
        "z -= np.maximum.reduce(z, axis=-1, keepdims=True)",
    ): "complex numbers are ordered by their real parts, and any shift leaves softmax the same",
    (
        "npgpt2/composed.py",
        "visible = np.tri(T, dtype=bool)  # row t sees columns 0 to t",
        "visible = np.tri(T)  # row t sees columns 0 to t",
    ): "where() takes 1 for True",
    (
        "npgpt2/composed.py",
        "shifted = z - z.detach().max(axis=-1, keepdims=True)",
        "shifted = z - z.detach().max(axis=1, keepdims=True)",
    ): "the same axis, of two",
    (
        "npgpt2/model.py",
        "self.lm_head = Linear(C, V, bias=False, dtype=dtype)",
        "self.lm_head = Linear(C, V, bias=False)",
    ): "its weight is replaced in the next line",
}

# -- the changes -----------------------------------------------------------------------------------

OPERATORS = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"),
    ast.Pow: ("**", "*"), ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "//"),
    ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"), ast.And: ("and", "or"), ast.Or: ("or", "and"),
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"),
}  # fmt: skip
ATTRIBUTES = {"T", "mT", "real"}  # x.T becomes x
CALLS = {"swapaxes", "transpose", "reshape", "conj", "copy", "deepcopy", "astype", "detach"}
NOT_CODE = {"annotation", "returns", "decorator_list"}

Node = ast.expr | ast.stmt | ast.keyword
Edit = tuple[int, int, str]  # start and end in the bytes of the file, and the new text


@dataclass(frozen=True)
class Mutant:
    """One change of a source file: its bytes from `start` on, which are `old`, become `new`."""

    file: str
    line: int
    kind: str
    start: int
    old: str
    new: str
    source: str = field(repr=False)

    @property
    def changed(self) -> str:
        """The whole source with the change."""
        raw, end = self.source.encode(), self.start + len(self.old.encode())
        return (raw[: self.start] + self.new.encode() + raw[end:]).decode()

    @property
    def key(self) -> tuple[str, str, str]:
        """(file, old line, new line), as in EQUIVALENT."""
        first, count = self.line - 1, self.old.count("\n") + 1
        before, after = self.source.splitlines(), self.changed.splitlines()
        last = first + count + len(after) - len(before)
        lines = list(difflib.ndiff(before[first : first + count], after[first:last]))
        was, becomes = (" ".join(x[2:].strip() for x in lines if x[0] == sign) for sign in "-+")
        return self.file, was, becomes

    def __str__(self) -> str:
        _, was, becomes = self.key
        return f"{self.file}:{self.line}: {self.kind}\n  - {was}\n  + {becomes}"


def mutants(file: str, source: str) -> list[Mutant]:
    """Every mutant of a file, in the order of its lines."""
    text = _Text(source)
    edits: dict[Edit, str] = {}
    for node, parent in _code(ast.parse(source)):
        for kind, new in _changes(node, parent, text):
            edits.setdefault(text.fitted(node, new, parent), kind)
    return [
        Mutant(file, text.line(start), kind, start, text.bytes[start:end].decode(), new, source)
        for (start, end, new), kind in sorted(edits.items(), key=lambda item: item[0][0])
    ]


def _code(node: ast.AST, parent: ast.AST | None = None) -> Iterator[tuple[Node, ast.AST]]:
    """Yield (node, parent) for all code that matters: no types, messages, or imports."""
    match node:
        case ast.Raise() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return
        case ast.FunctionDef(name="__repr__") | ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return
        case ast.Assign([ast.Name("__all__")]) | ast.AnnAssign(_, ast.Name("TypeAlias")):
            return
        case ast.keyword("strict"):  # of zip: other checks exclude unequal lengths
            return
    if isinstance(node, Node) and parent is not None:
        yield node, parent
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and name not in NOT_CODE:
                yield from _code(child, node)


def _changes(node: Node, parent: ast.AST, text: _Text) -> Iterator[tuple[str, str]]:
    """Yield (kind, new text) for every change of this node, without changes of its children."""
    match node:
        case ast.BinOp(left, op, right):
            yield from text.swapped(node, [left, right], [op])
            if isinstance(op, ast.MatMult):
                yield "operands swapped", f"{text.atom(right)} @ {text.atom(left)}"
            if isinstance(op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.BitAnd | ast.BitOr):
                yield "term dropped", text[left]
            if isinstance(op, ast.Add | ast.Mult | ast.BitAnd | ast.BitOr):
                yield "term dropped", text[right]
            if isinstance(op, ast.Sub):
                yield "term dropped", "-" + text.atom(right)
        case ast.Compare(left, ops, comparators):
            yield from text.swapped(node, [left, *comparators], ops)
        case ast.BoolOp(op, values):
            yield "operator", text.edited(node, text.operators(values, [op] * len(values)))
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value) as operand):
            yield "constant", repr(1 - value)
            yield "sign dropped", text[operand]
        case ast.UnaryOp(ast.USub() | ast.Not() | ast.Invert(), operand):
            yield "sign dropped", text[operand]
        case ast.Constant(bool() as value):
            yield "constant", repr(not value)
        case ast.Constant(int() | float() | complex() as value):
            if not isinstance(parent, ast.UnaryOp):
                yield "constant", repr(value + 1)
        case ast.Attribute(value, name) if name in ATTRIBUTES:
            yield "view dropped", text[value]
        case ast.Call(ast.Attribute(value, name)) if name in CALLS and text[value] != "np":
            yield "call dropped", text[value]
        case ast.Call(ast.Attribute(_, name) | ast.Name(name), [first, *_]) if name in CALLS:
            yield "call dropped", text[first]
        case ast.keyword(str(), value):
            if not isinstance(getattr(value, "value", None), bool):  # booleans are flipped
                yield "argument dropped", ""
        case ast.AugAssign(target, op, value):
            yield from text.swapped(node, [target, value], [op])
            yield "statement deleted", "pass"
        case ast.Expr(ast.Call()) | ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield "statement deleted", "pass"
        case ast.Continue() | ast.Break():
            yield "statement deleted", "pass"
        case ast.Tuple(elements) if isinstance(parent, ast.Return | ast.Lambda):
            for a, b in pairwise(elements):
                edits = (*text.span(a), text[b]), (*text.span(b), text[a])
                yield "elements swapped", text.edited(node, edits)
    if isinstance(parent, ast.BoolOp):
        yield "term dropped", repr(isinstance(parent.op, ast.And))
    if node is getattr(parent, "test", None) or node in getattr(parent, "ifs", []):
        match node:
            case ast.UnaryOp(ast.Not()):
                pass  # its sign is dropped
            case ast.Compare(_, [o]) if not isinstance(o, ast.Lt | ast.LtE | ast.Gt | ast.GtE):
                pass  # its operator is swapped
            case _:
                yield "condition negated", f"not {text.atom(node)}"


class _Text:
    """Source text, addressed by the nodes of its syntax tree."""

    def __init__(self, source: str) -> None:
        self.bytes = source.encode()  # the columns of nodes are counted in bytes
        self.starts = [0, *accumulate(map(len, self.bytes.splitlines(keepends=True)))]

    def line(self, position: int) -> int:
        return self.bytes.count(b"\n", 0, position) + 1

    def span(self, node: Node) -> tuple[int, int]:
        end_line, end_column = cast(int, node.end_lineno), cast(int, node.end_col_offset)
        start = self.starts[node.lineno - 1] + node.col_offset
        return start, self.starts[end_line - 1] + end_column

    def __getitem__(self, node: Node) -> str:
        return self.edited(node, [])

    def atom(self, node: Node) -> str:
        """The text, in parentheses unless it binds as tightly as a name."""
        tight = ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.Constant
        return self[node] if isinstance(node, tight) else f"({self[node]})"

    def edited(self, node: Node, edits: Iterable[Edit]) -> str:
        """The text with these stretches replaced."""
        position, end = self.span(node)
        out = b""
        for first, last, new in edits:
            out += self.bytes[position:first] + new.encode()
            position = last
        return (out + self.bytes[position:end]).decode()

    def operators(self, operands: Sequence[Node], ops: Sequence[ast.AST]) -> Iterator[Edit]:
        """Edits of the operators that stand between the operands."""
        for (a, b), op in zip(pairwise(operands), ops, strict=False):
            if type(op) in OPERATORS:
                old, new = OPERATORS[type(op)]
                at = self.bytes.rindex(old.encode(), self.span(a)[1], self.span(b)[0])
                yield at, at + len(old), new

    def swapped(
        self, node: Node, operands: Sequence[Node], ops: Sequence[ast.AST]
    ) -> Iterator[tuple[str, str]]:
        for edit in self.operators(operands, ops):
            yield "operator", self.edited(node, [edit])

    def fitted(self, node: Node, new: str, parent: ast.AST) -> Edit:
        """The edit that puts new text in a node's place, in parentheses if it needs them there."""
        start, end = self.span(node)
        if isinstance(node, ast.keyword):  # remove its comma too
            if before := re.search(rb",\s*$", self.bytes[:start]):
                start = before.start()
            elif after := re.match(rb"\s*,\s*", self.bytes[end:]):
                end += after.end()
        elif isinstance(node, ast.expr):
            bare, safe = new, f"({new})"
            if isinstance(parent, ast.expr) and not isinstance(parent, ast.Slice):
                bare, safe = (f"({self.edited(parent, [(start, end, x)])})" for x in (bare, safe))
            out_of_brackets = _meaning(self[node]) and not _meaning(new)  # new has several lines
            if _meaning(bare) != _meaning(safe) or out_of_brackets:
                new = f"({new})"
        return start, end, new


def _meaning(expression: str) -> str | None:
    try:
        return ast.dump(ast.parse(expression, mode="eval"))
    except SyntaxError:
        return None


# -- running the tests -----------------------------------------------------------------------------

Tests = tuple[str, ...]
Trial = tuple[Mutant, list[tuple[Tests, float]]]  # groups of tests, each with a limit in seconds


def own_and_other_tests(file: str) -> tuple[Tests, Tests]:
    """The tests of a file, and all other fast tests, which run if the first ones all pass."""
    mirrors = {f: "tests/test_" + f.replace("/", "/test_") for f in FILES}
    own = dict.fromkeys([file, mirrors[file], ALSO.get(file, file)])
    others = [*sorted(map(str, Path(ENGINE).glob("test_*.py"))), *mirrors.values()]
    if not file.startswith("autograd/"):
        others = [test for test in others if not test.startswith(ENGINE)]
    others = [test for test in dict.fromkeys(others) if test not in own]
    return tuple(filter(os.path.exists, own)), tuple(filter(os.path.exists, others))


class _Hook(MetaPathFinder, SourceFileLoader):  # type: ignore[misc]
    """Imports the mutated module, and leaves all others to Python."""

    def __init__(self, mutant: Mutant) -> None:
        name = mutant.file.removesuffix(".py").replace("/", ".")
        super().__init__(name, str(ROOT / mutant.file))
        self.source = mutant.changed

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        ours = fullname == self.name
        return spec_from_file_location(fullname, self.path, loader=self) if ours else None

    def get_code(self, fullname: str) -> CodeType:
        # inspect.getsource then shows the mutant; otherwise it would read the file.
        lines = self.source.splitlines(keepends=True)
        linecache.cache[str(self.path)] = (len(self.source), None, lines, str(self.path))
        return compile(self.source, self.path, "exec", dont_inherit=True)


def _fork(trial: Trial, directory: str) -> int:
    """Start a process, whose exit code is 0 if all tests pass; its output goes to a file."""
    if pid := os.fork():
        with suppress(OSError):
            os.setpgid(pid, pid)  # the same call as below: one of the two comes first
        return pid
    (mutant, groups), code = trial, 1
    try:
        os.setpgid(0, 0)  # Ctrl-C reaches only the parent, which ends the whole group
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        output = os.open(f"{directory}/{os.getpid()}.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        sys.meta_path.insert(0, hook := _Hook(mutant))
        options = ["-x", "-q", "--tb=short", f"--basetemp={directory}/{os.getpid()}"]
        options += ["-p", "no:cacheprovider", "-o", "tmp_path_retention_policy=none"]
        options += ["-k", f"not ({LEFT_OUT})"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # HEAVY are imported already
        pytest: Any = importlib.import_module("pytest")
        for tests, limit in groups:
            signal.setitimer(signal.ITIMER_REAL, limit)  # the signal ends even an endless loop
            importlib.import_module(hook.name)  # before pytest puts its hook in front of this one
            if code := int(pytest.main([*options, *tests])):
                break
    except BaseException:
        code = 1
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def run(trials: Iterable[Trial], jobs: int) -> Generator[tuple[Trial, str, float, str], None, None]:
    """Yield (trial, fate, seconds, output) when a trial ends: survived, killed or timed out."""
    waiting = iter(trials)
    running: dict[int, tuple[Trial, float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        try:
            while True:
                for trial in islice(waiting, jobs - len(running)):
                    running[_fork(trial, directory)] = trial, time.monotonic()
                if not running:
                    return
                pid, status = os.wait()
                _kill(pid)
                trial, start = running.pop(pid)
                timed_out = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
                fate = "timed out" if timed_out else "killed" if status else "survived"
                output = Path(directory, f"{pid}.txt").read_text(errors="replace")
                yield trial, fate, time.monotonic() - start, output
        finally:
            for pid in running:
                _kill(pid)
                os.waitpid(pid, 0)


def _kill(pid: int) -> None:
    """End a process and all processes that it started."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def prepare() -> None:
    """Import the slow modules that are not mutated, once for all forks."""
    os.environ.update(ONE_THREAD, HYPOTHESIS_PROFILE="mutation")
    for name in HEAVY:
        importlib.import_module(name)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM ends the forks, like Ctrl-C
    from hypothesis import Phase, settings

    # As in the profile "quick", but with the same examples every time, and without shrinking.
    phases = [Phase.explicit, Phase.generate, Phase.target]
    settings.register_profile(
        "mutation", max_examples=25, deadline=None, database=None, derandomize=True, phases=phases
    )


def clean_run(sources: Mapping[str, str], jobs: int) -> dict[str, list[tuple[Tests, float]]]:
    """Run the tests on unchanged files; return the groups of each file, with their time limits."""
    tests = {file: own_and_other_tests(file) for file in sources}
    first, *_ = sources
    groups = [(first, tests[first][1]), *((file, own) for file, (own, _) in tests.items())]
    unchanged = {file: Mutant(file, 1, "none", 0, "", "", sources[file]) for file in sources}
    trials: list[Trial] = [(unchanged[file], [(group, 3600.0)]) for file, group in groups]
    taken: dict[Tests, float] = {}
    with closing(run(trials, jobs)) as ended:
        for (mutant, [(group, _)]), fate, seconds, output in ended:
            if fate != "survived":
                raise SystemExit(f"{output}\n{mutant.file} is unchanged, but {fate} by its tests")
            taken[group] = seconds
    longest = sum(taken[group] for group in tests[first])
    return {
        file: [(group, GRACE + 5.0 * taken.get(group, longest)) for group in tests[file]]
        for file in sources
    }


# -- the report ------------------------------------------------------------------------------------


def show_progress(fates: Mapping[Mutant, str], total: int, start: float) -> None:
    """Print a line: on a terminal always the same line, elsewhere a new one every 20 mutants."""
    done, alive = len(fates), sum(fate == "survived" for fate in fates.values())
    left = (time.monotonic() - start) / done * (total - done) / 60.0
    line = f"{done}/{total}: {done - alive} killed, {alive} survived, {left:.0f} min left"
    if sys.stdout.isatty():
        print(f"\r\033[K{line}", end="", flush=True)
    elif done % 20 == 0 or done == total:
        print(line, flush=True)


def report(fates: Mapping[Mutant, str]) -> float:
    """Print the score of each file and every surviving mutant; return the score of all files."""
    fates = {
        mutant: "equivalent" if fate == "survived" and mutant.key in EQUIVALENT else fate
        for mutant, fate in fates.items()
    }
    print(f"\n\n{'':26}{'mutants':>8}{'killed':>8}{'equivalent':>12}{'survived':>10}{'score':>8}")
    for file in [*dict.fromkeys(mutant.file for mutant in fates), "all"]:
        n = Counter(fate for mutant, fate in fates.items() if file in (mutant.file, "all"))
        killed, alive = n["killed"] + n["timed out"], n["survived"]
        score = killed / (killed + alive or 1)
        print(f"{file:26}{n.total():8}{killed:8}{n['equivalent']:12}{alive:10}{score:8.1%}")
    for mutant, fate in fates.items():
        reason = EQUIVALENT.get(mutant.key)
        if fate != "killed" or reason:
            print(f"\n{fate}: {mutant}")
        if reason:
            print(f"  {'' if fate == 'equivalent' else 'and yet in EQUIVALENT: '}{reason}")
    return score


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 if the score is too low, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("files", nargs="*", default=FILES, help="default: all numerical ones")
    parser.add_argument("--sample", type=int, metavar="N", help="N random mutants only")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    parser.add_argument("--minimum", type=float, default=0.95, help="score for exit code 0")
    parser.add_argument("--list", action="store_true", help="list the mutants, run nothing")
    args = parser.parse_args(argv)
    if unknown := set(args.files) - set(FILES):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {' '.join(FILES)}")
    os.chdir(ROOT)
    sources = {file: Path(file).read_text() for file in args.files}
    chosen = [mutant for file, source in sources.items() for mutant in mutants(file, source)]
    for key in EQUIVALENT.keys() - {mutant.key for mutant in chosen}:
        if key[0] in sources:
            print("stale entry in EQUIVALENT, no such mutant:", *key, sep="\n  ")
    if args.sample is not None:
        picked = random.Random(args.seed).sample(range(len(chosen)), min(args.sample, len(chosen)))
        chosen = [chosen[i] for i in sorted(picked)]
    if args.list:
        print(*chosen, sep="\n")
        print(*(f"{n:6} {file}" for file, n in Counter(m.file for m in chosen).items()), sep="\n")
        return 0
    print(f"{len(chosen)} mutants; but first, the tests without any", flush=True)
    prepare()
    fates: dict[Mutant, str] = {}
    try:
        groups = clean_run(sources, args.jobs)
        start = time.monotonic()
        with closing(run(((m, groups[m.file]) for m in chosen), args.jobs)) as ended:
            for (mutant, _), fate, _, _ in ended:
                fates[mutant] = fate
                show_progress(fates, len(chosen), start)
    except KeyboardInterrupt:
        print(f"\ninterrupted after {len(fates)} of {len(chosen)} mutants")
    score = report({mutant: fates[mutant] for mutant in chosen if mutant in fates})
    if len(fates) < len(chosen):
        return 130
    return 0 if score >= args.minimum else 1


if __name__ == "__main__":
    sys.exit(main())
