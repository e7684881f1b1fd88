"""Ways around the budget that laxer parsers would open: section 5 of the contract."""

import pytest

from gateway.core.calls import Form
from tests.core.call_bodies import read_bytes

GET_TASK = '{"jsonrpc": "2.0", "method": "tasks/get"}'


@pytest.mark.parametrize(
    "body",
    [
        None,  # coded, or over 64 KiB
        b"",
        b"null",
        b"1",
        b'"tasks/get"',
        b"{}",
        b'{"params": {"method": "tasks/get"}}',
        # Which of two an agent obeys is its parser's business.
        b'{"method": "tasks/get", "method": "message/send"}',
        b'{"method": "message/send", "method": "tasks/get"}',
        b'{"method": "tasks/get", "method": "tasks/get"}',
        b'{"method": "tasks/get", "Method": "message/send"}',  # one member in Go
        b'{"method": "tasks/get", "METHOD": null}',
        b'{"method": "tasks/get", "m\\u0065thod": "message/send"}',
        # A batch.
        f"[{GET_TASK}]".encode(),
        f'[{GET_TASK}, {{"method": "message/send"}}]'.encode(),
        b'[["method", "tasks/get"]]',
        # No string.
        b'{"method": null}',
        b'{"method": ["tasks/get"]}',
        b'{"method": {"tasks/get": 1}}',
        # What laxer parsers read.
        b'{"method": "tasks/get", "id": NaN}',
        b'{"method": "tasks/get", "id": -Infinity}',
        b"{'method': 'tasks/get'}",
        b'{"method": "tasks/get",}',
        b'{"method": "tasks/get"} // comment',
        b'{"method": "tasks/get"}{"method": "message/send"}',
        b'{"method": "tasks/get"}\0',
        b'{"method": "tasks/get", "x": "\n"}',
        b'{"method": "tasks/get", "x": "\xff"}',
        b'{"method": "tasks/get", "id": %s}' % (b"1" * 5000),  # over Python's digits
        b'{"method": "tasks/get", "x": %s%s}' % (b"[" * 500_000, b"]" * 500_000),
        b'{"method": "tasks/get", "x": %s' % (b"[" * 1_000_000),
        GET_TASK.encode("utf-8-sig"),  # a byte order mark
        GET_TASK.encode("utf-16"),
        GET_TASK.encode("utf-16-le"),  # valid UTF-8, too
        GET_TASK.encode("utf-32"),
    ],
)
def test_body_that_is_not_surely_one_free_call_is_refused(body: bytes | None) -> None:
    assert not read_bytes("POST", "", body).is_free


def test_member_named_method_in_another_case_counts_as_the_method() -> None:
    assert read_bytes("POST", "", b'{"Method": "tasks/get"}').is_free
    assert not read_bytes("POST", "", b'{"Method": "message/send"}').is_free


@pytest.mark.parametrize(
    "path",
    [
        "/message:send",
        "/v1/message:stream",
        # What laxer routers than ours take for the same.
        "/message:send/",
        "/Message:Send",
        "/v1/MESSAGE:STREAM/",
        "/message:send;v=1",
        "/message:send;v=/rpc",
        "/message:send?/rpc",  # a question mark that was encoded
        "/message:send.json",
        "/message:send\n",
        "/message:sends",
    ],
)
def test_body_of_a_free_call_does_not_hide_the_path_of_a_send(path: str) -> None:
    call = read_bytes("POST", path, GET_TASK.encode())
    assert (call.form, call.is_free) == (Form.REST, False)


@pytest.mark.parametrize(
    "path",
    [
        "/message:send/tasks/1:cancel",
        "/message:send;/tasks/1:cancel",
        "/message:send?x=/tasks/1:cancel",
        "/Message:Stream/tasks/1:subscribe",
        "/tasks/message:send/pushNotificationConfigs",
    ],
)
def test_path_that_ends_as_a_free_one_does_not_hide_a_send(path: str) -> None:
    call = read_bytes("POST", path, b"{}")
    assert (call.form, call.is_free) == (Form.REST, False)


@pytest.mark.parametrize(
    ("body", "is_free"),
    [
        (b"", True),
        (b"{}", True),
        (b'{"id": "1", "metadata": {"method": "message/send"}}', True),
        (GET_TASK.encode(), True),  # free whichever of the two the agent obeys
        # An agent that takes JSON-RPC at any path obeys the body.
        (b'{"jsonrpc": "2.0", "method": "message/send"}', False),
        (b'{"Method": "message/send"}', False),
        (b'{"method": "tasks/get", "method": "message/send"}', False),
        (b'[{"method": "message/send"}]', False),
        (b'{"method": "message/send", "id": NaN}', False),
        ('{"method": "message/send"}'.encode("utf-16"), False),
        (None, False),  # coded, or over 64 KiB
    ],
)
@pytest.mark.parametrize("tail", [":cancel", ":subscribe", "/pushNotificationConfigs"])
def test_path_that_is_free_does_not_hide_a_body_that_sends(
    tail: str, body: bytes | None, is_free: bool
) -> None:
    call = read_bytes("POST", f"/tasks/1{tail}", body)
    assert (call.form, call.is_free) == (Form.REST, is_free)
