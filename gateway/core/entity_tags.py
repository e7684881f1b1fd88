"""Entity tags, and the fields of a request that name them (RFC 9110 sections 8.8.3 and 13.1)."""

import hashlib
from collections.abc import Iterable


def etag(body: bytes) -> str:
    """A strong entity tag of exactly these bytes (RFC 9110 section 8.8.3)."""
    return f'"{hashlib.sha256(body).hexdigest()}"'


def is_strongly_matched(if_match: Iterable[str], tag: str) -> bool:
    """Whether the field lines of If-Match name a `tag` of ours (RFC 9110 section 13.1.1)."""
    # Strong comparison: a weak tag is never one of ours. Ours hold no comma, so that no part of
    # another's can be taken for one.
    lines = [line.strip() for line in if_match]
    return lines == ["*"] or any(tag == each.strip() for line in lines for each in line.split(","))


def is_matched(if_none_match: Iterable[str], tag: str) -> bool:
    """Whether the field lines of If-None-Match name a `tag` of ours (RFC 9110 section 13.1.2)."""
    # Weak comparison: what stands before the quotes does not count. A tag holds no quotes, so a
    # quoted one found in a list is one of its members.
    return any(line.strip() == "*" or tag in line for line in if_none_match)
