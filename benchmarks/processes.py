"""Processes of the suite: pinned to cores, ready when they answer, ended by their id."""

import http.client
import os
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 60
ASK_TIMEOUT_S = 10
STOP_TIMEOUT_S = 20

ALL_CORES = sorted(os.sched_getaffinity(0))
# Who is measured has the first core for itself; agent, load and PostgreSQL share the others.
MEASURED_CORE = ALL_CORES[:1]
OTHER_CORES = ALL_CORES[1:] or ALL_CORES


class NotStartedError(Exception):
    """A process does not answer; the message has the end of its log."""


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    log: Path,
    cores: Sequence[int] = MEASURED_CORE,
    environment: Mapping[str, str] | None = None,
    folder: Path = ROOT,
) -> Iterator[int]:
    """A process that answers on a port, by its id; all it starts is on the same cores."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**_inherited(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    try:
        _wait_until_it_answers(process, port, log)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _inherited() -> dict[str, str]:
    """The environment, without the settings of whatever gateway this shell is set up for."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            break
        try:
            ask(port, "/healthz")
            return
        except OSError:
            time.sleep(0.05)
    raise NotStartedError(f"{process.args!r} does not answer:\n{log.read_text()[-2000:]}")


def ask(port: int, path: str) -> bytes:
    """The body of an answer, whatever its status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ASK_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def metric_total(port: int, name: bytes) -> int:
    """A gateway's counter, summed over its labels."""
    lines = [line for line in ask(port, "/metrics").splitlines() if line.startswith(name)]
    return round(sum(float(line.rpartition(b" ")[2]) for line in lines))


def workers_below(process_id: int) -> list[psutil.Process]:
    """The processes that serve, of a gateway's main process, or of all that somebody started."""
    workers = []
    for child in psutil.Process(process_id).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if {"gateway", "worker"} <= set(child.cmdline()):
                workers.append(child)
    return workers


def memory_per_worker_bytes(process_id: int) -> float:
    """What each process that serves holds for itself alone (USS): those below, else itself."""
    process = psutil.Process(process_id)
    workers = process.children() or [process]
    return statistics.mean(int(each.memory_full_info().uss) for each in workers)


def cpu_s(process_ids: Sequence[int]) -> float:
    """The processor time that processes have used so far."""
    times = [psutil.Process(each).cpu_times() for each in process_ids]
    return float(sum(each.user + each.system for each in times))
