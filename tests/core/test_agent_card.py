"""Agent cards: every address leads to the gateway, everything else stays as the agent wrote it."""

import copy
import json

import pytest

from gateway.core.agent_card import (
    CardQuestion,
    is_agent_card,
    is_card_path,
    is_well_known_path,
    may_ask_for_card,
    public_base,
    rewrite_card,
    rewrite_rpc_answer,
)

AGENT = "http://10.0.0.7:9000/base"
BASE = "https://gw.example/workspaces/w/a2a"
OTHER = "https://elsewhere.example"

# Where an agent's own card is looked for.
WELL_KNOWN = ["/.well-known/agent-card.json", "/.well-known/agent.json"]

# Where one exchange tells whether it is a card.
ASKED_AS_IT_IS = [
    "/extendedAgentCard",  # 1.0
    "/acme/extendedAgentCard",  # 1.0 with a tenant
    "/v1/extendedAgentCard",
    "/v1/card",  # 0.3 and 0.2
    "/card",  # the same, if the agent registered with its /v1
    "/card/",
    "/rest/v1/card",  # a prefix of the agent's
    "/agent/authenticatedExtendedCard",  # 0.2
    "/v1/agent/authenticatedExtendedAgentCard",  # as the SDK's 0.3 handler calls it
    "/extendedAgentCard/",  # many servers take a slash more
    "/V1/Card",  # and some any case
    "/second/.well-known/agent-card.json",  # two agents at one registered URL
    "/.well-known/agent-card.json/",
    "/.Well-Known/Agent.json",
]


@pytest.mark.parametrize("path", WELL_KNOWN)
def test_well_known_path_names_the_agents_own_card(path: str) -> None:
    assert is_card_path(path)
    assert is_well_known_path(path)


@pytest.mark.parametrize("path", ASKED_AS_IT_IS)
def test_other_path_that_may_name_a_card_is_told_from_the_well_known_ones(path: str) -> None:
    assert is_card_path(path)
    assert not is_well_known_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/message:send",
        "/tasks/card",  # a task's name
        "/v1/tasks/card",
        "/v1/card/7",
        "/discard",  # only whole segments count
        "/v1/discard",
        "/myextendedAgentCard",
        "/.well-known/agent-cardxjson",  # a dot is a dot
        "/xwell-known/agent.json",
        "/.well-known/openid-configuration",
        "/agent-card.json",
        "/extendedAgentCard\n",  # `$` would let it pass
    ],
)
def test_path_of_something_else_names_no_card(path: str) -> None:
    assert not is_card_path(path)


MAYBE_ASKED = [
    b'{"method":"agent/getAuthenticatedExtendedCard"}',  # 0.3
    b'{"method":"agent/authenticatedExtendedCard"}',  # 0.2
    b'{"method":"GetExtendedAgentCard"}',  # 1.0
    rb'{"method":"Get\u0045xtended\u0041gentCard"}',  # JSON's other spelling of the same
    rb'{"method":"GetE\u0078tended\u0041gentCard"}',
    rb'{"method":"GetE\u0078t\u0065nded\u0041gentCard"}',
    rb'{"method":"GetExtendedAgentCar\u0064"}',
    rb'{"method":"GetExtended\u005A"}',  # the last letters of the range
    rb'{"method":"GetExtended\u007a"}',
    json.dumps({"method": "GetExtendedAgentCard"}).encode("utf-16"),  # Python's parser takes both
    json.dumps({"method": "GetExtendedAgentCard"}).encode("utf-32-be"),
]


@pytest.mark.parametrize("body", MAYBE_ASKED)
def test_body_that_could_ask_for_the_extended_card_is_noticed(body: bytes) -> None:
    assert may_ask_for_card(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"method":"SendMessage","params":{"text":"an extended card, an ExtendedTask"}}',
        json.dumps({"text": "café — 名刺"}).encode(),  # escapes, but of no ASCII letter
        rb'{"text":"\u0030\u003a"}',  # digits and signs stand in no method's way
    ],
)
def test_body_that_cannot_ask_for_the_extended_card_is_left_alone(body: bytes) -> None:
    assert not may_ask_for_card(body)


