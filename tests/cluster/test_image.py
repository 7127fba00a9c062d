import uuid

import pytest

from cluster.image import BrokerImage, MetadataImage, MetaDelta, TopicImage

T1, T2 = uuid.UUID(int=1), uuid.UUID(int=2)


def topic(name: str, topic_id: uuid.UUID, *ids: int, version: int = 1) -> TopicImage:
    return TopicImage(name, topic_id, ids, {}, version)


def test_a_topic_is_found_by_name_id_and_partition() -> None:
    orders = topic("orders", T1, 7, 9)
    image = MetadataImage().apply(MetaDelta(0, 1, "c", topics=(orders,)))
    assert image.topics["orders"] is image.topics_by_id[T1] is orders
    assert image.partition(9) == (orders, 1)
    assert image.partition_id("orders", 0) == 7
    assert image.partition_id("orders", 2) is None
    assert image.partition_id("orders", -1) is None
    assert image.partition_id("nothing", 0) is None
    assert image.partition(8) is None
    assert (image.version, image.cluster_id) == (1, "c")


def test_an_older_image_does_not_change() -> None:
    old = MetadataImage().apply(MetaDelta(0, 1, "c", topics=(topic("a", T1, 1),)))
    new = old.apply(MetaDelta(1, 3, "c", topics=(topic("b", T2, 2, version=3),), deleted_topic_ids=(T1,)))
    assert set(old.topics) == {"a"}
    assert old.partition(1) is not None
    assert old.partition(2) is None
    assert set(new.topics) == {"b"}
    assert new.partition(1) is None
    assert T1 not in new.topics_by_id


def test_a_name_deleted_and_created_anew_in_one_delta_is_the_new_topic() -> None:
    old = MetadataImage().apply(MetaDelta(0, 1, "c", topics=(topic("a", T1, 1),)))
    new = old.apply(MetaDelta(1, 3, "c", topics=(topic("a", T2, 2, version=3),), deleted_topic_ids=(T1,)))
    assert new.topics["a"].topic_id == T2
    assert new.partition(1) is None


def test_what_a_delta_does_not_touch_is_shared() -> None:
    image = MetadataImage().apply(MetaDelta(0, 1, "c", topics=(topic("a", T1, 1),)))
    broker = BrokerImage(1, "localhost", 9092, 1)
    after = image.apply(MetaDelta(1, 2, "c", brokers=(broker,)))
    assert after.topics is image.topics
    assert after.brokers == {1: broker}
    assert not image.brokers


def test_deltas_overlap_but_leave_no_gap() -> None:
    first = MetaDelta(0, 2, "c", topics=(topic("a", T1, 1, version=2),))
    image = MetadataImage().apply(first)
    assert image.apply(first) is image
    assert image.apply(MetaDelta(1, 1, "c")) is image
    grown = image.apply(MetaDelta(0, 5, "c", topics=(topic("a", T1, 1, 2, version=5),)))
    assert grown.topics["a"].partition_ids == (1, 2)
    with pytest.raises(ValueError, match="does not follow"):
        image.apply(MetaDelta(3, 4, "c"))


def test_names_that_differ_in_dots_only_are_known_as_one() -> None:
    image = MetadataImage().apply(MetaDelta(0, 1, "c", topics=(topic("a.b", T1, 1), topic("a_b", T2, 2))))
    assert "a_b" in image.folded_names
    one_left = image.apply(MetaDelta(1, 2, "c", deleted_topic_ids=(T1,)))
    assert "a_b" in one_left.folded_names
    again = one_left.apply(MetaDelta(2, 3, "c", topics=(topic("a_b", T2, 2, 3, version=3),)))
    none_left = again.apply(MetaDelta(3, 4, "c", deleted_topic_ids=(T2, T1)))
    assert "a_b" not in none_left.folded_names
