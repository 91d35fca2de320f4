"""The modules that `import npgpt2` loads, and the error if it finds another `autograd`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python(code, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60
    )


def test_numpy_is_the_only_third_party_import():
    done = python(
        "import sys, sysconfig\n"
        "import npgpt2, npgpt2.cli, npgpt2.disk.huggingface, npgpt2.training.trainer\n"
        "top = {name.partition('.')[0] for name in sys.modules}\n"
        "ours = {'autograd', 'npgpt2', '__main__'}\n"
        "print(*sorted(n for n in top - ours - set(sys.stdlib_module_names)\n"
        "              if getattr(sys.modules.get(n), '__file__', None)))\n"
    )
    assert done.stderr == ""
    third_party = {name for name in done.stdout.split() if not name.startswith("_")}
    assert third_party == {"numpy"}


def test_import_is_quick_beside_numpy():
    """Our own modules take far less than the half second allowed; NumPy itself is not counted."""
    done = python(
        "import time, numpy, numpy.typing\n"
        "start = time.process_time()\n"
        "import npgpt2\n"
        "print(time.process_time() - start)\n"
    )
    assert float(done.stdout) < 0.4, done.stderr


def test_a_type_checker_notices_a_name_that_does_not_exist():
    """It must not see the module's `__getattr__`: with one, it accepts every name."""
    statements = ast.parse((ROOT / "npgpt2" / "__init__.py").read_text(encoding="utf-8")).body
    assert "__getattr__" not in {getattr(statement, "name", "") for statement in statements}


def test_another_autograd_in_its_place_is_named(tmp_path):
    (tmp_path / "autograd").mkdir()
    (tmp_path / "autograd" / "__init__.py").write_text("def grad(f): ...\n")
    # ROOT comes second, before an installed npgpt2 and after the folder with the other autograd.
    done = python(f"import sys; sys.path.insert(1, {str(ROOT)!r}); import npgpt2", cwd=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: npgpt2 needs its own package `autograd`")
    assert str(tmp_path / "autograd") in last


def test_python_m_npgpt2_runs_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "npgpt2", "params", "gpt2-small"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].split() == ["total", "=", "124,439,808"]