@pytest.mark.parametrize("body", MAYBE_ASKED)
@pytest.mark.parametrize("size", [1, 2, 7, 15, 16])
def test_question_cut_into_chunks_is_noticed(body: bytes, size: int) -> None:
    question = CardQuestion()
    for start in range(0, len(body), size):
        question.see(body[start : start + size])
    assert question.is_asked


def test_question_is_noticed_wherever_it_is_cut() -> None:
    body = b"..xtendedAgentCard.."
    for at in range(len(body)):
        question = CardQuestion()
        for chunk in (body[:at], b"", body[at:]):
            question.see(chunk)
        assert question.is_asked, body[:at]


def test_question_stays_asked_and_nothing_else_is_one() -> None:
    question = CardQuestion()
    question.see(b'{"method":"SendMessage"}')
    assert not question.is_asked
    question.see(b"xtendedCard")
    question.see(b"and more")
    assert question.is_asked
    assert CardQuestion(is_asked=True).is_asked  # of a body that cannot be read


@pytest.mark.parametrize(
    ("arguments", "base"),
    [
        (("https://gw.example/", "http", "10.0.0.1:8080", "w"), BASE),  # configured
        (("https://gw.example", "http", "10.0.0.1:8080", "w"), BASE),
        (("https://x.example/gw/", "http", "h", "w"), "https://x.example/gw/workspaces/w/a2a"),
        # Unset: as the caller asked.
        ((None, "http", "10.0.0.1:8080", "a:b"), "http://10.0.0.1:8080/workspaces/a:b/a2a"),
    ],
)
def test_public_base_is_below_the_public_url_or_below_what_was_asked(
    arguments: tuple[str | None, str, str, str], base: str
) -> None:
    assert public_base(*arguments) == base


