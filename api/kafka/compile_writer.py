"""Compiles one message table at one version to a Python function that writes it. Pure.

The counterpart of `compile_reader`: neighbouring fields of fixed size become one `struct` call, nested structs are
inlined. Fields that the version does not have are ignored, tagged fields that equal their default are left out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeAlias, cast

import msgspec

from api.kafka import wire
from api.kafka.schema import FIXED_FORMATS, Field, Message

Writer: TypeAlias = Callable[[msgspec.Struct], bytearray]

_COMPACT_LENGTH_MAX: Final = 127  # of one byte
_PACKERS: Final[dict[str, Callable[[int], Callable[..., bytes]]]] = {}


def compile_writer(message: Message, version: int) -> Writer:
    """A function that encodes `message` as `version` has it. The caller has checked that the version is valid.

    It raises `ValueError` for a message that cannot be encoded: null where the version has no null, a number or a
    text out of range, a value of the wrong type.
    """
    source = _WriterSource(version, message.is_flexible(version))
    source.struct_body(message, "m", 2)
    source.flush(2)
    title = f"{message.name} v{version}"
    text = "\n".join(
        (
            "def write(m):",
            "    out = bytearray()",
            "    try:",
            *source.lines,
            "        return out",
            "    except (AttributeError, TypeError, struct_error) as e:",
            f'        raise ValueError(f"{title} cannot be encoded: {{e}}") from e',
        )
    )
    namespace = dict(source.constants)
    exec(compile(text, f"<writer of {title}>", "exec"), namespace)  # the source holds names from our tables only
    return cast(Writer, namespace["write"])


def _array_packers(char: str, *, flexible: bool) -> Callable[[int], Callable[..., bytes]]:
    """count -> a function that packs the count's prefix and that many numbers."""
    key = f"{char}{flexible}"
    if key not in _PACKERS:
        prefix = "B" if flexible else "i"
        _PACKERS[key] = lru_cache(maxsize=128)(lambda count: struct.Struct(f">{prefix}{count}{char}").pack)
    return _PACKERS[key]


