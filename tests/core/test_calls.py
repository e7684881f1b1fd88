"""What goes through over budget, and in which form a call was made: section 5 of the contract."""

import json

import pytest

from gateway.core.calls import Call, Form, is_free_by_method
from gateway.core.target import read_call_target
from tests.core.call_bodies import read_bytes

FREE = [
    "tasks/get",
    "tasks/list",
    "tasks/cancel",
    "tasks/resubscribe",
    *(f"tasks/pushNotificationConfig/{verb}" for verb in ("set", "get", "list", "delete")),
    "agent/getAuthenticatedExtendedCard",
    "agent/authenticatedExtendedCard",
    # 1.0
    "GetTask",
    "ListTasks",
    "CancelTask",
    "SubscribeToTask",
    *(f"{verb}TaskPushNotificationConfig" for verb in ("Create", "Get", "List", "Delete")),
    "ListTaskPushNotificationConfigs",
    "GetExtendedAgentCard",
]

REFUSED = [
    "message/send",
    "message/stream",
    "tasks/send",
    "tasks/sendSubscribe",
    "SendMessage",
    "SendStreamingMessage",
    "tasks/unknown",
    "gettask",  # only a member's name is read ignoring case
    "TASKS/GET",
    "/tasks/get",
    "tasks/get/",
    " tasks/get",
    "tasks/get\0",
    "tasks/pushNotificationConfig/",
    "",
]


def rpc(**members: object) -> bytes:
    """A JSON-RPC request."""
    return json.dumps({"jsonrpc": "2.0", "id": 1, **members}).encode()


@pytest.mark.parametrize("method", FREE)
def test_reading_ending_and_watching_tasks_is_free(method: str) -> None:
    assert read_bytes("POST", "", rpc(method=method)) == Call(Form.JSON_RPC, True, 1)
    assert read_bytes("POST", "/", rpc(method=method, params={"method": "x"})).is_free


@pytest.mark.parametrize("method", REFUSED)
def test_sending_and_everything_unknown_is_refused(method: str) -> None:
    assert read_bytes("POST", "", rpc(method=method)) == Call(Form.JSON_RPC, False, 1)


@pytest.mark.parametrize(
    ("http_method", "is_free"),
    [
        ("GET", True),
        ("HEAD", True),
        ("OPTIONS", True),
        ("DELETE", True),
        ("POST", False),
        ("PUT", False),
        ("PATCH", False),
        ("PURGE", False),  # unknown
        ("get", False),  # methods are case-sensitive (RFC 9110 section 9.1)
        ("", False),
    ],
)
def test_http_method_that_starts_no_work_is_free(http_method: str, is_free: bool) -> None:
    assert is_free_by_method(http_method) is is_free
    for path in ("", "/anything", "/message:send"):
        assert read_bytes(http_method, path, b"").is_free is is_free


@pytest.mark.parametrize(
    ("http_method", "tail", "is_free"),
    [
        ("POST", "/tasks/1:cancel", True),
        ("POST", "/tasks/1:subscribe", True),
        ("POST", "/tasks/1/pushNotificationConfigs", True),
        ("POST", "/v1/tasks/1:cancel", True),  # 0.3 has a version in front
        ("POST", "/tenant/tasks/1:cancel", True),  # 1.0 may have a tenant
        ("POST", "/tasks/1%3Acancel", True),  # what counts is the decoded path
        ("POST", "/%74asks/a%20b:cancel", True),
        ("GET", "/tasks/1", True),
        ("GET", "/tasks", True),
        ("PUT", "/tasks/1:cancel", False),  # the right path with the wrong method
        ("POST", "/message:send", False),
        ("POST", "/message:stream", False),
        ("POST", "/message%3Asend", False),
        ("POST", "/v1/message:send", False),
        ("POST", "/tasks/1:cancel/message:send", False),  # only the end counts
        ("POST", "/tasks/1:cancel/x", False),
        ("POST", "/tasks/1:cancel%0A", False),  # $ would let it pass
        ("POST", "/tasks/1:Cancel", False),
        ("POST", "/tasks/1:cancelx", False),
        ("POST", "/tasks/:cancel", False),  # no task
        ("POST", "/tasks:cancel", False),
        ("POST", "/xtasks/1:cancel", False),
        ("POST", "/tasks/1:unknown", False),
        ("POST", "/tasks/1", False),
        ("POST", "/tasks", False),
        ("POST", "/tasks/1/pushNotificationConfigs/2", False),
        ("POST", "/tasks/1%253Acancel", False),  # decoded once, as agents do
    ],
)
def test_rest_call_is_read_from_its_decoded_path(
    http_method: str, tail: str, is_free: bool
) -> None:
    path = read_call_target(f"/workspaces/w/a2a{tail}").path
    assert read_bytes(http_method, path, b"{}").is_free is is_free


@pytest.mark.parametrize(
    ("tail", "body", "form", "rpc_id"),
    [
        ("", rpc(method="message/send", id=7), Form.JSON_RPC, 7),
        ("", rpc(method="message/send", id="a-1"), Form.JSON_RPC, "a-1"),
        ("", rpc(method="message/send", id=""), Form.JSON_RPC, ""),
        ("", rpc(method="message/send", id=0), Form.JSON_RPC, 0),
        ("", rpc(method="message/send", id=1.5), Form.JSON_RPC, 1.5),
        ("", rpc(method="message/send", id=None), Form.JSON_RPC, None),
        ("", rpc(method="message/send", id=True), Form.JSON_RPC, None),  # no id by the standard
        ("", rpc(method="message/send", id={"a": 1}), Form.JSON_RPC, None),
        ("", rpc(method="message/send", id=[1]), Form.JSON_RPC, None),
        ("", b'{"jsonrpc": "2.0", "method": "x"}', Form.JSON_RPC, None),  # a notification
        ("", b'{"jsonrpc": "2.0", "id": 1, "id": 2}', Form.JSON_RPC, None),  # which one?
        ("", b'{"jsonrpc": "2.0", "id": 1, "x": NaN}', Form.JSON_RPC, None),  # it seems to be
        ("", b'[{"jsonrpc": "2.0", "id": 1}]', Form.JSON_RPC, None),  # a batch
        ("/x", rpc(method="x"), Form.JSON_RPC, 1),  # at any path that is not REST's
        ("", b'{"message": {"jsonrpc": "2.0"}}', Form.PLAIN, None),
        ("", b"{}", Form.PLAIN, None),
        ("", None, Form.PLAIN, None),
        ("", rpc(method="x").decode().encode("utf-16"), Form.PLAIN, None),
        ("/message", b"{}", Form.PLAIN, None),
        ("/message:send", b"{}", Form.REST, None),
        ("/v1/message:stream", None, Form.REST, None),
        ("/tasks/1:unknown", b"", Form.REST, None),
        ("/message:send", rpc(method="tasks/get"), Form.REST, None),  # the path decides
    ],
)
def test_form_and_id_are_those_of_the_request(
    tail: str, body: bytes | None, form: Form, rpc_id: object
) -> None:
    call = read_bytes("POST", tail, body)
    assert (call.form, call.rpc_id, type(call.rpc_id)) == (form, rpc_id, type(rpc_id))
    assert call.is_free is False
