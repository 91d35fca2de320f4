"""Progress on a terminal and elsewhere."""

from __future__ import annotations

import io

from npgpt2.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_one_line_that_is_rewritten():
    stream = Terminal()
    progress = Progress(10, stream=stream)
    progress.update(1, "loss 10.000", milestone=True)
    progress.update(2, "loss 9.0", milestone=True)
    progress.close()
    text = stream.getvalue()
    assert text.count("\n") == 1 and text.endswith("\n")
    first, second = text[1:-1].split("\r")
    assert first.startswith("step 1/10  loss 10.000  ") and first.endswith(" left")
    assert second.startswith("step 2/10  loss 9.0  ")
    assert len(second) >= len(first), "the longer line before must be covered"


def test_elsewhere_milestones_are_plain_lines_and_the_rest_is_rare():
    stream = io.StringIO()
    progress = Progress(4, stream=stream)
    for step in range(1, 5):
        progress.update(step, "x", milestone=step % 2 == 0)
    progress.close()
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["2/4", "4/4"]
    assert "\r" not in stream.getvalue()
    assert lines[-1].endswith("0:00 left")


def test_a_terminal_is_refreshed_a_few_times_a_second_and_milestones_always_show():
    stream = Terminal()
    progress = Progress(1000, stream=stream)
    for step in range(1, 100):
        progress.update(step, "x")
    assert stream.getvalue().count("\r") <= 1, "99 updates within 0.1 seconds or so"
    progress.last -= 0.2  # as if 0.2 seconds had gone by
    progress.update(500, "x")
    assert "\rstep 500/1000  x  " in stream.getvalue()
    progress.close()
    progress.close()
    assert stream.getvalue().count("\n") == 1


def test_time_left_counts_only_the_steps_since_the_start():
    stream = io.StringIO()
    progress = Progress(100, done=90, stream=stream)
    progress.start -= 5.0  # as if five seconds had gone by
    progress.update(95, "x", milestone=True)
    assert stream.getvalue() == "step 95/100  x  0:05 left\n"
