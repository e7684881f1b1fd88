"""Who is measured: the gateway, other checkouts of it, and its peers. Each is a context."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.processes import MEASURED_CORE, OTHER_CORES, free_port, running

WORKSPACES = 16
LITELLM_VARIABLE = "BENCHMARK_LITELLM"

A2A_CALL = (
    b'{"jsonrpc":"2.0","id":1,"method":"message/send","params":{"message":{"messageId":"1",'
    b'"role":"user","parts":[{"kind":"text","text":"%b"}]}}}'
)
CHAT_CALL = b'{"model":"mocked","messages":[{"role":"user","content":"%b"}]}'

# What fills the body of a call.
WORDS = b"Please summarise the meeting of last Tuesday, and say who promised what. "


class NotInstalledError(Exception):
    """This peer is not on this machine; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """Something that answers calls on a port."""

    name: str
    port: int
    process_id: int
    call_format: bytes = A2A_CALL
    fixed_path: str | None = None

    def paths(self, tail: str = "", count: int = WORKSPACES) -> list[str]:
        """Where calls go, to all workspaces in turn."""
        if self.fixed_path is not None:
            return [self.fixed_path]
        return [f"/workspaces/w{number}/a2a{tail}" for number in range(1, count + 1)]

    def body(self, size_bytes: int) -> bytes:
        """A call of that size."""
        padding = size_bytes - len(self.call_format) + len("%b")
        return self.call_format % ((WORDS * (padding // len(WORDS) + 1))[:padding])


@dataclass(frozen=True, slots=True)
class Place:
    """Where contestants run: a folder, the agent's port, the DSN of the peers' ledger."""

    folder: Path
    agent_port: int
    dsn: str

    def log(self, name: str) -> Path:
        """The file that a contestant logs to."""
        return self.folder / f"{name.replace(' ', '-')}.log"


@contextmanager
def agent(folder: Path) -> Iterator[Contestant]:
    """The agent itself; calling it is calling without a proxy."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.agent", str(port)]
    with running(command, port, folder / "agent.log", OTHER_CORES) as process_id:
        yield Contestant("no proxy", port, process_id)


@contextmanager
def gateway(
    name: str,
    checkout: Path,
    dsn: str,
    log: Path,
    cores: Sequence[int] = MEASURED_CORE,
    port: int | None = None,
    **settings: object,
) -> Iterator[Contestant]:
    """`gateway serve` of a checkout, with `section__key` settings; on a free port by default."""
    port = port or free_port()
    environment = {
        "PYTHONPATH": str(checkout),
        "GATEWAY_SERVER__PORT": str(port),
        "GATEWAY_SERVER__DRAIN_TIMEOUT_S": "0",
        "GATEWAY_DATABASE__DSN": dsn,
        "GATEWAY_LOG__FORMAT": "json",
        **{f"GATEWAY_{key.upper()}": str(setting) for key, setting in settings.items()},
    }
    command = [sys.executable, "-m", "gateway", "serve"]
    with running(command, port, log, cores, environment, checkout) as process_id:
        yield Contestant(name, port, process_id)


@contextmanager
def nginx(place: Place) -> Iterator[Contestant]:
    """nginx with nothing but proxy_pass, connections to the agent kept alive."""
    locations = "location / { proxy_pass http://agent; }"
    upstreams = _upstream("agent", place.agent_port)
    with _nginx("nginx", place, upstreams, locations) as contestant:
        yield contestant


@contextmanager
def nginx_with_check(place: Place) -> Iterator[Contestant]:
    """nginx that asks a small service, which runs the plain sum, before every call."""
    locations = """
        location / { auth_request /check; proxy_pass http://agent; }
        location = /check {
            internal;
            proxy_pass http://check$request_uri;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
        }
    """
    with _naive("check", "sum", place) as check:
        upstreams = _upstream("agent", place.agent_port) + _upstream("check", check.port)
        with _nginx("nginx auth_request", place, upstreams, locations) as contestant:
            yield contestant


@contextmanager
def litellm(place: Place) -> Iterator[Contestant]:
    """The LiteLLM proxy, one worker, no database; it answers by itself, which is generous."""
    program = os.environ.get(LITELLM_VARIABLE) or shutil.which("litellm")
    if program is None:
        raise NotInstalledError(f"LiteLLM is not installed ({LITELLM_VARIABLE} names its program)")
    config, port = place.folder / "litellm.yaml", free_port()
    config.write_text(
        "model_list:\n"
        "  - model_name: mocked\n"
        "    litellm_params: {model: openai/mocked, api_key: none, mock_response: hello}\n"
    )
    command = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        # Without a key nothing is checked: the least that it can do.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    log = place.log("litellm")
    with running([*command, "--telemetry", "False"], port, log, environment=environment) as pid:
        yield Contestant("LiteLLM, mocked", port, pid, CHAT_CALL, "/v1/chat/completions")


@contextmanager
def _naive(role: str, query: str, place: Place) -> Iterator[Contestant]:
    """A plain aiohttp proxy, or only its check, with one query per call."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.peers.naive", role, query, str(port), place.dsn]
    with running(command, port, place.log(f"{role}-{query}")) as process_id:
        yield Contestant(f"aiohttp proxy, {query}", port, process_id)


@contextmanager
def _nginx(name: str, place: Place, upstreams: str, locations: str) -> Iterator[Contestant]:
    program = shutil.which("nginx")
    if program is None:
        raise NotInstalledError("nginx is not installed")
    port, prefix = free_port(), place.folder / name.replace(" ", "-")
    prefix.mkdir()
    config = prefix / "nginx.conf"
    config.write_text(NGINX % {"port": port, "upstreams": upstreams, "locations": locations})
    command = [program, "-p", str(prefix), "-c", str(config)]
    with running(command, port, place.log(name)) as process_id:
        yield Contestant(name, port, process_id)


def _upstream(name: str, port: int) -> str:
    return f"upstream {name} {{ server 127.0.0.1:{port}; keepalive 256; }}\n"


PEERS: dict[str, Callable[[Place], AbstractContextManager[Contestant]]] = {
    "nginx": nginx,
    "auth-request": nginx_with_check,
    "naive-totals": partial(_naive, "proxy", "totals"),
    "naive-tuned": partial(_naive, "proxy", "tuned"),
    "naive-sum": partial(_naive, "proxy", "sum"),
    "litellm": litellm,
}

# It logs every call as the gateway does, and streams both ways as the gateway does.
NGINX = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 65536;
pid nginx.pid;
error_log stderr error;
events { worker_connections 16384; }
http {
    access_log access.log;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 1000000000;
    client_max_body_size 10m;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_request_buffering off;
    proxy_buffering off;
    %(upstreams)s
    server { listen 127.0.0.1:%(port)d backlog=4096; %(locations)s }
}
"""
