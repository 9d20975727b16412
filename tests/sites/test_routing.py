"""Which rows go where."""

import pytest
import torch

from petune.sites.routing import Group, Route, Routing

CPU = torch.device("cpu")


def test_rows_of_one_stack_form_one_group_in_order() -> None:
    route = Route.of([("a",), (), ("b",), ("a",), ("a", "b"), ("b", "a")])
    found = {group.stack: group.rows.tolist() for group in route.groups if group.rows is not None}
    assert found == {("a",): [0, 3], (): [1], ("b",): [2], ("a", "b"): [4], ("b", "a"): [5]}
    assert route.num_rows == 6


def test_one_stack_for_all_rows_needs_no_index() -> None:
    assert Route.of([("a",)] * 3) == Route.everywhere(("a",))
    assert Route.everywhere(("a",)).groups[0].index(0, 12, CPU) is None


def test_some_rows_keep_their_stacks_in_the_order_asked_for() -> None:
    route = Route.of([("a",), (), ("b",), ("a",)])
    part = route.of_rows([2, 3, 0])
    assert {g.stack: g.rows.tolist() for g in part.groups if g.rows is not None} == {("b",): [0], ("a",): [1, 2]}
    assert part.num_rows == 3
    assert route.of_rows([3, 0]) == Route.everywhere(("a",))
    alike = Route.everywhere(("a",), virtual_tokens=False)
    assert alike.of_rows([1, 0]) == alike


def test_entries_of_rows_are_routed_as_these() -> None:
    route = Route.of([("a",), (), ("b",), ("a",)])
    entries = route.of_entries(torch.tensor([0, 0, 2, 3, 3, 3]))
    assert {g.stack: g.rows.tolist() for g in entries.groups if g.rows is not None} == {
        ("a",): [0, 1, 3, 4, 5],
        (): [],
        ("b",): [2],
    }
    assert entries.num_rows == 6
    alike = Route.everywhere(("a",))
    assert alike.of_entries(torch.tensor([0, 1, 1])) is alike


@pytest.mark.parametrize(("entries", "expected"), [(3, [0, 2]), (6, [0, 1, 4, 5]), (9, [0, 1, 2, 6, 7, 8])])
def test_entries_of_a_row_stay_together(entries: int, expected: list[int]) -> None:
    index = Group(("a",), torch.tensor([0, 2])).index(3, entries, CPU)
    assert index is not None
    assert index.tolist() == expected


def test_entries_that_belong_to_no_row_are_our_mistake() -> None:
    with pytest.raises(AssertionError, match="7 entries cannot belong to 3 rows"):
        Group(("a",), torch.tensor([0])).index(3, 7, CPU)


def test_the_former_route_returns_also_after_an_error_and_when_nested() -> None:
    routing = Routing()
    assert routing.route == Route.everywhere(())
    routing.set_default(("a",))
    inner = Route.of([("a",), ()])
    with pytest.raises(ValueError, match="broken"), routing.use(inner):  # noqa: PT012 - what happens inside is the test
        assert routing.route is inner
        with routing.use(Route.everywhere(("b",))):
            assert routing.route == Route.everywhere(("b",))
        assert routing.route is inner
        raise ValueError("broken")
    assert routing.route == Route.everywhere(("a",))


def test_no_rows_go_nowhere() -> None:
    assert Route.of([]).groups == ()


def test_groups_that_work_in_one_piece() -> None:
    route = Route.of([("a",), (), ("b",), ("b",), ("a",)])
    index, runs = route.assigned((0, 2), 5, CPU)
    assert index is not None
    assert (index.tolist(), runs) == ([0, 2, 3, 4], ((0, 0, 1), (1, 1, 3), (0, 3, 4)))
    index, again = route.assigned((0, 2), 10, CPU)
    assert index is not None
    assert (index.tolist(), again is runs) == ([0, 1, 4, 5, 6, 7, 8, 9], True)
    index, runs = route.assigned((0, 1, 2), 5, CPU)
    assert (index, runs) == (None, ((0, 0, 1), (1, 1, 2), (2, 2, 4), (0, 4, 5)))


def test_an_index_made_without_autograd_serves_a_backward_pass() -> None:
    route = Route.of([("a",), ("b",), ()])
    with torch.inference_mode():
        route.assigned((0, 1), 3, torch.device("cpu"))
    index, _ = route.assigned((0, 1), 3, torch.device("cpu"))
    x = torch.ones(3, 2, requires_grad=True)
    assert index is not None
    x.index_select(0, index).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1, 1], [1, 1], [0, 0]]
