"""Memory and time of the published sizes: load a directory, generate, run forward.

    python -m tests.benchmarks.memory [gpt2-small ... gpt2-xl] [--half] [--directory DIR]

The program makes directories of the real size in DIR, with random weights in float32 (or, with
`--half`, float16). DIR needs room for the largest of them (6.3 GB). A new process reads each
directory. Resident memory is the peak of the process. It includes pages of the mapped file, which
the system frees first when memory gets short. Anonymous memory does not include them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from npgpt2 import GPT2Model
from npgpt2.config import PRESETS
from tests.benchmarks.turns import ROOT, python

PROMPT, NEW, LONG = 16, 16, 1024


def make(name: str, directory: Path, half: bool) -> None:
    """Write a directory with random weights."""
    model = GPT2Model(PRESETS[name](), rng=0)
    model.save_pretrained(directory)
    if half:
        from safetensors.numpy import load_file, save_file

        path = directory / "model.safetensors"
        tensors = {name: array.astype(np.float16) for name, array in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})


def memory() -> dict[str, float]:
    """Return the peak of resident memory, and the anonymous memory, of this process in GB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {key: int(status[key].split()[0]) * 1024 / 1e9 for key in ("VmHWM", "RssAnon")}


def serve(directory: str) -> None:
    """Load, generate and run forward; print a line of JSON after each."""
    ids = np.random.default_rng(0).integers(50257, size=(1, LONG))

    def report(what: str, start: float) -> None:
        print(json.dumps({"what": what, "seconds": time.perf_counter() - start, **memory()}))

    start = time.perf_counter()
    model = GPT2Model.from_pretrained(directory)
    report("load", start)
    start = time.perf_counter()
    model.generate(ids[:, :PROMPT], NEW, temperature=0.0)
    report(f"generate {NEW}", start)
    start = time.perf_counter()
    with model.evaluating():
        model(ids)
    report(f"forward {LONG}", start)


def main() -> None:
    """Measure, and print each result at once."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.benchmarks.memory")
    parser.add_argument("presets", nargs="*", metavar="PRESET", help=f"some of {[*PRESETS]}")
    parser.add_argument("--half", action="store_true", help="write float16")
    parser.add_argument("--directory", help="where to make the directories (a temporary one)")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    for name in args.presets or PRESETS:
        with tempfile.TemporaryDirectory(dir=args.directory) as directory:
            # Another process makes the directory, so that its memory is given back.
            code = f"from tests.benchmarks.memory import *; make({name!r}, Path({directory!r}), "
            subprocess.run([sys.executable, "-c", f"{code}{args.half})"], cwd=ROOT, check=True)
            size = sum(path.stat().st_size for path in Path(directory).iterdir()) / 1e9
            print(f"{name}, {'float16' if args.half else 'float32'}, {size:.2f} GB", flush=True)
            command = python("tests.benchmarks.memory", "--serve", directory)
            done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            for line in map(json.loads, done.stdout.splitlines()):
                print(
                    f"  {line['what']:14}{line['seconds']:8.2f} s   resident {line['VmHWM']:6.2f} "
                    f"GB at most, anonymous {line['RssAnon']:6.2f} GB afterwards",
                    flush=True,
                )


if __name__ == "__main__":
    main()