class _WriterSource:
    """The source lines of one writer. `run` is the row of fixed-size values waiting for one `struct` call."""

    def __init__(self, version: int, flexible: bool) -> None:
        self.version = version
        self.flexible = flexible
        self.lines: list[str] = []
        self.constants: dict[str, object] = {"varint": wire.varint, "struct_error": struct.error}
        self.run: list[tuple[str, str]] = []  # struct character, expression
        self.names = 0
        self.out = "out"

    def name(self, stem: str) -> str:
        self.names += 1
        return f"{stem}{self.names}"

    def emit(self, depth: int, *lines: str) -> None:
        self.lines += ["    " * depth + line for line in lines]

    def constant(self, stem: str, value: object) -> str:
        name = self.name(stem)
        self.constants[name] = value
        return name

    def flush(self, depth: int) -> None:
        """Write the waiting run."""
        if self.run:
            row = "".join(char for char, _ in self.run)
            if all(expression == "0" for _, expression in self.run):
                self.emit(depth, f"{self.out} += {bytes(struct.calcsize('>' + row))!r}")
            else:
                self.emit(depth, f"{self.out} += {self.packed()}")
        self.run = []

    def packed(self) -> str:
        """The expression that packs the waiting run."""
        row = "".join(char for char, _ in self.run)
        pack = self.constant("pack", struct.Struct(">" + row).pack)
        return f"{pack}({', '.join(expression for _, expression in self.run)})"

    def struct_body(self, message: Message, source: str, depth: int) -> None:
        """Emit writes of all fields of `source`; the last ones may still wait in the run."""
        tagged = []
        for field in message.fields_in(self.version):
            if field.tag is not None:
                tagged.append(field)
            else:
                self.field(field, f"{source}.{field.name}", field.is_nullable(self.version), depth)
        if tagged:
            self.tags(tagged, source, depth)
        elif self.flexible:
            self.run.append(("B", "0"))

    def field(self, field: Field, value: str, nullable: bool, depth: int) -> None:
        if field.array:
            self.array(field, value, nullable, depth)
        elif isinstance(field.type, Message):
            self.nested(field.type, value, nullable, depth)
        elif field.type in FIXED_FORMATS:
            self.run.append((FIXED_FORMATS[field.type], f"{value}.bytes" if field.type == "uuid" else value))
        else:
            self.variable(field.type, value, nullable, depth)

    def nested(self, message: Message, value: str, nullable: bool, depth: int) -> None:
        if not nullable:
            return self.struct_body(message, value, depth)
        self.flush(depth)
        self.emit(depth, f"if {value} is None:", f"    {self.out} += b'\\xff'", "else:")
        self.run.append(("b", "1"))
        self.struct_body(message, value, depth + 1)
        return self.flush(depth + 1)

    def variable(self, kind: str, value: str, nullable: bool, depth: int) -> None:
        """A string, bytes or records: the length, then the bytes."""
        raw, char = self.name("b"), "h" if kind == "string" else "i"
        if nullable:
            value = self.null_check(value, char, depth)
            depth += 1
        self.emit(depth, f"{raw} = {value}.encode()" if kind == "string" else f"{raw} = {value}")
        self.length(f"len({raw})", char, depth)
        self.emit(depth, f"{self.out} += {raw}")

    def null_check(self, value: str, char: str, depth: int) -> str:
        """Emit the null form and open the `else` for the rest; returns the variable that holds the value."""
        self.flush(depth)
        local = self.name("v")
        null = b"\x00" if self.flexible else struct.pack(">" + char, -1)
        self.emit(depth, f"{local} = {value}", f"if {local} is None:", f"    {self.out} += {null!r}", "else:")
        return local

    def length(self, size: str, char: str, depth: int) -> None:
        """A length or count, with the waiting run before it."""
        if not self.flexible:
            self.run.append((char, size))
            self.flush(depth)
            return
        count = self.name("n")
        self.emit(depth, f"{count} = {size} + 1")
        waiting = self.run
        self.run = [*waiting, ("B", count)]
        self.emit(depth, f"if {count} <= {_COMPACT_LENGTH_MAX}:", f"    {self.out} += {self.packed()}", "else:")
        self.run = waiting
        self.flush(depth + 1)
        self.emit(depth + 1, f"{self.out} += varint({count})")

    def array(self, field: Field, value: str, nullable: bool, depth: int) -> None:
        if nullable:
            items = self.null_check(value, "i", depth)
            depth += 1
        else:
            items = self.name("v")
            self.emit(depth, f"{items} = {value}")
        if isinstance(field.type, str) and field.type in FIXED_FORMATS and field.type != "uuid":
            self.numbers(FIXED_FORMATS[field.type], items, depth)
            return
        self.length(f"len({items})", "i", depth)
        item = self.name("e")
        if isinstance(field.type, Message):
            if self.is_fixed(field.type):
                self.struct_body(field.type, item, depth)
                self.emit(depth, f"{self.out} += b''.join([{self.packed()} for {item} in {items}])")
                self.run = []
                return
            self.emit(depth, f"for {item} in {items}:")
            self.struct_body(field.type, item, depth + 1)
        else:
            self.emit(depth, f"for {item} in {items}:")
            if field.type == "uuid":
                self.emit(depth + 1, f"{self.out} += {item}.bytes")
            else:
                self.variable(field.type, item, False, depth + 1)
        self.flush(depth + 1)

    def is_fixed(self, message: Message) -> bool:
        fields = list(message.fields_in(self.version))
        return bool(fields) and all(f.type in FIXED_FORMATS and not f.array and f.tag is None for f in fields)

    def numbers(self, char: str, items: str, depth: int) -> None:
        """An array of numbers, with its count, in one `struct` call."""
        self.flush(depth)
        count = self.name("n")
        packers = self.constant("packers", _array_packers(char, flexible=self.flexible))
        self.emit(depth, f"{count} = len({items})")
        if not self.flexible:
            self.emit(depth, f"{self.out} += {packers}({count})({count}, *{items})")
            return
        plain = self.constant("struct_of", wire.compiled_struct)
        self.emit(depth, f"if {count} < {_COMPACT_LENGTH_MAX}:")
        self.emit(depth + 1, f"{self.out} += {packers}({count})({count} + 1, *{items})")
        self.emit(depth, "else:")
        self.emit(depth + 1, f"{self.out} += varint({count} + 1)")
        self.emit(depth + 1, f"{self.out} += {plain}(f'>{{{count}}}{char}').pack(*{items})")

    def tags(self, tagged: list[Field], source: str, depth: int) -> None:
        """The tagged section: fields that differ from their default, in the order of their tags."""
        self.flush(depth)
        count, section, outer = self.name("n"), self.name("section"), self.out
        self.emit(depth, f"{count} = 0", f"{section} = b''")
        for field in sorted(tagged, key=lambda f: cast(int, f.tag)):
            local, inner = self.name("v"), self.name("tagged")
            self.emit(depth, f"{local} = {source}.{field.name}")
            self.emit(depth, f"if {self.differs(field, local)}:")
            self.emit(depth + 1, f"{inner} = bytearray()")
            self.out = inner
            self.field(field, local, field.is_nullable(self.version) and not self.is_struct(field), depth + 1)
            self.flush(depth + 1)
            self.out = outer
            self.emit(depth + 1, f"{section} += varint({field.tag}) + varint(len({inner})) + {inner}", f"{count} += 1")
        self.emit(depth, f"{outer} += varint({count})", f"{outer} += {section}")

    def is_struct(self, field: Field) -> bool:
        return isinstance(field.type, Message) and not field.array

    def differs(self, field: Field, local: str) -> str:
        if field.default_value is None:
            return f"{local} is not None"
        if field.array:
            return f"{local}" if not field.is_nullable(self.version) else f"{local} is None or {local}"
        return f"{local} != {self.constant('default', field.default_value)}"
