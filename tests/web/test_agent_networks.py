"""Where agents may live: row "where agents may live" of the proxy's rules, on real sockets.

What a name means is answered by the operating system's resolver, which is replaced here; so the
tests hold whatever client talks to the agents.
"""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from aiohttp import web
from yarl import URL

from tests.conftest import dsn_of
from tests.running import Gateway, run_agent, run_gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

# A slow machine must not take the database for gone.
PATIENT = {"GATEWAY_BUDGET__CHECK_TIMEOUT_MS": "10000"}
ONLY_1 = {**PATIENT, "GATEWAY_REGISTRY__ALLOWED_NETWORKS": "127.0.0.1/32"}
ONLY_2 = {**PATIENT, "GATEWAY_REGISTRY__ALLOWED_NETWORKS": "127.0.0.2/32"}

PATIENCE_S = 20

HOSTILE = {
    # The metadata of a cloud's machine, where credentials are.
    "as it is documented": "http://169.254.169.254/latest/meta-data/",
    "with TLS": "https://169.254.169.254/",
    "with a port": "http://169.254.169.254:80/",
    "as one number": "http://2852039166/",
    "as one hexadecimal number": "http://0xa9fea9fe/",
    "as one octal number": "http://025177524776/",
    "in octal parts": "http://0251.0376.0251.0376/",
    "in hexadecimal parts": "http://0xa9.0xfe.0xa9.0xfe/",
    "in two parts": "http://169.16689662/",
    "in three parts": "http://169.254.43518/",
    "in parts of many kinds": "http://0xa9.254.0251.254/",
    "with many zeros": "http://0000000000000000000251.254.169.254/",
    "with a dot at its end": "http://169.254.169.254./",
    "mapped to IPv6": "http://[::ffff:a9fe:a9fe]/",
    "mapped to IPv6, with dots": "http://[::ffff:169.254.169.254]/",
    "mapped to IPv6, in full": "http://[0000:0000:0000:0000:0000:FFFF:A9FE:A9FE]/",
    "translated to IPv6": "http://[::ffff:0:169.254.169.254]/",
    "compatible with IPv6": "http://[::169.254.169.254]/",
    "behind NAT64": "http://[64:ff9b::a9fe:a9fe]/",
    "behind a local NAT64": "http://[64:ff9b:1::a9fe:a9fe]/",
    "behind 6to4": "http://[2002:a9fe:a9fe::]/",
    "behind Teredo": "http://[2001:0:a9fe:a9fe::1]/",
    "by its name": "http://metadata.google.internal/",
    "of an ECS task": "http://169.254.170.2/",
    "of OpenStack": "http://[fe80::a9fe:a9fe]/",
    # The same within private ranges.
    "of AWS": "http://[fd00:ec2::254]/",
    "of Google": "http://[fd20:ce::254]/",
    "of Oracle": "http://[fd00:c1::a9fe:a9fe]/",
    "of Scaleway": "http://[fd00:42::42]/",
    "of Akamai": "http://[fd00:a9fe:a9fe::1]/",
    "of Alibaba": "http://100.100.100.200/",
    "of Alibaba, IPv6": "http://[fd00:100::100:200]/",
    "of Azure": "http://168.63.129.16/",
    # This machine by addresses that are not loopback.
    "unspecified": "http://0.0.0.0/",
    "unspecified, in short": "http://0/",
    "unspecified, IPv6": "http://[::]/",
    "unspecified, mapped": "http://[::ffff:0.0.0.0]/",
    "this network": "http://0.0.0.1/",
    # Networks of other kinds.
    "link-local": "http://169.254.1.1/",
    "link-local with a zone": "http://[fe80::1%25lo]/",
    "link-local with a bare zone": "http://[fe80::1%eth0]/",
    "multicast": "http://224.0.0.1/",
    "multicast, IPv6": "http://[ff02::1]/",
    "broadcast": "http://255.255.255.255/",
    "reserved": "http://240.0.0.1/",
    "documentation": "http://192.0.2.1/",
    "documentation, IPv6": "http://[2001:db8::1]/",
    "public": "http://8.8.8.8/",
    "public, IPv6": "http://[2606:4700::1111]/",
    "shared by carriers": "http://100.64.0.1/",
    "benchmarks": "http://198.18.0.1/",
    "beside a private network": "http://172.32.0.1/",
    # Two addresses behind one name, of which one is none of an agent.
    "two answers": "http://two.test/",
    # A host in the user's place, and the other way round.
    "a user": "http://127.0.0.1@169.254.169.254/",
    "a user and a password": "http://127.0.0.1:80@169.254.169.254/",
    "a user with an allowed host": "http://user:secret@127.0.0.1:9/",
    "an empty user": "http://@127.0.0.1:9/",
    "a user behind a backslash": "http://127.0.0.1:9\\@169.254.169.254/",
    "a user behind a fragment": "http://127.0.0.1:9#@169.254.169.254/",
    "a user behind an encoded slash": "http://127.0.0.1%2f@169.254.169.254/",
    # One reader's host is another reader's path.
    "a fragment": "http://127.0.0.1:9/#part",
    "a backslash": "http://127.0.0.1:9\\a",
    "backslashes for slashes": "http:\\\\169.254.169.254\\",
    "an encoded host": "http://%31%36%39.254.169.254/",
    "an encoded dot": "http://127%2e0.0.1:9/",
    "a space": "http://127.0.0.1:9 /",
    "a space in front": " http://127.0.0.1:9/",
    "a tab in the host": "http://169.254\t.169.254/",
    "a tab in the path": "http://127.0.0.1:9/a\tb",
    "a line break in the host": "http://127.0.0.1\r\n:9/",
    "a header behind a line break": "http://127.0.0.1:9/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "a line break at the end": "http://127.0.0.1:9/\n",
    "a comma": "http://127.0.0.1,169.254.169.254/",
    "a semicolon": "http://127.0.0.1;169.254.169.254/",
    # Characters that some readers change into ASCII.
    "digits in circles": "http://①⑥⑨.②⑤④.①⑥⑨.②⑤④/",
    "digits in circles, allowed": "http://①②⑦.⓪.⓪.①:9/",
    "digits of full width": "http://\uff11\uff16\uff19.\uff12\uff15\uff14.\uff11\uff16\uff19.\uff12\uff15\uff14/",
    "ideographic full stops": "http://169。254。169。254/",
    "a port of full width": "http://127.0.0.1:\uff18\uff10/",
    "Arabic digits": "http://١٢٧.0.0.1:9/",
    "a name beyond ASCII": "http://ägent.test/",
    "a path beyond ASCII": "http://127.0.0.1:9/é",
    # Ports.
    "port 0": "http://127.0.0.1:0/",
    "port 65536": "http://127.0.0.1:65536/",
    "a port beyond 64 bits": "http://127.0.0.1:18446744073709551617/",
    "a negative port": "http://127.0.0.1:-1/",
    "a port with a sign": "http://127.0.0.1:+9/",
    "a port with an underscore": "http://127.0.0.1:8_0/",
    "a port that is no number": "http://127.0.0.1:http/",
    "two ports": "http://127.0.0.1:9:80/",
    "no port behind its colon": "http://127.0.0.1:/",
    # No host.
    "nothing": "",
    "an empty host": "http:///agent",
    "only a scheme": "http://",
    "only a port": "http://:9/",
    "no scheme": "127.0.0.1:9",
    "any scheme": "//127.0.0.1:9/",
    "a path": "/agent",
    "an open bracket": "http://[::1",
    "an IPv4 address in brackets": "http://[127.0.0.1]:9/",
    "an IPv6 address without brackets": "http://::1/",
    "a future address": "http://[v1.fe]/",
    "an unknown name": "http://nobody.test/",
    "a label that is too long": f"http://{'a' * 64}.test/",
    "a name that is too long": f"http://{'a.' * 700}test/",
    "an empty label": "http://a..test/",
    # Other schemes.
    **{
        url: url
        for url in (
            "file:///etc/passwd",
            "ftp://127.0.0.1:9/",
            "gopher://127.0.0.1:9/_",
            "dict://127.0.0.1:9/",
            "unix:/run/agent.sock",
            "unix:///run/agent.sock",
            "http+unix://%2Frun%2Fagent.sock/",
            "ws://127.0.0.1:9/",
            "javascript:alert(1)",
            "data:text/plain,agent",
            "http:127.0.0.1:9",
        )
    },
}
rows = pytest.mark.parametrize("url", HOSTILE.values(), ids=HOSTILE.keys())

