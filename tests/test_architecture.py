"""Each module imports only the modules that it may import, and no imports form a circle.

Every import counts, also an import inside a function or for type checkers alone.
"""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ENGINE = (
    "autograd autograd.backward autograd.rows autograd.ownership autograd.tensor autograd.einsum "
    "autograd.check autograd.comparison autograd.difference autograd.evaluation autograd.verdict"
)

# A room is a directory, or a file at the top of a package. Each may import the rooms named here,
# besides itself; a room that is not named imports nothing of ours.
ALLOWED = {
    # reverse mode: knows nothing of GPT-2
    "autograd.ownership": "autograd.rows",
    "autograd.tensor": "autograd.backward autograd.rows autograd.ownership",
    "autograd.einsum": "autograd.rows autograd.tensor",
    "autograd.numpy_protocols": "autograd.rows autograd.tensor autograd.einsum",
    "autograd.difference": "autograd.rows",
    "autograd.evaluation": "autograd.rows autograd.tensor autograd.difference",
    "autograd.comparison": "autograd.rows autograd.tensor autograd.difference "
    "autograd.evaluation autograd.verdict",
    "autograd.check": "autograd.rows autograd.tensor autograd.evaluation autograd.comparison "
    "autograd.verdict",
    "autograd": "autograd.rows autograd.tensor autograd.einsum autograd.numpy_protocols "
    "autograd.check autograd.verdict",
    "autograd.testing": "autograd autograd.rows autograd.tensor autograd.einsum autograd.check "
    "autograd.verdict",
    # configuration, and how work is spread over a machine
    "npgpt2.config": "npgpt2.validate",
    "npgpt2.parameter_table": "npgpt2.config",
    "npgpt2.machine": "autograd",
    # the ops and layers
    "npgpt2.composed": "autograd",
    "npgpt2.cache": "autograd npgpt2.validate npgpt2.config",
    "npgpt2.functional": "autograd npgpt2.validate npgpt2.machine npgpt2.cache",
    "npgpt2.module": "autograd npgpt2.validate",
    "npgpt2.layers": "autograd npgpt2.validate npgpt2.functional npgpt2.module",
    "npgpt2.optim": "autograd npgpt2.validate npgpt2.machine",
    # files: configurations, arrays and bytes, never a model
    "npgpt2.disk": "autograd npgpt2.validate npgpt2.config npgpt2.machine",
    # the output of a model: knows a LanguageModel by Protocol alone
    "npgpt2.generation": "autograd npgpt2.validate npgpt2.progress npgpt2.config npgpt2.cache "
    "npgpt2.module",
    # the model, which also generates, and reads and writes its files; then its training
    "npgpt2.model": "autograd npgpt2.validate npgpt2.config npgpt2.parameter_table npgpt2.cache "
    "npgpt2.functional npgpt2.module npgpt2.layers npgpt2.generation npgpt2.disk",
    "npgpt2.training": "autograd npgpt2.validate npgpt2.progress npgpt2.config npgpt2.module "
    "npgpt2.parameter_table npgpt2.layers npgpt2.optim npgpt2.model npgpt2.machine npgpt2.disk",
    # the entry points
    "npgpt2.text": "autograd npgpt2.validate npgpt2.config npgpt2.model npgpt2.generation "
    "npgpt2.disk npgpt2.training",
    "npgpt2.testing": "autograd.tensor autograd.testing npgpt2.config npgpt2.composed "
    "npgpt2.functional",
    "npgpt2.interrupt": "",
    "npgpt2": "autograd npgpt2.interrupt npgpt2.config npgpt2.composed npgpt2.functional "
    "npgpt2.module npgpt2.layers npgpt2.model npgpt2.optim npgpt2.generation npgpt2.training "
    "npgpt2.text",
    "npgpt2.__main__": "npgpt2.cli",
}
LIBRARY = " ".join(room for room in ALLOWED if room.startswith("npgpt2") and "main" not in room)
ALLOWED["npgpt2.learn"] = f"{ENGINE} npgpt2.validate npgpt2.progress {LIBRARY}"
ALLOWED["npgpt2.cli"] = f"npgpt2.validate npgpt2.progress npgpt2.learn {LIBRARY}"

Graph = dict[str, set[str]]


def modules(root):
    """Return all modules of both packages, by name."""
    files = [path for package in ("autograd", "npgpt2") for path in (root / package).rglob("*.py")]
    return {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


def graph_of(root):
    """Return the imports of each module, as names of modules."""
    known, graph = modules(root), Graph()
    for name, file in known.items():
        graph[name] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{name} has a relative import"
                full = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
                graph[name] |= {f if f in known else node.module for f in full.values()}
    return graph


def room_of(module):
    """Return the room that a module lies in: npgpt2.disk for npgpt2.disk.files."""
    return ".".join(module.split(".")[:2])


def may_import(module, other):
    """Whether ALLOWED lets a module import another one."""
    room, others = room_of(module), ALLOWED.get(room_of(module), "").split()
    return room_of(other) in (room, *others)


def circle_in(graph):
    """Return the modules of a circle, in order; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


GRAPH = graph_of(ROOT)
OURS = {name: {other for other in others if other in GRAPH} for name, others in GRAPH.items()}


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_a_module_imports_only_what_it_may(module):
    assert [other for other in sorted(OURS[module]) if not may_import(module, other)] == []


def test_no_module_imports_itself_in_a_circle():
    assert circle_in(OURS) == []


def test_rooms_have_no_circle_either():
    rooms = Graph()
    for module, others in OURS.items():
        rooms.setdefault(room_of(module), set()).update(map(room_of, others))
    assert circle_in({room: others - {room} for room, others in rooms.items()}) == []


def test_the_backward_pass_imports_neither_numpy_nor_tensors():
    assert GRAPH["autograd.backward"] <= set(sys.stdlib_module_names) | {"collections.abc"}


def test_torch_is_imported_by_tests_alone():
    assert [name for name, others in GRAPH.items() if "torch" in str(others)] == []


def test_the_table_names_modules_that_exist():
    named = {name for room, others in ALLOWED.items() for name in (room, *others.split())}
    assert named <= GRAPH.keys() == modules(ROOT).keys()


def test_a_circle_of_lazy_imports_and_imports_for_type_checkers_is_found(tmp_path):
    for package in ("autograd", "npgpt2"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "npgpt2/a.py").write_text("def f():\n    from npgpt2 import b\n")
    (tmp_path / "npgpt2/b.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from npgpt2.a import f\n"
    )
    assert circle_in(graph_of(tmp_path)) != []
    (tmp_path / "npgpt2/b.py").write_text("import npgpt2.c\n")
    assert circle_in(graph_of(tmp_path)) == []


@pytest.mark.parametrize(
    "module, other",
    [
        ("npgpt2.disk.checkpoint", "npgpt2.model"),
        ("npgpt2.generation.sampling", "npgpt2.training.data"),
        ("npgpt2.machine.ranks", "npgpt2.layers"),
        ("npgpt2.functional", "npgpt2.learn.trace"),
        ("npgpt2.text", "npgpt2.cli"),
        ("npgpt2.learn.trace", "npgpt2.cli"),
        ("autograd.tensor", "autograd.testing.strategies"),
        ("autograd.check", "npgpt2.validate"),
    ],
)
def test_an_arrow_that_points_up_is_refused(module, other):
    assert not may_import(module, other)
