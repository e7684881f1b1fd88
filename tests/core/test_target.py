"""The request target: whom a call is for, and what the agent gets of it, byte for byte."""

import pytest

from gateway.core.errors import BadGateway, BadRequest, NotFound
from gateway.core.target import (
    AgentUrl,
    CallTarget,
    host_of,
    read_agent_url,
    read_call_target,
)

CALL = "/workspaces/w/a2a"
UUID = "5f3c2a9e-8d1b-4c6f-9a7e-0b1c2d3e4f50"


@pytest.mark.parametrize(
    ("target", "workspace_id", "tail", "query"),
    [
        (CALL, "w", "", ""),
        (f"{CALL}/", "w", "/", ""),
        (f"{CALL}/message:send", "w", "/message:send", ""),
        (f"{CALL}?a=1", "w", "", "a=1"),
        (f"{CALL}/?a=1", "w", "/", "a=1"),
        # The tail and the query are kept as they came.
        (f"{CALL}/a%3Ab%7e%7Ec/", "w", "/a%3Ab%7e%7Ec/", ""),
        (f"{CALL}/%C3%A9+x;v=1,2", "w", "/%C3%A9+x;v=1,2", ""),
        (f"{CALL}/100%", "w", "/100%", ""),  # a broken escape is the agent's business
        (f"{CALL}/%252e%252e/x", "w", "/%252e%252e/x", ""),  # decoded once it is %2e%2e
        (f"{CALL}/x?b=2&a=1&b=%2F&c", "w", "/x", "b=2&a=1&b=%2F&c"),
        (f"{CALL}/x?u=http://h//a/../b?c", "w", "/x", "u=http://h//a/../b?c"),
        (f"{CALL}/.well-known/agent-card.json", "w", "/.well-known/agent-card.json", ""),
        (f"{CALL}/...", "w", "/...", ""),  # three dots are a name
        (f"{CALL}/a../..b/c.", "w", "/a../..b/c.", ""),
        # Absolute form (RFC 9112 section 3.2.2), whatever the authority.
        (f"http://gateway.example:8080{CALL}/x?a=1", "w", "/x", "a=1"),
        (f"HTTPS://[::1]{CALL}", "w", "", ""),
        # Ids.
        (f"/workspaces/{UUID}/a2a", UUID, "", ""),
        ("/workspaces/a:b_c.d-e/a2a", "a:b_c.d-e", "", ""),
        ("/workspaces/a%3Ab/a2a", "a:b", "", ""),  # the same id, encoded
        ("/workspaces/.../a2a", "...", "", ""),
        (f"/workspaces/{'a' * 128}/a2a", "a" * 128, "", ""),
        ("/workspaces/a2a/a2a/a2a", "a2a", "/a2a", ""),
        ("/workspaces/workspaces/a2a/workspaces/w/a2a", "workspaces", "/workspaces/w/a2a", ""),
    ],
)
def test_target_is_read_once_and_kept(
    target: str, workspace_id: str, tail: str, query: str
) -> None:
    assert read_call_target(target) == CallTarget(workspace_id, tail, query)


@pytest.mark.parametrize(
    "target",
    [
        "",
        "/",
        "*",
        "gateway.example:443",  # authority form
        "workspaces/w/a2a",
        "/workspaces/w",
        "/workspaces/w/a2ax",
        "/workspaces/w/A2A",
        "/workspaces/w/%612a",  # our own part of the path is not decoded
        "/workspaces//a2a",
        "/workspaces/w//a2a",
        f"/{CALL}",
        f"/x/..{CALL}",
        f"{CALL};v=1",
        f"{CALL}#x",
        f"http://gateway.example/{CALL}",
        f"/workspaces/{'a' * 129}/a2a",
        "/workspaces/./a2a",  # dots would be resolved away
        "/workspaces/../a2a",
        "/workspaces/%2e%2E/a2a",
        "/workspaces/a%2Fb/a2a",
        "/workspaces/a%5cb/a2a",
        "/workspaces/w%00/a2a",
        "/workspaces/w%0A/a2a",  # $ would let it pass
        "/workspaces/w%20/a2a",
        "/workspaces/%C3%A9/a2a",
        "/workspaces/%2577/a2a",  # decoded once
        "/workspaces/w%/a2a",
    ],
)
def test_target_that_names_no_workspace_is_not_found(target: str) -> None:
    with pytest.raises(NotFound):
        read_call_target(target)


@pytest.mark.parametrize(
    "tail",
    [
        "/..",
        "/.",
        "/../",
        "/./x",
        "/x/..",
        "/x/../y",
        "/%2e%2e/x",
        "/%2E%2E",
        "/.%2e/x",
        "/%2E./x",
        "/%2e",
        "/..;/x",  # servlet containers cut the parameter off
        "/..;v=1/x",
        "/.;",
        "//",
        "//x",
        "/x//y",
        "/x//",
        "/x%2Fy",  # another segment for some, for others not
        "/x%2fy",
        "/..%2fx",
        "/x\\y",
        "/..\\x",
        "/x%5Cy",
        "/x%5cy",
        "/x%00",
        "/x\0",
        "/x y",
        "/x\ty",
        "/x\r\ny",
        "/x\x7f",
        "/x#y",
        "/x?a#b",
        "?a#b",
    ],
)
@pytest.mark.parametrize("authority", ["", "http://gateway.example"])
def test_part_that_servers_read_differently_is_refused(authority: str, tail: str) -> None:
    with pytest.raises(BadRequest) as error:
        read_call_target(authority + CALL + tail)
    assert tail not in error.value.detail


