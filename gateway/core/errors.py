"""What can go wrong, as a client sees it.

The class fixes the status, the instance carries the facts. web/problems.py shows them as
problem documents (RFC 9457).
"""

from collections.abc import Iterable, Mapping


class GatewayError(Exception):
    """An answer that is not the one hoped for; `detail` is a sentence for people."""

    status = 500
    title = "Internal Server Error"

    def __init__(self, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})


class BadRequest(GatewayError):
    """What was sent cannot be understood; the sentence names the member."""

    status = 400
    title = "Bad Request"


class Unauthorized(GatewayError):
    """No token, or one that nobody here gave out (RFC 6750 section 3)."""

    status = 401
    title = "Unauthorized"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, {"WWW-Authenticate": 'Bearer realm="gateway"'})


class Forbidden(GatewayError):
    """A good token that does not reach this far."""

    status = 403
    title = "Forbidden"


class NotFound(GatewayError):
    """Nothing here by that name."""

    status = 404
    title = "Not Found"


class UnknownWorkspace(NotFound):
    """No workspace has this id, or it was removed."""

    def __init__(self) -> None:
        super().__init__("No workspace has this id, or it was removed.")


class MethodNotAllowed(GatewayError):
    """A method that this address does not know; `allowed` are those it does."""

    status = 405
    title = "Method Not Allowed"

    def __init__(self, allowed: Iterable[str]) -> None:
        super().__init__("This address does not know this method.", {"Allow": ", ".join(allowed)})


class Conflict(GatewayError):
    """The database holds something that does not go together with the request."""

    status = 409
    title = "Conflict"


class PreconditionFailed(GatewayError):
    """It is not as the request says it must be (RFC 9110 section 13); nothing was changed."""

    status = 412
    title = "Precondition Failed"


class RequestTimeout(GatewayError):
    """What was announced did not arrive in time."""

    status = 408
    title = "Request Timeout"


class ContentTooLarge(GatewayError):
    """A body over its limit."""

    status = 413
    title = "Content Too Large"


class TargetTooLong(GatewayError):
    """A request target over its limit."""

    status = 414
    title = "URI Too Long"


class TooManyRequests(GatewayError):
    """Too often in a short time (RFC 6585 section 4)."""

    status = 429
    title = "Too Many Requests"

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail, {"Retry-After": str(retry_after_s)})


class HeaderTooLarge(GatewayError):
    """A header field over its limit, or too many of them (RFC 6585 section 5)."""

    status = 431
    title = "Request Header Fields Too Large"


class CodingNotImplemented(GatewayError):
    """A transfer coding other than chunked (RFC 9112 section 6.1)."""

    status = 501
    title = "Not Implemented"


class BadGateway(GatewayError):
    """The agent refused the connection, broke off, or spoke no HTTP."""

    status = 502
    title = "Bad Gateway"


class GatewayTimeout(GatewayError):
    """The agent did not answer in time."""

    status = 504
    title = "Gateway Timeout"


class VersionNotSupported(GatewayError):
    """A version of HTTP other than 1.0 and 1.1."""

    status = 505
    title = "HTTP Version Not Supported"


class LoopDetected(GatewayError):
    """A call that came back to where it was before (RFC 5842 section 7.2)."""

    status = 508
    title = "Loop Detected"


class Unavailable(GatewayError):
    """Not now; `retry_after_s` says when to come back."""

    status = 503
    title = "Service Unavailable"

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail, {"Retry-After": str(retry_after_s)})


class UnknownAgent(Unavailable):
    """The database is away, and this process does not know where the workspace's agent is."""

    def __init__(self) -> None:
        super().__init__("The database is unavailable, and the agent's address is not known.", 5)


class StorageUnavailable(Unavailable):
    """The database could not answer; `cause` is one word for logs and metrics."""

    def __init__(self, cause: str) -> None:
        super().__init__("The database cannot answer at the moment.", retry_after_s=5)
        self.cause = cause
