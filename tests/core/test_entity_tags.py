"""Entity tags: what they are of, and how the fields that name them are read."""

import pytest

from gateway.core.entity_tags import etag, is_matched, is_strongly_matched


def test_entity_tag_is_strong_and_of_the_bytes() -> None:
    tag = etag(b"{}")
    assert tag == etag(b"{}") != etag(b"{} ")
    assert tag.startswith('"')
    assert tag.endswith('"')


@pytest.mark.parametrize(
    ("lines", "is_same"),
    [
        (['"a"'], True),
        (['W/"a"'], True),  # weak comparison
        (['"x", "a"'], True),
        (['"x","a","y"'], True),
        (['"x,", W/"a"'], True),  # a comma may stand inside
        (['"x"', '"a"'], True),  # several field lines are one list
        (["*"], True),
        ([" * "], True),
        (['"b"'], False),
        (['"A"'], False),
        (['"aa"'], False),
        (["a"], False),  # no tag without its quotes
        (['"*"'], False),
        (['"x*"'], False),
        ([""], False),
        ([], False),
    ],
)
def test_if_none_match_is_read_as_the_rfc_says(lines: list[str], is_same: bool) -> None:
    assert is_matched(lines, '"a"') is is_same


@pytest.mark.parametrize(
    ("lines", "is_same"),
    [
        (['"a"'], True),
        (['"x", "a"'], True),
        (['"x","a","y"'], True),
        (['"x"', '"a"'], True),  # several field lines are one list
        (["*"], True),
        ([" * "], True),
        (['W/"a"'], False),  # strong comparison
        (['"b"'], False),
        (['"A"'], False),
        (['"aa"'], False),
        (["a"], False),  # no tag without its quotes
        (['"*"'], False),
        (['"x,*,y"'], False),
        (["*", '"x"'], False),  # all or a list, not both
        ([""], False),
        ([], False),
    ],
)
def test_if_match_is_read_as_the_rfc_says(lines: list[str], is_same: bool) -> None:
    assert is_strongly_matched(lines, '"a"') is is_same
