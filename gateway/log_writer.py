"""Log lines written by a thread of their own, from a buffer with a limit.

A pipe that nobody reads fills up, and then a write to it does not return: the event loop must not
be what waits there. To log a line only appends it to the buffer.
"""

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import TextIO

# What may wait to be written; a line beyond it is lost.
BUFFER_BYTES_MAX = 1 << 20
WRITE_INTERVAL_S = 0.05
# Between two writes, so that a burst of warnings does not wake the thread for each of them.
REST_S = 0.005
# How long a stream that takes nothing holds up the end of the process.
END_TIMEOUT_S = 0.5


class LogWriter:
    """Writes lines to a stream in their order, each of them whole.

    Adding a line takes no lock: the garbage collector may run in the middle of it and log a line
    itself. The two counts of bytes have one writer each. Threads that add lines at the same instant
    may miscount; that is corrected whenever the buffer is empty.
    """

    def __init__(
        self,
        stream: TextIO,
        loss_line: Callable[[int], bytes],
        bytes_max: int = BUFFER_BYTES_MAX,
    ) -> None:
        self._stream = stream
        self._has_descriptor = _has_descriptor(stream)
        self._loss_line = loss_line
        self._bytes_max = bytes_max
        self._lines: deque[bytes] = deque()
        self._added_bytes = 0
        self._written_bytes = 0
        self._refused_count = 0
        self._unwritten_count = 0
        self._reported_count = 0
        self._is_torn = False
        self._is_ending = False
        # None waits until the stream takes more.
        self._patience_ms: int | None = None
        # Released when a line is urgent. Not an Event, which holds a lock while it is set.
        self._urgent = threading.Lock()
        self._urgent.acquire()
        self._flushes: deque[threading.Event] = deque()
        # A daemon: the end of the process does not wait for it.
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def lost_count(self) -> int:
        """How many lines were lost: the buffer was full, or the stream failed."""
        return self._refused_count + self._unwritten_count

    @property
    def is_running(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def write(self, line: bytes) -> None:
        """Have a line, given without its line break, written within 50 ms."""
        if self._added_bytes - self._written_bytes + len(line) >= self._bytes_max:
            self._refuse(line)
            return
        self._lines.append(line)
        self._added_bytes += len(line) + 1

    def write_now(self, line: bytes) -> None:
        """Have a line written at once, after those before it."""
        self.write(line)
        self._wake()

    def flush(self, timeout_s: float) -> bool:
        """Wait until every line so far is written; False if that took too long."""
        if not self.is_running:
            return True
        flushed = threading.Event()
        self._flushes.append(flushed)
        self._wake()
        return flushed.wait(timeout_s)

    def end(self, timeout_s: float = END_TIMEOUT_S) -> None:
        """Write what is there and end the thread; a later line is written where it is logged."""
        self._is_ending = True
        self._wake()
        self._thread.join(timeout_s)
        self._bytes_max = 0
        self._patience_ms = 0

    def _wake(self) -> None:
        with suppress(RuntimeError):  # awake already
            self._urgent.release()

    def _refuse(self, line: bytes) -> None:
        if self.is_running or not self._is_writable():
            self._refused_count += 1
        else:
            self._put([line])

    def _run(self) -> None:
        is_last = False
        while not is_last:
            self._urgent.acquire(timeout=WRITE_INTERVAL_S)
            is_last = self._is_ending
            self._write_buffer()
            if not is_last:
                time.sleep(REST_S)

    def _write_buffer(self) -> None:
        flushes = [self._flushes.popleft() for _ in range(len(self._flushes))]
        if self._write_lines(len(self._lines)):
            self._report_losses()
        for flushed in flushes:
            flushed.set()

    def _write_lines(self, count: int) -> bool:
        """Write so many lines; whether the stream took the last of them."""
        # Not until none is left, which may never be: lines can come faster than they are read.
        is_taking = False
        while count > 0:
            lines = self._take(count)
            count -= len(lines)
            is_taking = self._put(lines)
            self._written_bytes += sum(map(len, lines)) + len(lines)
        added_bytes = self._added_bytes
        if not self._lines:
            self._written_bytes = added_bytes
        return is_taking

    def _take(self, count_max: int) -> list[bytes]:
        """The next lines that a pipe takes in one piece, or a single longer one."""
        lines = [self._lines.popleft()]
        size = len(lines[0]) + 1
        # Other processes write to the same pipe: longer pieces would be mixed with theirs.
        while len(lines) < count_max and size + len(self._lines[0]) < select.PIPE_BUF:
            lines.append(self._lines.popleft())
            size += len(lines[-1]) + 1
        return lines

    def _report_losses(self) -> None:
        lost_count = self.lost_count
        if lost_count > self._reported_count:
            line = self._loss_line(lost_count - self._reported_count)
            if self._put([line]):
                self._reported_count = lost_count

    def _put(self, lines: Sequence[bytes]) -> bool:
        """Write lines and count those that the stream did not take; whether it took them all."""
        start = b"\n" if self._is_torn else b""
        block = start + b"\n".join(lines) + b"\n"
        written = self._write_bytes(block)
        if written > 0:
            self._is_torn = block[written - 1 : written] != b"\n"
        if written == len(block):
            return True
        ends = accumulate((len(line) + 1 for line in lines[1:]), initial=len(start + lines[0]) + 1)
        self._unwritten_count += sum(end > written for end in ends)
        return False

    def _write_bytes(self, block: bytes) -> int:
        """Write to the stream; how much it took, which is all unless it fails."""
        written = 0
        # The reader is gone, the disk full, the stream closed: the lines are counted as lost.
        with suppress(OSError, ValueError):
            while written < len(block):
                try:
                    written += self._write_some(block[written:])
                except BlockingIOError:
                    if not self._is_writable():
                        break
        return written

    def _write_some(self, piece: bytes) -> int:
        # Not through the stream's own buffer, whose lock would hold up the interpreter's end.
        if self._has_descriptor:
            return os.write(self._stream.fileno(), piece)
        self._stream.buffer.write(piece)
        self._stream.buffer.flush()
        return len(piece)

    def _is_writable(self) -> bool:
        """Wait until the stream takes more, or fails; False if it does not in time."""
        if not self._has_descriptor:
            return True
        with suppress(OSError, ValueError):
            waiting = select.poll()
            waiting.register(self._stream.fileno(), select.POLLOUT)
            return bool(waiting.poll(self._patience_ms))
        return False


def _has_descriptor(stream: TextIO) -> bool:
    try:
        stream.fileno()
    except OSError:  # io.UnsupportedOperation
        return False
    return True
