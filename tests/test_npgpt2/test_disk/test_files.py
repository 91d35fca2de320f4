"""Files are replaced whole or not at all, and errors name them."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess

import pytest

from npgpt2.disk.files import as_argument, read_json, write_atomically, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half of the new")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_names_its_file(tmp_path):
    def fail(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device: .*file'") as error:
        write_atomically(tmp_path / "file", fail)
    assert error.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="nowhere/file"):
        write_atomically(tmp_path / "nowhere" / "file", fail)


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", lambda file: file.write(b"new"))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


def test_a_directory_in_the_way_is_named_and_no_temporary_file(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match=r"taken'$"):
        write_atomically(tmp_path / "taken", lambda file: file.write(b"new"))


def test_an_error_that_is_not_of_the_operating_system_keeps_its_words(tmp_path):
    def write(file):
        raise OSError("the tape is full")

    with pytest.raises(OSError, match="^the tape is full$"):
        write_atomically(tmp_path / "x", write)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff", b"[]", b"null"])
def test_json_that_is_no_object_is_an_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is damaged: "):
        read_json(path)
    write_json(path, {"a": [1, 2]})
    assert read_json(path) == {"a": [1, 2]}


PATHS = ["plain", "two  words", "it's", 'say "hi"', "$HOME", "`id`", "-dash", "--help", "a\nb"]
PATHS += ["Zürich"]
PATHS += ["tab\there", "\x1b[31m", "é\u2028x", "back\\slash\n'", "~", "*", "", "\u00a0", "#x", "!x"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("path", [*PATHS, os.fsdecode(b"\xff9'")])
def test_a_path_in_a_command_is_the_path_that_the_shell_passes_on(path):
    typed = as_argument(path)
    assert typed.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {typed}"], capture_output=True, timeout=60)
    expected = f"./{path}" if path.startswith("-") else path
    assert os.fsdecode(done.stdout) == expected
    assert not typed.startswith("-")
