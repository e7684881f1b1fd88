"""Ways around the budget that laxer parsers would open: section 5 of the contract."""

import pytest

from gateway.core.calls import read_call

GET_TASK = '{"jsonrpc": "2.0", "method": "tasks/get"}'


@pytest.mark.parametrize(
    "body",
    [
        None,  # coded, or over 1 MiB
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
    assert not read_call("POST", "", body).is_free


def test_member_named_method_in_another_case_counts_as_the_method() -> None:
    assert read_call("POST", "", b'{"Method": "tasks/get"}').is_free
    assert not read_call("POST", "", b'{"Method": "message/send"}').is_free