# What the card says, and what callers read; None for an interface that is left out.
URLS = [
    (AGENT, BASE),
    (f"{AGENT}/", f"{BASE}/"),
    (f"{AGENT}/v1", f"{BASE}/v1"),
    (f"{AGENT}/v1/%C3%A9;a=b", f"{BASE}/v1/%C3%A9;a=b"),
    (f"{AGENT}?tenant=a&x", f"{BASE}?tenant=a&x"),
    (f"{AGENT}/v1?u=http://h//../a", f"{BASE}/v1?u=http://h//../a"),
    (f"{AGENT}/v1#part", f"{BASE}/v1"),  # means nothing in an address to call
    # Hosts differ inside and outside: only the path counts.
    ("http://0.0.0.0:9000/base/v1", f"{BASE}/v1"),
    ("http://localhost/base/v1", f"{BASE}/v1"),
    ("HTTPS://Agent.example/base/v1", f"{BASE}/v1"),
    ("http://user:secret@10.0.0.7:9000/base", BASE),
    ("http://[::1]:9000/base/v1", f"{BASE}/v1"),
    # A path that is not below the agent's maps to the workspace itself.
    ("http://10.0.0.7:9000", BASE),
    ("http://10.0.0.7:9000/", BASE),
    ("http://10.0.0.7:9000/other", BASE),
    ("http://10.0.0.7:9000/basement/v1", BASE),  # segments, not letters
    ("http://10.0.0.7:9000/Base", BASE),
    ("http://10.0.0.7:9000/other?x=1", f"{BASE}?x=1"),
    # So does one that the gateway would refuse, or that leads elsewhere once it is resolved.
    (f"{AGENT}/../../admin", BASE),
    (f"{AGENT}/%2e%2E/admin", BASE),
    (f"{AGENT}//v1", BASE),
    (f"{AGENT}/a\\b", BASE),
    # Already below the public URL.
    (BASE, BASE),
    (f"{BASE}/v1?x=1#y", f"{BASE}/v1?x=1#y"),
    ("HTTPS://GW.Example:443/workspaces/w/a2a/v1", "HTTPS://GW.Example:443/workspaces/w/a2a/v1"),
    # At the same place of another origin: the same port of another scheme, another name for us.
    ("http://gw.example/workspaces/w/a2a/v1", f"{BASE}/v1"),
    ("https://gw.example:80/workspaces/w/a2a/v1", f"{BASE}/v1"),
    ("https://gw.example:4430/workspaces/w/a2a", BASE),
    ("https://gw.example@evil.example/workspaces/w/a2a", BASE),
    # Not below it, though it looks like it.
    ("https://gw.example/workspaces/w/a2abc", BASE),
    ("https://gw.example/workspaces/v/a2a", BASE),
    ("https://gw.example", BASE),
    (f"{BASE}/../../v/a2a", BASE),
    (f"{BASE}/%2e%2e/x", BASE),
    # No http or https URL: there is no gateway for it.
    ("grpc://10.0.0.7:50051", None),
    ("10.0.0.7:50051", None),
    ("agent:50051", None),
    ("dns:///agent:50051", None),
    ("unix:/run/agent.sock", None),
    ("ws://10.0.0.7:9000/base", None),
    ("httpx://10.0.0.7/base", None),
    ("/base/v1", None),
    ("//10.0.0.7/base", None),
    ("", None),
    # What clients and urlsplit read differently.
    ("http:/10.0.0.7/base", None),
    ("http:10.0.0.7/base", None),
    ("http:///base", None),
    ("https://gw.example\\@evil.example/workspaces/w/a2a", None),
    ("\thttp://10.0.0.7/base", None),
    ("http://a b/base", None),
    # No string at all.
    (None, None),
    (7, None),
    ({"href": AGENT}, None),
]


@pytest.mark.parametrize(("url", "public"), URLS)
@pytest.mark.parametrize("member", ["supportedInterfaces", "additionalInterfaces"])
def test_address_of_an_interface_leads_to_the_gateway_or_is_left_out(
    member: str, url: object, public: str | None
) -> None:
    card = {"name": "a", member: [{"url": url, "transport": "JSONRPC"}]}
    expected = [] if public is None else [{"url": public, "transport": "JSONRPC"}]
    assert rewrite_card(card, AGENT, BASE) == {"name": "a", member: expected}


@pytest.mark.parametrize(("url", "public"), URLS)
def test_legacy_address_leads_to_the_gateway_or_is_left_out(
    url: object, public: str | None
) -> None:
    card = {"name": "a", "url": url, "preferredTransport": "JSONRPC"}
    expected = {"url": public, "preferredTransport": "JSONRPC"} if public else {}
    assert rewrite_card(card, AGENT, BASE) == {"name": "a", **expected}


