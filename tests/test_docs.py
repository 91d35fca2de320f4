"""The links, files, modules, commands and extras in the documents exist, and their code runs."""

from __future__ import annotations

import io
import re
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

import pytest

from npgpt2 import GPT2Config, GPT2Model, cli
from npgpt2.disk.tokenizer import Vocabulary, save_vocabulary

ROOT = Path(__file__).parents[1]
README, CONTRIBUTING = ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md"
DOCUMENTS = [
    README,
    CONTRIBUTING,
    ROOT / "tests" / "README.md",
    ROOT / "tests" / "benchmarks" / "README.md",
    ROOT / "examples" / "README.md",
]
OURS = ("autograd", "npgpt2", "tests", "examples", ".ci", ".github")
OF_THE_READER = ("runs/", "gpt2/", "mine/", "book-hf/", "dist/")  # the shown commands make them


# -- the checker -----------------------------------------------------------------------------------


def problems(text, document):
    """Return the names in a document that do not exist, each as a sentence."""
    code = list(pieces_of_code(text))
    return [
        *links_to_nothing(text, document),
        *(f"no file {path}" for path in paths(text, code) if not exists(path, document)),
        *(f"no module {name}" for name in modules(text) if not resolves(name)),
        *(f"no program {name}" for name in programs(code) if not has_module(name)),
        *(problem for command in commands(code) if (problem := refused(*command))),
        *(f"no extra {name}" for name in extras(text) if name not in known_extras()),
    ]


def pieces_of_code(text):
    """Yield the lines of code blocks, without comments, and the code in sentences."""
    for number, part in enumerate(re.split(r"^```.*\n", text, flags=re.MULTILINE)):
        if number % 2:
            yield from (re.sub(r"(^|\s)# .*", "", line) for line in part.splitlines())
        else:
            yield from re.findall(r"`([^`]+)`", part)


def links_to_nothing(text, document):
    """Yield the relative links whose file or heading does not exist."""
    for link in re.findall(r"\]\(([^()\s]+)\)", text):
        path, _, heading = link.partition("#")
        if ":" in path:  # on another site
            continue
        target = document.parent / path if path else document
        content = text if not path else target.read_text() if target.is_file() else ""
        if not target.exists() or (heading and heading not in headings(content)):
            yield f"no target of the link {link}"


def headings(text):
    """Return the headings in the form that links have.

    >>> headings("# One\\n\\n## Two words, `code`\\n")
    ['one', 'two-words-code']
    """
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def paths(text, code):
    """Yield paths. In sentences, a path begins with a name in OURS; in code, it looks like one."""
    roots = "|".join(map(re.escape, OURS))
    yield from re.findall(rf"(?<![\w./-])(?:{roots})/[\w./-]*[\w/]", text)
    for piece in code:
        is_path = re.fullmatch(r"[\w.-]+(/[\w.-]*)+|[\w.-]+\.(py|md|toml|html|yml)", piece)
        if is_path and not piece.startswith((*OF_THE_READER, *(f"{root}/" for root in OURS))):
            yield piece


def exists(path, document):
    """Whether the path is in the project or beside the document, or a file has this name."""
    if "/" in path:
        return (ROOT / path).exists() or (document.parent / path).exists()
    return path in file_names()


@cache
def file_names():
    """Return the names of all files of the project."""
    return {p.name for root in OURS for p in (ROOT / root).rglob("*")} | {
        p.name for p in ROOT.iterdir()
    }


def modules(text):
    """Return the modules, and names in modules, in code: `npgpt2.text.TextModel`."""
    return re.findall(r"[`\"]((?:npgpt2|autograd)(?:\.\w+)+)(?:\([^`]*\))?[`\"]", text)


def resolves(name):
    """Whether this is a module, or a name in a module."""
    try:
        resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def programs(code):
    """Return the modules that are run: `python -m tests.mutation`."""
    return [name for piece in code for name in re.findall(r"python3? -m (tests[\w.]*)", piece)]


def has_module(name):
    """Whether a module can be found, without running it."""
    try:
        return find_spec(name) is not None
    except ImportError:
        return False


def commands(code):
    """Return the commands with their flags: `npgpt2 train --steps 20`."""
    found = [
        match
        for piece in code
        for match in re.finditer(r"(?:^|(?<!from)[\s/])npgpt2 ([a-z]\S*)(.*)", piece)
    ]
    return [(match[1], tuple(re.findall(r"(?<!\S)--[\w-]+", match[2]))) for match in found]


def refused(command, flags):
    """Return the fault of a command; "" if the command line knows it."""
    text = help_of(command)
    if not text:
        return f"no command npgpt2 {command}"
    unknown = [flag for flag in flags if not re.search(rf"{flag}\b(?!-)", text)]
    return f"npgpt2 {command} has no {' '.join(unknown)}" if unknown else ""


@cache
def help_of(command):
    """Return the text of `npgpt2 COMMAND --help`; "" if there is no such command."""
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(io.StringIO()):
        try:
            status = cli.main([command, "--help"])
        except SystemExit as end:
            status = end.code
    return "" if status else printed.getvalue()


def extras(text):
    """Return the extras in a text: `pip install '.[hf]'`, "the extra hf"."""
    installed = re.findall(r"(?:\.|npgpt2)\[([\w,]+)\]", text)
    names = [name for names in installed for name in names.split(",")]
    return names + re.findall(r"the extra (\w+)", text)


