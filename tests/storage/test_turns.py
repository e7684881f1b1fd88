"""Turns: everybody is served, in order, and no workspace twice at once."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.storage.turns import Turns


def turns_of(*items: str) -> Turns[str]:
    """Items that wait, each for the workspace of its first letter."""
    turns: Turns[str] = Turns()
    for item in items:
        turns.add(item[0], item)
    return turns


def test_all_that_wait_are_taken_together_up_to_the_limit() -> None:
    turns = turns_of("a1", "b1", "a2", "c1")
    assert turns.take(3) == {"a": ["a1", "a2"], "b": ["b1"]}
    assert turns.take(3) == {"c": ["c1"]}
    assert turns.take(3) == {}


def test_workspace_is_taken_by_nobody_else_until_it_is_given_back() -> None:
    turns = turns_of("a1", "a2", "b1")
    assert turns.take(1) == {"a": ["a1"]}
    turns.add("a", "a3")
    assert turns.take(9) == {"b": ["b1"]}
    assert turns.take(9) == {}
    turns.give_back(["a"])
    assert turns.take(9) == {"a": ["a2", "a3"]}


def test_workspace_with_many_waiting_goes_behind_the_others() -> None:
    turns = turns_of("a1", "a2", "a3", "b1")
    taken = turns.take(2)
    turns.give_back(taken)
    assert taken == {"a": ["a1", "a2"]}
    assert turns.take(2) == {"b": ["b1"], "a": ["a3"]}


def test_what_is_taken_counts_until_it_is_given_back() -> None:
    turns = turns_of("a1", "a2", "b1")
    taken = turns.take(1)
    assert turns.count == 3
    turns.give_back(taken)
    assert turns.count == 2


@given(
    items=st.lists(st.sampled_from("abc"), max_size=30),
    steps=st.lists(st.integers(-3, 4), max_size=40),
)
def test_everything_is_taken_once_and_in_order(items: list[str], steps: list[int]) -> None:
    turns: Turns[int] = Turns()
    waiting, held, served = list(enumerate(items)), set[str](), []
    for step in [*steps, *[-9, 9] * (len(items) + 1)]:
        for number, workspace_id in waiting[: max(step, 0)]:
            turns.add(workspace_id, number)
        del waiting[: max(step, 0)]
        if step < 0:
            turns.give_back(held)
            held = set()
        taken = turns.take(3)
        assert not taken.keys() & held
        held |= taken.keys()
        served += [(number, name) for name, numbers in taken.items() for number in numbers]
    assert sorted(served) == list(enumerate(items))
    for workspace_id in "abc":
        numbers = [number for number, name in served if name == workspace_id]
        assert numbers == sorted(numbers)