@pytest.mark.parametrize(
    ("agent_url", "url", "public"),
    [
        # An agent at the root of its host has everything below it.
        ("http://h:1", "http://h:1/a2a/v1", f"{BASE}/a2a/v1"),
        ("http://h:1/", "http://h:1/a2a/v1", f"{BASE}/a2a/v1"),
        ("http://h:1/", "http://h:1", BASE),
        ("http://h:1/base/", "http://h:1/base/v1", f"{BASE}/v1"),
        ("http://h:1/base/", "http://h:1/base", BASE),
        ("http://h:1/base?key=1", "http://h:1/base/v1", f"{BASE}/v1"),
        # The gateway adds the registered query by itself.
        ("http://h:1/base?key=1", "http://h:1/base/v1?key=1", f"{BASE}/v1"),
        ("http://h:1/base?key=1", "http://h:1/base/v1?key=2", f"{BASE}/v1?key=2"),
        # The agent knows the gateway by another name than the caller does.
        ("http://h:1", "http://gw.internal:8080/workspaces/w/a2a/v1", f"{BASE}/v1"),
        # A row of the database that is no URL.
        ("agent:9000", "http://h:1/v1", BASE),
    ],
)
def test_path_below_the_registered_url_is_kept(agent_url: str, url: str, public: str) -> None:
    assert rewrite_card({"name": "a", "url": url}, agent_url, BASE)["url"] == public


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("http://gw.example/workspaces/w/a2a", "http://gw.example:80/workspaces/w/a2a"),
        ("http://gw.example:80/workspaces/w/a2a", "http://gw.example/workspaces/w/a2a/v1"),
        ("http://gw.example:443/workspaces/w/a2a", "http://gw.example:443/workspaces/w/a2a"),
        ("https://GW.example/workspaces/w/a2a", "https://gw.EXAMPLE/workspaces/w/a2a"),
    ],
)
def test_address_at_the_same_public_place_in_another_spelling_stays(base: str, url: str) -> None:
    card = {"name": "a", "url": url, "signatures": [{}]}
    assert rewrite_card(card, AGENT, base) == card


@pytest.mark.parametrize(
    "interface",
    [
        {"url": AGENT, "protocolBinding": "GRPC"},  # 1.0
        {"url": AGENT, "transport": "GRPC"},  # 0.3
        {"url": AGENT, "transport": "grpc"},
        {"url": AGENT, "protocol_binding": " Grpc "},
        {"url": AGENT, "transport": "JSONRPC", "protocolBinding": "GRPC"},
        {"protocolBinding": "JSONRPC"},
        {"url": AGENT, "URL": "agent:50051"},  # whichever of the two the client reads
        {},
        "http://10.0.0.7:9000/base",
        [AGENT],
        None,
        7,
    ],
)
def test_interface_that_the_gateway_cannot_serve_is_left_out(interface: object) -> None:
    kept = {"url": BASE, "protocolBinding": "JSONRPC"}
    card = {"name": "a", "supportedInterfaces": [interface, kept]}
    assert rewrite_card(card, AGENT, BASE) == {"name": "a", "supportedInterfaces": [kept]}


@pytest.mark.parametrize(
    "interface",
    [
        {"url": AGENT, "protocolBinding": "HTTP+JSON", "tenant": "acme", "protocolVersion": "1.0"},
        {"url": AGENT, "protocolBinding": "https://example.com/bindings/own"},
        {"url": AGENT, "protocolBinding": None},
        {"url": AGENT, "protocolBinding": {"name": "GRPC"}},  # nobody's transport
        {"url": AGENT},
        {"description": "GRPC", "url": AGENT},
    ],
)
def test_interface_of_any_other_transport_keeps_everything_but_its_address(
    interface: dict[str, object],
) -> None:
    rewritten = rewrite_card({"supportedInterfaces": [interface]}, AGENT, BASE)
    assert rewritten == {"supportedInterfaces": [{**interface, "url": BASE}]}


@pytest.mark.parametrize(
    ("value", "left"),
    [
        (None, None),  # 0.3 writes what is absent so
        ([], []),
        ({"url": AGENT}, []),
        (AGENT, []),
        (7, []),
    ],
)
def test_list_of_interfaces_that_is_no_list_is_emptied(value: object, left: object) -> None:
    card = {"name": "a", "additionalInterfaces": value, "supportedInterfaces": value}
    expected = {"name": "a", "additionalInterfaces": left, "supportedInterfaces": left}
    assert rewrite_card(card, AGENT, BASE) == expected


@pytest.mark.parametrize(
    "name", ["supported_interfaces", "additional_interfaces", "SupportedInterfaces"]
)
def test_member_is_found_in_every_spelling_that_a_client_reads(name: str) -> None:
    card = {"name": "a", name: [{"URL": AGENT}], "Url": AGENT}
    assert rewrite_card(card, AGENT, BASE) == {"name": "a", name: [{"URL": BASE}], "Url": BASE}