@cache
def known_extras():
    """Return the extras that the package has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return list(project["optional-dependencies"])


# -- the documents ---------------------------------------------------------------------------------

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


@each_document
def test_what_a_document_names_exists(document):
    assert problems(document.read_text(), document) == []


@pytest.mark.parametrize(
    "text, problem",
    [
        ("[here](nowhere.md)", "no target of the link nowhere.md"),
        ("# A title\n[up](#titel)", "no target of the link #titel"),
        ("[there](LICENSE#a-heading)", "no target of the link LICENSE#a-heading"),
        ("Read `npgpt2/nowhere.py`.", "no file npgpt2/nowhere.py"),
        ("```\npython -m pytest tests/nowhere\n```", "no file tests/nowhere"),
        ("Read `nowhere/at_all.py`.", "no file nowhere/at_all.py"),
        ("Read `nowhere.py`.", "no file nowhere.py"),
        ("Read `npgpt2.nowhere`.", "no module npgpt2.nowhere"),
        ("Call `npgpt2.validate.nothing(1)`.", "no module npgpt2.validate.nothing"),
        ('See `help("autograd.nothing")`.', "no module autograd.nothing"),
        ("```\npython -m tests.nothing\n```", "no program tests.nothing"),
        ("Run `npgpt2 tran`.", "no command npgpt2 tran"),
        ("```\n.venv/bin/npgpt2 tran --out x\n```", "no command npgpt2 tran"),
        ("Run `npgpt2 train --step 5 --out x`.", "npgpt2 train has no --step"),
        ("```\npip install '.[hf,hg]'\n```", "no extra hg"),
        ("It needs the extra hg.", "no extra hg"),
    ],
)
def test_what_does_not_exist_is_found(text, problem):
    assert problems(text, README) == [problem]


def test_what_exists_is_no_problem():
    text = """
# A title, with a comma

[up](#a-title-with-a-comma), [there](benchmarks/README.md#speed-and-memory), [outside](https://example.com/no)

npgpt2 is a program. Read `npgpt2/cli.py`, `cli.py`, `autograd/`, `benchmarks/step.py`; see
`npgpt2.cli`, `npgpt2.cli.main()`, `runs/001`, `config.json`, `x / y`; install '.[hf,plot]'.

```
$ npgpt2 train --steps 5       # npgpt2 nothing
from npgpt2 import GPT2Model
python -m tests.mutation --list
```
"""
    assert problems(text, ROOT / "tests" / "README.md") == []


def test_the_readme_is_short():
    lines = README.read_text().splitlines()
    assert len(lines) <= 160
    assert [line for line in lines if len(line) > 100] == []


@each_document
def test_prose_is_at_most_100_columns_wide(document):
    lines = document.read_text().splitlines()
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


@pytest.mark.parametrize("command", ["npgpt2 train", "pytest"])
def test_the_readme_has_each_set_up_command_in_one_line(command):
    """`.ci/run` looks for the same lines, and runs them."""
    lines = re.findall(rf"^python3 -m venv .*{command}$", README.read_text(), re.MULTILINE)
    assert len(lines) == 1


# -- the map ---------------------------------------------------------------------------------------


def entries(text):
    """Return the paths in the first code block that is a tree.

    >>> entries("```\\na/    words\\n  b.py    words\\n  c/    words\\n    d.py  words\\n```\\n")
    ['a/', 'a/b.py', 'a/c/', 'a/c/d.py']
    """
    (tree, *_) = (
        block for block in re.findall(r"^```\n(.*?)^```", text, re.M | re.S) if "/ " in block
    )
    found = []
    parents = []
    for indent, name in re.findall(r"^( *)(\S+)", tree, re.M):
        del parents[len(indent) // 2 :]
        found.append("".join([*parents, name]))
        parents.append(name)
    return found


def test_the_map_shows_what_is_there():
    assert [path for path in entries(CONTRIBUTING.read_text()) if not (ROOT / path).exists()] == []


def test_every_module_is_on_the_map():
    shown = set(entries(CONTRIBUTING.read_text()))
    files = {
        str(path.relative_to(ROOT))
        for package in ("autograd", "npgpt2")
        for path in (ROOT / package).rglob("*.py")
        if not path.name.startswith("__")
    }
    exercises = {file for file in files if file.startswith("npgpt2/learn/exercises/")}
    assert sorted(files - exercises - shown) == []


# -- code of the README that no doctest runs -------------------------------------------------------


def blocks(kind):
    """Return the code blocks of the README that begin with these characters."""
    found = re.findall(r"^```\w*\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in found if block.startswith(kind)]


def test_the_session_of_practice_is_what_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    start = "npgpt2 practice softmax --start mine.py"
    assert f"`{start}`" in README.read_text()
    cli.main(start.split()[1:])
    capsys.readouterr()
    (answer,) = blocks("def softmax_backward")
    given, _, _ = Path("mine.py").read_text().partition("def softmax_backward")
    Path("mine.py").write_text(given + answer)
    (session,) = blocks("$ npgpt2 practice")
    command, _, shown = session.removeprefix("$ npgpt2 ").partition("\n")
    cli.main(command.split())
    assert capsys.readouterr().out == shown


def test_the_lines_on_hugging_face_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("safetensors")
    pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    vocabulary = Vocabulary.of("Once upon a time\n")
    config = GPT2Config(len(vocabulary), n_positions=8, n_embd=8, n_layer=1, n_head=2)
    Path("gpt2").mkdir()
    save_vocabulary(vocabulary, Path("gpt2"))
    GPT2Model(config, rng=0).save_pretrained("gpt2", eos_token_id=None)
    (lines,) = blocks("from npgpt2 import GPT2Model, Sampling, TextModel")
    exec(compile(lines, "README.md", "exec"), {})
    assert GPT2Model.from_pretrained("mine").config == config
    printed = capsys.readouterr().out
    assert 0 < len(printed) <= 50 and set(printed) < set("Once upon a time")
