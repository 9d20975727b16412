"""Labels of points: near them, and apart."""

from itertools import combinations

from petune.comparison.reporting.label_places import Box, Label, place_labels

FRAME = Box(0, 0, 380, 300)


def test_boxes_share_what_they_share() -> None:
    assert Box(0, 0, 10, 10).overlap(Box(5, 8, 20, 20)) == 10
    assert Box(0, 0, 10, 10).overlap(Box(11, 0, 20, 20)) == 0


def test_a_lone_label_stands_beside_its_point() -> None:
    (placed,) = place_labels([Label("alone", 100, 100)], FRAME)
    assert placed.leader is None
    assert 100 < placed.x < 115


def test_a_label_stays_inside() -> None:
    for x, y in ((5, 5), (375, 5), (5, 295), (375, 295)):
        (placed,) = place_labels([Label("a label of some length", x, y)], FRAME)
        assert placed.box.overlap(FRAME) == placed.box.area


def test_labels_of_a_heap_of_points_do_not_cover_one_another() -> None:
    labels = [Label(f"method {n}", 180 + 6 * (n % 3), 140 + 7 * n) for n in range(9)]
    placed = place_labels(labels, FRAME)
    assert all(first.box.overlap(second.box) == 0 for first, second in combinations(placed, 2))
    far = [found for found in placed if found.leader is not None]
    assert all(found.leader is not None and found.box.left <= found.leader[0] <= found.box.right for found in far)