def test_path_is_decoded_once() -> None:
    assert read_call_target(f"{CALL}/tasks/%41%3Acancel?x=%41").path == "/tasks/A:cancel"
    assert read_call_target(f"{CALL}/%2541").path == "/%41"
    assert read_call_target(CALL).path == ""


@pytest.mark.parametrize(
    ("agent_url", "tail", "query", "url"),
    [
        ("http://a:1", "", "", "http://a:1"),
        ("http://a:1/", "", "", "http://a:1/"),
        ("http://a:1", "/", "", "http://a:1/"),
        ("http://a:1/", "/", "", "http://a:1/"),  # never two slashes
        ("http://a:1/rpc", "", "", "http://a:1/rpc"),
        ("http://a:1/rpc", "/", "", "http://a:1/rpc/"),  # .../a2a and .../a2a/ stay two
        ("http://a:1/rpc/", "/x%3Ay", "", "http://a:1/rpc/x%3Ay"),
        ("http://a:1/rpc", "/x", "b=%2F&a", "http://a:1/rpc/x?b=%2F&a"),
        ("http://a:1/rpc?key=1", "", "", "http://a:1/rpc?key=1"),
        ("http://a:1/rpc?key=1", "/x", "a=1", "http://a:1/rpc/x?key=1&a=1"),
        ("http://a:1/rpc", "", "a=http://b/?c", "http://a:1/rpc?a=http://b/?c"),
    ],
)
def test_agent_gets_its_url_with_tail_and_query(
    agent_url: str, tail: str, query: str, url: str
) -> None:
    assert CallTarget("w", tail, query).upstream_url(agent_url) == url


@pytest.mark.parametrize(
    ("url", "origin", "host", "path", "query"),
    [
        ("http://127.0.0.1", "http://127.0.0.1", "127.0.0.1", "", ""),
        ("http://a.b-c_d~1:65535/", "http://a.b-c_d~1:65535", "a.b-c_d~1", "/", ""),
        ("HTTPS://Agent.example.", "HTTPS://Agent.example.", "Agent.example.", "", ""),
        ("http://[::1]:1/rpc", "http://[::1]:1", "::1", "/rpc", ""),
        ("http://[::FFFF:127.0.0.1]", "http://[::FFFF:127.0.0.1]", "::FFFF:127.0.0.1", "", ""),
        ("http://a?", "http://a", "a", "", ""),
        ("http://a?b=/c@d?e:f", "http://a", "a", "", "b=/c@d?e:f"),
        ("http://a/%C3%A9/../;v=1,2//@b:c?{}", "http://a", "a", "/%C3%A9/../;v=1,2//@b:c", "{}"),
    ],
)
def test_url_of_an_agent_is_taken_apart(
    url: str, origin: str, host: str, path: str, query: str
) -> None:
    assert read_agent_url(url) == AgentUrl(origin, host, path, query)


@pytest.mark.parametrize(
    "url",
    [
        *("", "a", "a:80", "//a", "/a", "http:", "http:/a", "http:a", "http://", "http:///a"),
        *(
            "ws://a",
            "ftp://a",
            "file:///a",
            "http+unix://a",
            "xhttp://a",
            " http://a",
            "http\n://a",
        ),
        *("http://a@b", "http://a:b@c", "http://@a", "http://a/\\b", "http://a\\@b", "http:\\\\a"),
        *(
            "http://a#",
            "http://a#@b",
            "http://a/#b",
            "http://a?b\\c",
            "http://a/\n",
            "http://a?b#c",
        ),
        *("http://a:0", "http://a:00000", "http://a:65536", "http://a:000080", "http://a:"),
        *(
            "http://a:+80",
            "http://a:8_0",
            "http://a:-1",
            "http://a:80x",
            "http://a:8:8",
            "http://:80",
        ),
        *("http://a:\uff18\uff10", "http://\u2460", "http://\u017f", "http://é", "http://a/é"),
        *("http://a ", "http://a b", "http://a/ ", "http://a/\t", "http://a\n", "http://a/\r\nb:c"),
        *("http://a/\0", "http://a/\x7f", "http://a?\x85", "http://a/\u2028", "http://a/\ud800"),
        *("http://%61", "http://a%2fb", "http://a,b", "http://a;b", "http://*", "http://a|b"),
        *(
            "http://[::1",
            "http://::1",
            "http://[]",
            "http://[127.0.0.1]",
            "http://[a]",
            "http://[::g]",
        ),
        *("http://[fe80::1%25lo]", "http://[fe80::1%lo]", "http://[::1]a", "http://a[::1]"),
    ],
)
def test_url_that_not_every_reader_reads_alike_is_none_of_an_agent(url: str) -> None:
    with pytest.raises(ValueError, match="not the URL of an agent"):
        read_agent_url(url)
    with pytest.raises(BadGateway):
        CallTarget("w", "/x", "").upstream_url(url)


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("/workspaces/w/a2a", None),
        ("http://agents.example:8080/workspaces/w/a2a", "agents.example:8080"),
        ("HTTPS://agents.example?x", "agents.example"),
        ("http:///x", ""),  # no host; the caller falls back on Host
    ],
)
def test_target_in_absolute_form_names_the_host(target: str, host: str | None) -> None:
    assert host_of(target) == host
