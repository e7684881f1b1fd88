"""What a call's body says, against the plain definition: every member of every object, in Python.

The definition is too slow for bodies that strangers send; what the gateway does instead must say
the same, or less.
"""

import json
import sys
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.calls import FREE_RPC_METHODS, CallBody, read_call
from gateway.web.call_body import NAMES_MAX, STRUCTURE_MAX, parse_call_body


class Members(tuple[tuple[str, object], ...]):
    """A JSON object as its pairs, told apart from a JSON array."""

    __slots__ = ()


def define(text: bytes) -> CallBody | None:
    """The definition: one JSON object, or nothing, with all members `method` ignoring case."""
    if not text:
        return CallBody()
    try:
        value = json.loads(text.decode(), object_pairs_hook=Members, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, Members):
        return CallBody(is_object=False, is_rpc=b'"jsonrpc"' in text)
    return CallBody(
        methods=[member for name, member in value if name.casefold() == "method"],
        ids=[member for name, member in value if name == "id"],
        is_rpc=any(name == "jsonrpc" for name, _ in value),
    )


def refuse_constant(name: str) -> object:
    """Raise for NaN and the infinities, which are no JSON."""
    raise ValueError(name)


def said(body: CallBody | None) -> object:
    """All that matters of a body, with objects of both kinds made alike."""
    if body is None:
        return None
    is_rest_free = read_call("POST", "/tasks/1:cancel", body).is_free
    call = read_call("POST", "", body)
    return (call, is_rest_free, len(body.methods), len(body.ids), body.is_object)


# Names and values that are nearly `method` and `id`, and text that looks like a member.
NAMES = st.sampled_from(
    ["method", "Method", "METHOD", "methoD", "id", "ID", "jsonrpc", "params", "methods", "a"]
) | st.text(max_size=3)
TEXTS = st.sampled_from(
    ["tasks/get", "CancelTask", "message/send", "method", "id", '"method":', '\\"method":', "\\"]
) | st.text(max_size=4)
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.none() | st.booleans() | NUMBERS | TEXTS


def objects(values: st.SearchStrategy[object]) -> st.SearchStrategy[Members]:
    """Objects in which a name may occur more than once."""
    return st.lists(st.tuples(NAMES, values), max_size=5).map(Members)


DOCUMENTS = st.recursive(
    VALUES, lambda values: objects(values) | st.lists(values, max_size=3), max_leaves=12
)
SPACES = st.sampled_from(["", " ", "\n", "\t\r\n "])


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """JSON as some writer may write it: with doubles, spaces and escapes anywhere."""
    return written(draw(objects(DOCUMENTS) | DOCUMENTS), lambda: draw(SPACES)).encode()


def written(value: object, space: Callable[[], str]) -> str:
    """A value as JSON, with spaces wherever they may stand."""
    if isinstance(value, Members):
        members = (
            f"{space()}{json.dumps(name)}{space()}:{space()}{written(member, space)}{space()}"
            for name, member in value
        )
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(space() + written(each, space) for each in value) + "]"
    return json.dumps(value)


@given(texts())
@example(b'{"method": "tasks/get", "params": {"method": 1, "id": 2}, "id": 3}')
@example(b'{"params": {"method": "tasks/get"}}')
@example(b'{"method": "tasks/get", "x": [{"method": "tasks/get"}], "METHOD": null}')
@example(b'{"id": "method", "method": "id"}')
@example(b'{"\\"method": 1, "x\\"method" : 2, "\\\\": "method", "method":"tasks/get"}')
def test_json_is_read_as_it_is_defined(text: bytes) -> None:
    assert said(parse_call_body(text)) == said(define(text))


FRAGMENTS = st.sampled_from(
    [
        *("{", "}", "[", "]", ",", ":", '"', "\\", "\\u", "\\u006d", "\\u0064", "\\U006d", " "),
        *('"method"', '"Method"', '"method":', '"tasks/get"', '"message/send"', "method", "ethod"),
        *('{"method":"tasks/get"', ',"method":"message/send"}', '"id":1', "NaN", "1e999", "-0"),
        *("\0", "\n", "\x1f", "\ufeff", "é", "\u2028", "\u0131", "\u017f", "/**/", "'", "\ud800"),
    ]
)


@given(st.lists(FRAGMENTS, max_size=12).map("".join))
@example('{"method":"tasks/get","\\u006dethod":"message/send"}')
@example('{"method":"tasks/get","m\\u0045thod":"message/send"}')
@example('{"method":"tasks/get","metho\\u0064":"message/send"}')
@example('{"method":"tasks/get","METHO\\u0044" \n:"message/send"}')
@example('{"method":"tasks/get"}{"method":"message/send"}')
@example('{"method":"tasks/get","x":"\ud800"}')
def test_nothing_passes_that_the_definition_refuses(text: str) -> None:
    body = text.encode("utf-8", "surrogatepass")
    found, defined = parse_call_body(body), define(body)
    for path in ("", "/tasks/1:cancel"):
        if read_call("POST", path, found or CallBody(is_object=False)).is_free:
            assert defined is not None
            assert read_call("POST", path, defined).is_free


def test_no_other_character_is_a_letter_of_method_in_another_case() -> None:
    """Bytes are compared as ASCII; the definition compares what a character folds to."""
    others = (chr(each) for each in range(128, sys.maxunicode + 1))
    assert [each for each in others if each.casefold() in "method"] == []


@pytest.mark.parametrize("method", sorted(FREE_RPC_METHODS))
def test_free_call_may_have_many_members_with_the_same_name_below_it(method: str) -> None:
    inner = ",".join(['{"method": "x", "id": 1}'] * (NAMES_MAX - 1))
    text = f'{{"id": 7, "method": "{method}", "params": [{inner}]}}'.encode()
    body = parse_call_body(text)
    assert body is not None
    assert (body.methods, body.ids) == ([method], [7])


@pytest.mark.parametrize(
    "inner",
    [
        ",".join(['{"method": "x"}'] * NAMES_MAX),
        ",".join(["[]"] * STRUCTURE_MAX),
        ",".join(["0"] * (STRUCTURE_MAX + 1)),
        '"\\u0061"',  # an escaped letter
        '"\\ud83d"',  # half a character
    ],
    ids=["methods", "lists", "numbers", "escape", "surrogate"],
)
def test_body_that_no_client_sends_for_a_free_call_is_refused(inner: str) -> None:
    text = f'{{"method": "tasks/get", "params": [{inner}]}}'.encode()
    assert define(text) is not None
    assert parse_call_body(text) is None


def test_id_is_found_among_any_number_of_others() -> None:
    inner = ",".join(['{"id": 1}'] * 1000)
    body = parse_call_body(f'{{"params": [{inner}], "id": "mine", "method": "x"}}'.encode())
    assert body is not None
    assert body.ids == ["mine"]


@pytest.mark.parametrize("rpc_id", [2**63, -(2**64), 2**64, 10**30, 1e300])
def test_id_that_a_parser_may_have_rounded_is_not_repeated(rpc_id: float) -> None:
    body = parse_call_body(b'{"jsonrpc":"2.0","id":%s}' % json.dumps(rpc_id).encode())
    assert body is not None
    assert read_call("POST", "", body).rpc_id is None
