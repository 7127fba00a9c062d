from collections import Counter

import pytest

from cluster.metadata.store import SlotKind
from cluster.routing import SLOT_COUNT, RendezvousRouter, slot_of

PARTITIONS = range(1, 3001)


def test_one_node_serves_everything() -> None:
    router = RendezvousRouter([7])
    assert {router.leader(partition_id) for partition_id in PARTITIONS} == {7}
    assert router.coordinator(SlotKind.GROUP, "any") == 7
    assert router.slots(SlotKind.GROUP, 7) == tuple(range(SLOT_COUNT))
    with pytest.raises(ValueError, match="at least one"):
        RendezvousRouter([])


def test_partitions_are_spread_evenly() -> None:
    counts = Counter(map(RendezvousRouter([1, 2, 3, 4]).leader, PARTITIONS))
    assert set(counts) == {1, 2, 3, 4}
    assert all(650 <= count <= 850 for count in counts.values()), counts


def test_the_order_of_the_nodes_does_not_matter() -> None:
    one, two = RendezvousRouter([3, 1, 2]), RendezvousRouter([1, 2, 3, 3])
    assert one.node_ids == two.node_ids
    assert [one.leader(each) for each in PARTITIONS] == [two.leader(each) for each in PARTITIONS]


def test_only_what_the_new_node_takes_moves() -> None:
    before, after = RendezvousRouter([1, 2, 3]), RendezvousRouter([1, 2, 3, 4])
    moved = [each for each in PARTITIONS if before.leader(each) != after.leader(each)]
    assert {after.leader(each) for each in moved} == {4}
    assert 600 <= len(moved) <= 900


def test_a_slot_has_one_node_and_its_groups_go_there() -> None:
    router = RendezvousRouter([1, 2, 3])
    owned = {node_id: router.slots(SlotKind.GROUP, node_id) for node_id in (1, 2, 3)}
    assert sorted(slot for slots in owned.values() for slot in slots) == list(range(SLOT_COUNT))
    assert all(owned.values())
    for number in range(200):
        key = f"group-{number}"
        assert slot_of(key) in owned[router.coordinator(SlotKind.GROUP, key)]


def test_slots_of_known_keys_never_change() -> None:
    """Rows are stored under them."""
    assert [slot_of(key) for key in ("", "g", "orders-consumers", "größe")] == KNOWN_SLOTS


KNOWN_SLOTS = [0, 22, 24, 63]
