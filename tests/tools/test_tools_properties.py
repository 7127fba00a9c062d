import pytest

from logstore.errors import InvalidConfig
from tools.properties import Property, parse_properties


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a=b", [("a", "b")]),
        ("a = b c ", [("a", "b c")]),
        ("a: b", [("a", "b")]),
        ("a b", [("a", "b")]),
        ("a", [("a", "")]),
        ("a=", [("a", "")]),
        ("a==b", [("a", "=b")]),
        ("  # a=b\n! c=d\n\n e=f", [("e", "f")]),
        ("a=b\\\n   c\nd=e", [("a", "bc"), ("d", "e")]),
        ("a=b\\\\\nd=e", [("a", "b\\"), ("d", "e")]),
        ("a=b\\", [("a", "b")]),
        ("a\\ b\\==c", [("a b=", "c")]),
        ("a=\\u00e9\\t|\\x", [("a", "é\t|x")]),
        ("a=1\r\nb=2", [("a", "1"), ("b", "2")]),
        ("=b", [("", "b")]),
    ],
)
def test_java_s_format(text, found):
    assert [(p.key, p.value) for p in parse_properties(text)] == found


def test_a_property_knows_its_line():
    assert parse_properties("# c\na=b\\\n  c\n\nd=e") == [Property("a", "bc", 2), Property("d", "e", 5)]


@pytest.mark.parametrize("text", ["a=\\u12", "a=\\u", "a=\\uzzzz"])
def test_a_broken_escape_is_refused(text):
    with pytest.raises(InvalidConfig, match="line 1"):
        parse_properties(text)
