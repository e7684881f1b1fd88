"""What a workspace may be called: section 2 of the contract."""

import pytest

from gateway.core.workspaces import is_workspace_id


@pytest.mark.parametrize(
    ("text", "is_id"),
    [
        ("a", True),
        ("reno-stars", True),
        ("5f3c2a9e-8d1b-4c6f-9a7e-0b1c2d3e4f50", True),
        ("AZaz09._:-", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("", False),
        ("a b", False),
        ("a\n", False),  # $ would let it pass
        ("a\0", False),
        ("a/b", False),
        ("a%62", False),  # decoded before, never twice
        ("'; DROP TABLE workspaces --", False),
        ("é", False),
        ("٣", False),  # a digit, but not of ASCII
    ],
)
def test_workspace_id_is_1_to_128_of_these_characters(text: str, is_id: bool) -> None:
    assert is_workspace_id(text) is is_id
