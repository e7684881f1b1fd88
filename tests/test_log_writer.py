"""Writing log lines: nobody who logs waits, and lines that are lost are counted and reported."""

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import log_writer
from gateway.log_writer import LogWriter
from tests.pipes import SIZE_BYTES, SmallPipe, small_pipe
from tests.running import until

BUFFER_BYTES = 20_000


def loss_line(count: int) -> bytes:
    return b"lost %d" % count


def loss_lines(pipe: SmallPipe) -> list[bytes]:
    """The losses that were reported."""
    return [line for line in pipe.lines() if line.startswith(b"lost")]


def numbered(count: int) -> list[bytes]:
    """Lines that differ, longer than their mean number in one write."""
    return [b"%d " % number + b"x" * (number % 300) for number in range(count)]


@pytest.fixture
def pipe() -> Iterator[SmallPipe]:
    with small_pipe() as pipe:
        yield pipe


@pytest.fixture
def writer(pipe: SmallPipe) -> Iterator[LogWriter]:
    """Writes into the pipe."""
    writer = LogWriter(pipe.stream, loss_line, BUFFER_BYTES)
    yield writer
    writer.end(timeout_s=0)
    # The thread may wait for the pipe: what it waits for comes, and it ends.
    while writer.is_running:
        pipe.read()


async def test_lines_come_out_in_their_order(pipe: SmallPipe, writer: LogWriter) -> None:
    lines = numbered(100)
    for line in lines:
        writer.write(line)
    await until(lambda: pipe.lines() == lines)
    assert writer.lost_count == 0


async def test_pipe_that_is_not_read_holds_up_nobody_and_loses_what_the_buffer_does_not_hold(
    pipe: SmallPipe, writer: LogWriter
) -> None:
    lines = numbered(1000)
    for line in lines:
        writer.write_now(line)
    assert not writer.flush(timeout_s=0)
    kept_count = len(lines) - writer.lost_count
    await until(lambda: len(pipe.lines()) == kept_count + 1)
    kept = [line for line in pipe.lines() if line != loss_line(writer.lost_count)]
    assert kept == [line for line in lines if line in set(kept)]
    # Kept were those in the buffer, in the pipe, and between the two.
    kept_bytes = sum(len(line) + 1 for line in kept)
    assert BUFFER_BYTES - 300 < kept_bytes <= BUFFER_BYTES + 2 * SIZE_BYTES
    # There is room again.
    writer.write(b"after")
    await until(lambda: pipe.lines()[-1] == b"after")


async def test_reader_that_is_slow_makes_room_before_it_has_read_everything(
    pipe: SmallPipe, writer: LogWriter
) -> None:
    for line in numbered(1000):
        writer.write_now(line)
    read_bytes = 0
    while read_bytes < 2 * SIZE_BYTES:
        read_bytes += pipe.read_page()

    def takes_a_line() -> bool:
        lost_count = writer.lost_count
        writer.write(b"line")
        return writer.lost_count == lost_count

    await until(takes_a_line)
    assert read_bytes < BUFFER_BYTES


async def test_second_loss_is_reported_without_the_first(
    pipe: SmallPipe, writer: LogWriter
) -> None:
    for number in (1, 2):
        before = writer.lost_count
        for line in numbered(1000):
            writer.write(line)
        report = loss_line(writer.lost_count - before)
        await until(lambda number=number: len(loss_lines(pipe)) == number)
        assert loss_lines(pipe)[-1] == report


async def test_urgent_line_is_written_at_once_and_others_follow_by_themselves(
    pipe: SmallPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "WRITE_INTERVAL_S", 3600)
    writer = LogWriter(pipe.stream, loss_line)
    writer.write(b"first")
    writer.write_now(b"second")
    await until(lambda: pipe.lines() == [b"first", b"second"])
    writer.end()


async def test_lines_of_several_threads_stay_whole(pipe: SmallPipe, writer: LogWriter) -> None:
    lines = [bytes([letter]) * 199 for letter in b"abcd"]
    threads = [
        threading.Thread(target=lambda line=line: [writer.write_now(line) for _ in range(20)])
        for line in lines
    ]
    for thread in threads:
        thread.start()
    await until(lambda: len(pipe.lines()) == 80)
    for thread in threads:
        thread.join()
    assert sorted(pipe.lines()) == sorted(20 * lines)