Answers = dict[str, list[list[str]]]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """The resolver's answers by name, one after the other; the last is given for ever."""
    answers: Answers = {
        "metadata.google.internal": [["169.254.169.254"]],
        "two.test": [["127.0.0.1", "169.254.169.254"]],
    }
    original = socket.getaddrinfo

    def getaddrinfo(
        host: Any,
        port: Any,
        family: int = 0,
        type: int = 0,  # noqa: A002 - the resolver's own name
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        numeric = flags | socket.AI_NUMERICHOST
        try:
            return original(host, port, family, type, proto, numeric)
        except socket.gaierror:
            if flags & socket.AI_NUMERICHOST or host not in answers:
                raise
        left = answers[host]
        addresses = left.pop(0) if len(left) > 1 else left[0]
        found = [original(each, port, family, type, proto, numeric) for each in addresses]
        return [entry for entries in found for entry in entries]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return answers


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Where this process connects to by IP, in order."""
    connected: list[tuple[str, int]] = []
    original = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if not isinstance(address, str | bytes):
            connected.append(address[:2])
        original(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    return connected


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(postgres: str) -> AsyncIterator[str]:
    """The DSN of a database of this module's own."""
    server = await asyncpg.connect(postgres)
    await server.execute("CREATE DATABASE networks TEMPLATE template_gateway STRATEGY file_copy")
    yield dsn_of(postgres, "networks")
    await server.execute("DROP DATABASE networks WITH (FORCE)")
    await server.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(database: str) -> AsyncIterator[Gateway]:
    """A gateway with the networks that are allowed by default."""
    async with run_gateway(database, PATIENT) as gateway:
        yield gateway


@pytest_asyncio.fixture(loop_scope="module")
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """Another hand in the database; what a test stored is gone at its end."""
    connection = await asyncpg.connect(database)
    yield connection
    for table in ("workspaces", "workspace_tokens"):
        await connection.execute(f"DELETE FROM {table}")
    await connection.close()


@pytest_asyncio.fixture(loop_scope="module")
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes at the end what a test opened."""
    async with AsyncExitStack() as stack:
        yield stack


async def register(gateway: Gateway, url: str) -> tuple[int, str]:
    """Register `w` and give the answer's status and text."""
    body = {"id": "w", "url": url}
    async with gateway.client.post(gateway.url + "/registry/register", json=body) as answer:
        return answer.status, await answer.text()


async def call(gateway: Gateway) -> int:
    """Call `w` and give the answer's status."""
    return (await gateway.json("GET", "/workspaces/w/a2a"))[0]


@dataclass
class Listener:
    """A server on an address, and how many connections it was made."""

    port: int
    connections: int = 0


@asynccontextmanager
async def listen(host: str, port: int = 0) -> AsyncIterator[Listener]:
    """A server that answers 200 and closes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        listener.connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(answer, host, port)
    listener = Listener(server.sockets[0].getsockname()[1])
    async with server:
        yield listener


@rows
async def test_hostile_url_cannot_be_registered(
    gateway: Gateway,
    connection: asyncpg.Connection,
    answers: Answers,
    connected: list[tuple[str, int]],
    url: str,
) -> None:
    status, text = await register(gateway, url)
    assert (status, '"error":"url: ' in text) == (400, True)
    assert not url or url not in text
    assert await connection.fetchval("SELECT count(*) FROM workspaces") == 0
    assert {port for _, port in connected} <= {URL(gateway.url).port}


@rows
async def test_hostile_url_that_another_hand_stored_is_never_connected_to(
    gateway: Gateway,
    connection: asyncpg.Connection,
    answers: Answers,
    connected: list[tuple[str, int]],
    url: str,
) -> None:
    answers["two.test"] = [["169.254.169.254"]]
    await connection.execute("INSERT INTO workspaces (id, url) VALUES ('w', $1)", url)
    for method in ("GET", "POST"):
        async with gateway.client.request(method, gateway.url + "/workspaces/w/a2a/x") as answer:
            text = await answer.text()
            assert answer.content_type == "application/problem+json", text
            assert (answer.status, not url or url not in text) == (502, True)
    assert {port for _, port in connected} <= {URL(gateway.url).port}


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:{}", "http://127.0.0.1:{}/?a=1", "HTTP://LOCALHOST:{}/"),
        # Other spellings of loopback are loopback.
        *("http://127.1:{}", "http://2130706433:{}", "http://0x7f.1:{}", "http://0177.0.0.1:{}"),
        "http://[::ffff:127.0.0.1]:{}",
    ],
)
async def test_agent_on_loopback_is_registered_and_called_however_it_is_spelt(
    gateway: Gateway,
    connection: asyncpg.Connection,
    answers: Answers,
    stack: AsyncExitStack,
    url: str,
) -> None:
    answers["localhost"] = answers["LOCALHOST"] = [["127.0.0.1"]]
    agent = await stack.enter_async_context(listen("127.0.0.1"))
    status, text = await register(gateway, url.format(agent.port))
    assert (status, await call(gateway), agent.connections) == (200, 200, 1), text


async def test_name_that_moved_to_the_metadata_service_is_not_called(
    gateway: Gateway,
    connection: asyncpg.Connection,
    answers: Answers,
    connected: list[tuple[str, int]],
) -> None:
    answers["agent.test"] = [["127.0.0.1"], ["169.254.169.254"]]
    assert (await register(gateway, "http://agent.test"))[0] == 200
    assert [await call(gateway) for _ in range(3)] == [502, 502, 502]
    assert {port for _, port in connected} <= {URL(gateway.url).port}


@pytest.mark.parametrize(
    ("later", "status"),
    [
        ([["127.0.0.2"]], 502),
        ([["127.0.0.2", "127.0.0.1"]], 200),  # only the one that is allowed is connected to
        ([["127.0.0.1", "127.0.0.2"]], 200),
        ([["127.0.0.2", "127.0.0.1", "127.0.0.2"]], 200),
        ([["::ffff:127.0.0.2"]], 502),
        # Asked twice within a call, it answers otherwise than it did before.
        ([["127.0.0.1"], ["127.0.0.2"]], 200),
    ],
)
async def test_name_that_moved_out_of_the_allowed_networks_is_called_only_within_them(
    database: str,
    connection: asyncpg.Connection,
    answers: Answers,
    stack: AsyncExitStack,
    later: list[list[str]],
    status: int,
) -> None:
    allowed = await stack.enter_async_context(listen("127.0.0.1"))
    forbidden = await stack.enter_async_context(listen("127.0.0.2", allowed.port))
    gateway = await stack.enter_async_context(run_gateway(database, ONLY_1))
    answers["agent.test"] = [["127.0.0.1"], *later]
    assert (await register(gateway, f"http://agent.test:{allowed.port}"))[0] == 200
    assert await call(gateway) == status
    assert (forbidden.connections, allowed.connections) == (0, int(status == 200))


@pytest.mark.parametrize("addresses", [["127.0.0.1", "127.0.0.2"], ["127.0.0.2", "127.0.0.1"]])
async def test_name_has_no_other_address_than_allowed_ones_to_fall_back_on(
    database: str,
    connection: asyncpg.Connection,
    answers: Answers,
    stack: AsyncExitStack,
    addresses: list[str],
) -> None:
    forbidden = await stack.enter_async_context(listen("127.0.0.2"))
    gateway = await stack.enter_async_context(run_gateway(database, ONLY_1))
    answers["agent.test"] = [["127.0.0.1"], addresses]
    # Nobody listens at this port of the allowed address.
    assert (await register(gateway, f"http://agent.test:{forbidden.port}"))[0] == 200
    assert (await call(gateway), forbidden.connections) == (502, 0)


@pytest.mark.parametrize("addresses", [["127.0.0.1", "127.0.0.2"], ["127.0.0.2", "127.0.0.1"]])
async def test_name_of_which_one_address_is_not_allowed_cannot_be_registered(
    database: str,
    connection: asyncpg.Connection,
    answers: Answers,
    stack: AsyncExitStack,
    addresses: list[str],
) -> None:
    gateway = await stack.enter_async_context(run_gateway(database, ONLY_1))
    answers["agent.test"] = [addresses]
    assert (await register(gateway, "http://agent.test:9"))[0] == 400


async def test_networks_that_are_configured_replace_the_default(
    database: str, connection: asyncpg.Connection, stack: AsyncExitStack
) -> None:
    inside = await stack.enter_async_context(listen("127.0.0.2"))
    outside = await stack.enter_async_context(listen("127.0.0.1"))
    gateway = await stack.enter_async_context(run_gateway(database, ONLY_2))
    assert (await register(gateway, f"http://127.0.0.1:{outside.port}"))[0] == 400
    assert (await register(gateway, f"http://127.0.0.2:{inside.port}"))[0] == 200
    assert (await call(gateway), inside.connections) == (200, 1)
    # By another hand, and by a registration under another configuration.
    await connection.execute("UPDATE workspaces SET url = $1", f"http://127.0.0.1:{outside.port}")
    assert (await call(gateway), outside.connections) == (502, 0)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 307, 308])
async def test_redirect_is_the_callers_to_follow(
    gateway: Gateway,
    connection: asyncpg.Connection,
    stack: AsyncExitStack,
    connected: list[tuple[str, int]],
    status: int,
) -> None:
    elsewhere = await stack.enter_async_context(listen("127.0.0.1"))
    agent = await stack.enter_async_context(run_agent())
    locations = [
        f"http://127.0.0.1:{elsewhere.port}/",
        "http://169.254.169.254/latest/meta-data/",
        f"//127.0.0.1:{elsewhere.port}",
        "file:///etc/passwd",
    ]
    assert (await register(gateway, agent.url))[0] == 200
    for location in locations:

        async def respond(_request: web.Request, location: str = location) -> web.StreamResponse:
            return web.Response(status=status, headers={"Location": location}, text="moved")

        agent.respond = respond
        for method in ("GET", "POST"):
            async with gateway.client.request(
                method, gateway.url + "/workspaces/w/a2a", allow_redirects=False
            ) as answer:
                assert (answer.status, answer.headers["Location"]) == (status, location)
                assert await answer.text() == "moved"
    assert elsewhere.connections == 0
    assert {port for _, port in connected} <= {URL(gateway.url).port, URL(agent.url).port}


async def test_proxy_and_credentials_of_this_machine_are_not_used(
    database: str,
    connection: asyncpg.Connection,
    stack: AsyncExitStack,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    proxy = await stack.enter_async_context(listen("127.0.0.1"))
    agent = await stack.enter_async_context(run_agent())
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login operator password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    gateway = await stack.enter_async_context(run_gateway(database, PATIENT))
    assert (await register(gateway, agent.url))[0] == 200
    assert (await call(gateway), proxy.connections) == (200, 0)
    assert "authorization" not in {name.lower() for name, _ in agent.received[0].headers}


async def test_calls_to_one_name_that_nobody_answers_for_leave_other_names_their_turn(
    gateway: Gateway,
    stack: AsyncExitStack,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: Counter[str] = Counter()
    may_answer = threading.Event()
    original = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **options: Any) -> list[Any]:
        if host in ("silent.test", "other.test") and not options.get("flags"):
            asked[host] += 1
            if host == "silent.test":
                may_answer.wait(PATIENCE_S)
            host = "127.0.0.1"
        return original(host, *rest, **options)

    agent = await stack.enter_async_context(run_agent())
    port = URL(agent.url).port
    for workspace_id, host in (("w", "silent.test"), ("other", "other.test")):
        await connection.execute(
            "INSERT INTO workspaces (id, url) VALUES ($1, $2)",
            workspace_id,
            f"http://{host}:{port}",
        )
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    waiting = [asyncio.create_task(call(gateway)) for _ in range(50)]
    try:
        await until(lambda: asked["silent.test"] > 0)
        await until(lambda: len(gateway.services.calls_under_way) == 50)
        async with gateway.client.post(f"{gateway.url}/workspaces/other/a2a", json={}) as answer:
            assert answer.status == 200
    finally:
        may_answer.set()
        statuses = await asyncio.gather(*waiting)
    assert set(statuses) == {200}
    assert asked == {"silent.test": 1, "other.test": 1}