REST = {"url": f"{AGENT}/v1", "transport": "HTTP+JSON"}
GRPC = {"url": "http://10.0.0.7:50051", "transport": "GRPC"}


@pytest.mark.parametrize(
    ("card", "url", "transport"),
    [
        # The first that can be served.
        (
            {"url": "a:1", "preferredTransport": "GRPC", "additionalInterfaces": [GRPC, REST]},
            f"{BASE}/v1",
            "HTTP+JSON",
        ),
        # An http address does not make it one of ours.
        (
            {"url": AGENT, "preferredTransport": "grpc", "additionalInterfaces": [REST]},
            f"{BASE}/v1",
            "HTTP+JSON",
        ),
        # Without a transport it would be JSON-RPC, which the replacement is not.
        ({"url": "a:1", "additionalInterfaces": [REST]}, f"{BASE}/v1", "HTTP+JSON"),
        (
            {"url": "a:1", "preferredTransport": "GRPC", "additionalInterfaces": [{"url": AGENT}]},
            BASE,
            "JSONRPC",
        ),
        (
            {"url": "a:1", "preferred_transport": "GRPC", "additional_interfaces": [REST]},
            f"{BASE}/v1",
            "HTTP+JSON",
        ),
        (
            {"url": "a:1", "additionalInterfaces": [{"URL": AGENT, "Transport": "HTTP+JSON"}]},
            BASE,
            "HTTP+JSON",
        ),
    ],
)
def test_legacy_address_that_cannot_be_served_is_replaced_by_an_additional_one(
    card: dict[str, object], url: str, transport: str
) -> None:
    rewritten = rewrite_card({"name": "a", **card}, AGENT, BASE)
    assert (rewritten["url"], rewritten["preferredTransport"]) == (url, transport)
    assert "preferred_transport" not in rewritten


@pytest.mark.parametrize("additional", [None, [], [GRPC], "none"])
def test_legacy_address_without_a_replacement_is_left_out(additional: object) -> None:
    card = {"name": "a", "url": "a:1", "preferredTransport": "GRPC"}
    rewritten = rewrite_card({**card, "additionalInterfaces": additional}, AGENT, BASE)
    assert not {"url", "preferredTransport"} & set(rewritten)


def test_card_without_a_legacy_address_gets_none() -> None:
    card = {"name": "a", "preferredTransport": "GRPC", "additionalInterfaces": [REST]}
    assert "url" not in rewrite_card(card, AGENT, BASE)


def full_card(address: str) -> dict[str, object]:
    """A card in the forms of 1.0 and 0.3 at once, as a2a-sdk 1.3 writes it."""
    return {
        "name": "Reno",
        "signatures": [{"protected": "x", "signature": "y"}],
        "supportedInterfaces": [{"url": address, "protocolBinding": "JSONRPC"}],
        "url": address,
        "preferredTransport": "JSONRPC",
        "provider": {"organization": "o", "url": "http://10.0.0.7:9000/base"},
        "documentationUrl": "http://10.0.0.7:9000/base/docs",
        "capabilities": {"extensions": [{"uri": "http://10.0.0.7:9000/base/x"}], "ratio": 0.5},
        "additionalInterfaces": [{"url": address, "transport": "JSONRPC"}],
        "skills": [{"id": "s", "name": "é", "tags": []}],
    }


def test_everything_else_stays_in_its_order_and_the_input_is_not_modified() -> None:
    card, before = full_card(AGENT), full_card(AGENT)
    expected = full_card(BASE)
    del expected["signatures"]  # of a card that was another
    rewritten = rewrite_card(card, AGENT, BASE)
    assert json.dumps(rewritten) == json.dumps(expected)
    assert card == before


