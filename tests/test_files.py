"""Files that are replaced whole, and JSON lines read while they are written."""

import json
from pathlib import Path

import pytest

from dopr.core.files import replacing, write_atomically
from dopr.core.json_lines import (
    NewLines,
    append_line,
    keep_lines_until,
    parse_line,
    read_lines,
    read_steps,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "done.json"
    write_atomically(file, "old")

    def fail_halfway() -> None:
        with replacing(file) as partial:
            partial.write_text("ne")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail_halfway()
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_text_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    write_atomically(tmp_path / "text", "größer\n")
    write_atomically(tmp_path / "bytes", b"\xff\r\n")
    assert (tmp_path / "text").read_bytes() == "größer\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\xff\r\n"


def test_a_half_written_line_waits_for_its_end(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = NewLines(file)
    assert lines.read() == []
    file.write_text('{"a": 1}\n{"a":')
    assert lines.read() == [{"a": 1}] and lines.rest == '{"a":'
    file.write_text('{"a": 1}\n{"a": 2}\n')
    assert lines.read() == [{"a": 2}] and lines.read() == []
    assert lines.passed_over == 0


def test_lines_that_are_no_objects_are_passed_over_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": 1}\n\n[1]\n{"a"\n\xff\n{"b": "\xff"}\n')
    lines = NewLines(file)
    assert lines.read() == [{"a": 1}, {"b": "\ufffd"}] == read_lines(file)
    assert lines.passed_over == 3
    assert parse_line("[" * 100_000) is None


def test_steps_that_are_no_numbers_follow_the_last(tmp_path: Path) -> None:
    file, notes = tmp_path / "metrics.jsonl", list[str]()
    rows = [{"step": 4, "a": 1}, {"a": 2}, {"step": "x", "a": 3}, {"step": 10**400, "a": 4}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 2}')
    assert [row["step"] for row in read_steps(file, notes)] == [2, 4, 5, 6, 7]
    assert not notes and read_steps(tmp_path / "none.jsonl", notes) == []


def test_a_run_that_goes_back_drops_what_came_later(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        append_line(file, {"step": step, "loss": float("nan")})
    with open(file, "a") as end:
        end.write('{"step": 1, "cu')
    keep_lines_until(file, 2)
    assert read_lines(file) == [{"step": 1, "loss": None}, {"step": 2, "loss": None}]