async def test_lines_of_two_processes_on_one_pipe_stay_whole(
    pipe: SmallPipe, writer: LogWriter
) -> None:
    # As far as the pipe is concerned, another thread is another process.
    other = LogWriter(pipe.stream, loss_line)
    lines = numbered(150)
    for line in lines:
        writer.write(line)
        other.write(b"other " + line)
    # Both are in the middle of it before the pipe is read.
    assert not writer.flush(timeout_s=0.1)
    assert not other.flush(timeout_s=0.1)
    await until(lambda: len(pipe.lines()) == 300)
    assert [line for line in pipe.lines() if not line.startswith(b"other")] == lines
    other.end()


async def test_pipe_that_does_not_block_gets_every_byte(pipe: SmallPipe, writer: LogWriter) -> None:
    os.set_blocking(pipe.stream.fileno(), False)
    lines = [*numbered(50), b"longer than the pipe" * 1000]
    writer.flush(timeout_s=1)
    for line in lines[:-1]:
        writer.write(line)
    await until(lambda: pipe.lines() == lines[:-1])
    large = LogWriter(pipe.stream, loss_line)
    large.write(lines[-1])
    await until(lambda: pipe.lines() == lines)
    large.end()


async def test_lines_that_no_reader_is_left_for_are_counted_once(
    pipe: SmallPipe, writer: LogWriter
) -> None:
    pipe.leave()
    for line in numbered(10):
        writer.write(line)
    assert writer.flush(timeout_s=10)
    assert writer.lost_count == 10
    assert writer.flush(timeout_s=10)
    assert writer.lost_count == 10


async def test_lines_for_a_stream_that_was_closed_are_counted(
    pipe: SmallPipe, writer: LogWriter
) -> None:
    pipe.stream.close()
    writer.write(b"line")
    assert writer.flush(timeout_s=10)
    assert writer.lost_count == 1


def test_disk_that_is_full_tears_no_later_line(tmp_path: Path) -> None:
    # In a process of its own, because the limit holds for all files of a process.
    program = (
        "import resource, sys\n"
        "from gateway.log_writer import LogWriter\n"
        "writer = LogWriter(sys.stderr, lambda count: b'lost %d' % count)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))\n"
        "for line in (b'whole', b'torn in two', b'lost'):\n"
        "    writer.write(line)\n"
        "writer.flush(10)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)\n"
        "writer.write(b'after')\n"
        "writer.end(10)\n"
        "assert writer.lost_count == 2\n"
    )
    log = tmp_path / "log"
    with log.open("wb") as file:
        subprocess.run([sys.executable, "-c", program], stderr=file, check=True, timeout=60)
    assert log.read_text() == "whole\ntorn\nafter\nlost 2\n"


async def test_end_waits_for_lines_that_can_be_written_and_for_no_others(
    pipe: SmallPipe, writer: LogWriter
) -> None:
    for line in numbered(1000):
        writer.write(line)
    writer.end(timeout_s=0.01)
    lost_count = writer.lost_count
    writer.write(b"too late")
    assert writer.lost_count == lost_count + 1


async def test_line_after_the_end_is_written_where_it_is_logged(
    pipe: SmallPipe, writer: LogWriter
) -> None:
    writer.write(b"first")
    writer.end()
    assert pipe.lines() == [b"first"]
    writer.write_now(b"second")
    assert pipe.lines() == [b"first", b"second"]
    # Unless that would have to wait.
    for line in numbered(100):
        writer.write(line)
    assert writer.lost_count > 0


async def test_stream_that_is_no_file_gets_the_lines_too() -> None:
    stream = io.TextIOWrapper(io.BytesIO())
    writer = LogWriter(stream, loss_line)
    writer.write(b"first")
    writer.end()
    writer.write(b"second")
    assert stream.buffer.getvalue() == b"first\nsecond\n"
