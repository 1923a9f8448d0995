"""Lines about work that goes on, for logs: where it starts and ends, and every so often between."""

from __future__ import annotations

from critmass.progress import spoken


def told(steps, **settings):
    lines: list[str] = []
    now = [0.0]
    tell = spoken(lines.append, clock=lambda: now[0], **settings)
    for seconds, what, done, total in steps:
        now[0] = seconds
        tell(what, done, total)
    return lines


def test_six_minutes_of_work_are_not_silent():
    steps = [(second, "extracting", 100 * second, 36_000) for second in range(361)]
    lines = told(steps, every=20.0)
    assert lines[0] == "extracting: 0/36000"
    assert lines[-1] == "extracting: 36000/36000"
    assert lines[1] == "extracting: 2000/36000, 100 a second, 6 min left"
    assert lines[15] == "extracting: 30000/36000, 100 a second, 60 s left"
    assert len(lines) == 2 + 17


def test_short_work_says_two_lines_only():
    assert told([(0, "a", 0, 3), (1, "a", 1, 3), (2, "a", 3, 3)]) == ["a: 0/3", "a: 3/3"]


def test_what_was_done_before_is_no_speed():
    lines = told([(0, "x", 900, 1000), (100, "x", 950, 1000)])
    assert lines[1] == "x: 950/1000, 0.5 a second, 100 s left".replace("100 s", "2 min")


def test_work_of_one_name_that_begins_again_is_timed_anew():
    lines = told([(0, "x", 0, 10), (10, "x", 10, 10), (1000, "x", 0, 10), (1030, "x", 3, 10)])
    assert lines[-1] == "x: 3/10, 0.1 a second, 70 s left"
