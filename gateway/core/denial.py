"""The refusal of a call whose workspace has spent a window: always 402, in the call's own form.

The forms were tried with the A2A SDKs for Python and JavaScript: each shows the message to its
user. There is nothing to pay here, so no payment header and no billing word.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gateway.core.budget import Budget, WindowSpend, retry_at, timestamp, window_document
from gateway.core.calls import Call, Form
from gateway.core.headers import rate_limit_fields, retry_after
from gateway.core.money import dollars

STATUS = 402
SENTENCE = "workspace budget limit exceeded"

_RPC_SERVER_ERROR = -32000  # JSON-RPC 2.0 section 5.1: -32000 to -32099 are for servers to define
_PROBLEM_TYPE = "https://iana.org/assignments/http-problem-types#quota-exceeded"


@dataclass(frozen=True, slots=True)
class Denial:
    """A refusal ready to be written: a JSON document, its media type and header fields.

    `reason` stands in the status line (RFC 9112 section 4). The SDKs for Python throw an error
    status's body away and show their user the status line: httpx's "Client error '402 ...'".
    """

    reason: str
    document: Mapping[str, object]
    content_type: str
    headers: Mapping[str, str]


def deny(budget: Budget, call: Call) -> Denial:
    """The refusal of `call`, naming every exceeded window of `budget`."""
    document, content_type = _DOCUMENTS[call.form](budget, call), "application/json"
    if call.form is Form.PLAIN:
        content_type = "application/problem+json"
    headers = {"Cache-Control": "no-store", **retry_after(budget), **rate_limit_fields(budget)}
    return Denial(message(budget), document, content_type, headers)


def message(budget: Budget) -> str:
    """One sentence for people: every exceeded window in dollars, and when to come back."""
    windows = ", ".join(_window_words(window) for window in budget.exceeded)
    return f"{SENTENCE}: {windows}; {_retry_words(budget)}"


def _window_words(window: WindowSpend) -> str:
    return (
        f"{window.period.name} {dollars(window.spend_cents)} of {dollars(window.limit_cents or 0)}"
    )


def _retry_words(budget: Budget) -> str:
    moment = retry_at(budget.exceeded)
    if moment is None:
        return "no retry before the limit is raised"
    moment = _up_to_the_second(moment.astimezone(UTC))
    if moment.date() == budget.as_of.astimezone(UTC).date():
        return f"earliest retry {moment:%H:%M:%S} UTC"
    return f"earliest retry {moment:%Y-%m-%d %H:%M:%S} UTC"


def _up_to_the_second(moment: datetime) -> datetime:
    # Rounded up: a caller who comes back at the named second must get through.
    fraction = timedelta(microseconds=moment.microsecond)
    return moment if not fraction else moment - fraction + timedelta(seconds=1)


def _rpc_document(budget: Budget, call: Call) -> dict[str, object]:
    error = {
        "code": _RPC_SERVER_ERROR,
        "message": message(budget),
        "data": [_error_info(budget)],
    }
    return {"jsonrpc": "2.0", "id": call.rpc_id, "error": error}


def _rest_document(budget: Budget, _call: Call) -> dict[str, object]:
    error = {
        "code": STATUS,
        "status": "RESOURCE_EXHAUSTED",
        "message": message(budget),
        "details": [_error_info(budget)],
    }
    return {"error": error}


def _problem_document(budget: Budget, _call: Call) -> dict[str, object]:
    return {
        "type": _PROBLEM_TYPE,
        "title": "Quota Exceeded",
        "status": STATUS,
        "detail": message(budget),
        "error": SENTENCE,
        "workspace_id": budget.workspace_id,
        "violated-policies": [window.period.name for window in budget.exceeded],
        "periods": {window.period.name: window_document(window) for window in budget.exceeded},
    }


def _error_info(budget: Budget) -> dict[str, object]:
    """google.rpc.ErrorInfo: a machine's view of the same; its metadata are strings."""
    metadata = {"workspace_id": budget.workspace_id}
    metadata["exceeded"] = ",".join(window.period.name for window in budget.exceeded)
    for window in budget.exceeded:
        name = window.period.name
        metadata[f"{name}_limit"] = str(window.limit_cents)
        metadata[f"{name}_spend"] = str(window.spend_cents)
        metadata[f"{name}_remaining"] = str(window.remaining_cents)
        metadata[f"{name}_retry_at"] = "" if window.retry_at is None else timestamp(window.retry_at)
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "BUDGET_EXCEEDED",
        "domain": "a2a-budget-gateway",
        "metadata": metadata,
    }


_DOCUMENTS = {
    Form.JSON_RPC: _rpc_document,
    Form.REST: _rest_document,
    Form.PLAIN: _problem_document,
}