def test_card_that_was_changed_loses_its_signatures_in_every_spelling() -> None:
    assert rewrite_card({"url": AGENT, "Signatures": [{}]}, AGENT, BASE) == {"url": BASE}


def test_card_that_leads_here_already_keeps_its_signatures() -> None:
    card = full_card(f"{BASE}/v1")
    assert json.dumps(rewrite_card(card, AGENT, BASE)) == json.dumps(full_card(f"{BASE}/v1"))


def test_replaced_address_stands_where_the_old_one_stood() -> None:
    card = {"url": "a:1", "name": "a", "additionalInterfaces": [REST], "preferredTransport": "GRPC"}
    names = ["url", "name", "additionalInterfaces", "preferredTransport"]
    assert list(rewrite_card(card, AGENT, BASE)) == names


@pytest.mark.parametrize(
    ("value", "is_card"),
    [
        ({"name": "a", "supportedInterfaces": []}, True),
        ({"name": "a", "supported_interfaces": []}, True),
        ({"name": "a", "additionalInterfaces": []}, True),
        ({"name": "a", "url": AGENT, "skills": []}, True),
        ({"name": "a", "url": AGENT, "capabilities": {}}, True),
        ({"name": "a", "url": AGENT, "defaultInputModes": []}, True),
        ({"name": "a", "url": AGENT, "protocolVersion": "0.3.0"}, True),
        ({"name": "a", "url": AGENT}, False),  # anything may have a name and an address
        ({"supportedInterfaces": []}, False),
        ({"name": "a", "skills": []}, False),  # no address
        # What else a JSON-RPC result may be.
        ({"id": "t", "contextId": "c", "status": {"state": "working"}, "kind": "task"}, False),
        ({"messageId": "m", "role": "agent", "parts": [], "kind": "message"}, False),
        ({"task": {"id": "t", "status": {}}}, False),
        ({"id": "p", "taskId": "t", "url": OTHER, "token": "x"}, False),
        ({"name": "tasks/t/pushNotificationConfigs/p", "url": OTHER}, False),
        ({}, False),
        (["name", "supportedInterfaces"], False),
        ("name supportedInterfaces", False),
        (None, False),
    ],
)
def test_card_is_told_from_every_other_result(value: object, is_card: bool) -> None:
    assert is_agent_card(value) is is_card


CARD = {"name": "a", "url": AGENT, "skills": []}
CARD_HERE = {"name": "a", "url": BASE, "skills": []}
TASK = {"jsonrpc": "2.0", "id": 2, "result": {"id": "t", "status": {"state": "working"}}}


def test_card_in_a_json_rpc_answer_is_rewritten() -> None:
    answer = {"jsonrpc": "2.0", "id": 1, "result": CARD}
    before = copy.deepcopy(answer)
    rewritten = rewrite_rpc_answer(answer, AGENT, BASE)
    assert json.dumps(rewritten) == json.dumps({"jsonrpc": "2.0", "id": 1, "result": CARD_HERE})
    assert answer == before


def test_cards_in_a_batch_of_answers_are_rewritten_and_the_others_stay() -> None:
    batch = [TASK, {"id": 1, "result": CARD}, 7, {"id": 3, "result": CARD}]
    expected = [TASK, {"id": 1, "result": CARD_HERE}, 7, {"id": 3, "result": CARD_HERE}]
    assert rewrite_rpc_answer(batch, AGENT, BASE) == expected


@pytest.mark.parametrize(
    "answer",
    [
        TASK,
        {"jsonrpc": "2.0", "id": 1, "error": {"code": -32007, "message": "none"}},
        {"result": None},
        CARD,  # not in an answer
        [TASK, 7, None],
        [],
        [[{"result": CARD}]],  # no batch: JSON-RPC 2.0 section 6 has one level
        "text",
        None,
    ],
)
def test_answer_without_a_card_is_not_rewritten(answer: object) -> None:
    assert rewrite_rpc_answer(answer, AGENT, BASE) is None
