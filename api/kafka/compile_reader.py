"""Compiles one message table at one version to a Python function that reads it. Pure.

The function is straight-line source: neighbouring fields of fixed size and the length byte behind them become one
`struct` call, nested structs are inlined, arrays of fixed-size structs are one `iter_unpack`. Written once per message
and version on first use (about a millisecond), because a general interpreter of the table is ten times slower.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import starmap
from typing import Final, TypeAlias, cast

import msgspec

from api.kafka import wire
from api.kafka.errors import MalformedMessage
from api.kafka.schema import FIXED_FORMATS, Field, Message

# (buffer, position) -> the message and the position behind it
Reader: TypeAlias = Callable[[memoryview, int], tuple[msgspec.Struct, int]]

# Below this many elements a loop is quicker than `iter_unpack` with its slices.
ITER_UNPACK_ELEMENTS_MIN: Final = 3

_SHARED: Final[dict[str, object]] = {
    "longer_varint": wire.longer_varint,
    "read_varint": wire.read_varint,
    "skip_tags": wire.skip_tags,
    "count_of_tags": wire.count_of_tags,
    "tag_end": wire.tag_end,
    "too_long": wire.too_long,
    "too_many": wire.too_many,
    "not_nullable": wire.not_nullable,
    "uuid_of": wire.uuid_of,
    "compiled_struct": wire.compiled_struct,
    "starmap": starmap,
    "struct_error": struct.error,
    "MalformedMessage": MalformedMessage,
}


def compile_reader(message: Message, version: int, *, elements_max: int | None = None) -> Reader:
    """A function that reads `message` as `version` encodes it. The caller has checked that the version is valid.

    It takes no more than `elements_max` elements in all arrays together: an empty one is three bytes on the wire and
    a hundred and more in memory.
    It raises `MalformedMessage` for everything that the bytes can do wrong; bytes behind the message are not looked at.
    """
    source = _ReaderSource(version, message.is_flexible(version), counted=elements_max is not None)
    result = source.struct_body(message, 2)
    source.flush(2)
    title = f"{message.name} v{version}"
    text = "\n".join(
        (
            "def read(buf, p):",
            f"    end, left = len(buf), {elements_max}",
            "    try:",
            *source.lines,
            f"        return {result}, p",
            "    except (IndexError, struct_error):",
            f'        raise MalformedMessage("{title}: cut short") from None',
            "    except UnicodeDecodeError as e:",
            f'        raise MalformedMessage(f"{title}: text that is not UTF-8: {{e.reason}}") from None',
        )
    )
    namespace = dict(source.constants)
    exec(compile(text, f"<reader of {title}>", "exec"), namespace)  # the source holds names from our tables only
    return cast(Reader, namespace["read"])


def size_min_bytes(kind: str | Message, version: int, *, array: bool, flexible: bool) -> int:
    """The fewest bytes one value of this type takes: bounds how many of them the bytes left can hold."""
    if array:
        return 1 if flexible else 4
    if isinstance(kind, Message):
        fields = (field for field in kind.fields_in(version) if field.tag is None)
        total = sum(size_min_bytes(f.type, version, array=f.array, flexible=flexible) for f in fields)
        return total + flexible
    if kind in FIXED_FORMATS:
        return struct.calcsize(">" + FIXED_FORMATS[kind])
    if flexible:
        return 1
    return 2 if kind == "string" else 4


class _ReaderSource:
    """The source lines of one reader. `run` is the row of fixed-size values waiting for one `struct` call."""

    def __init__(self, version: int, flexible: bool, *, counted: bool) -> None:
        self.version = version
        self.flexible = flexible
        self.counted = counted  # `left` says how many more elements are taken
        self.lines: list[str] = []
        self.constants: dict[str, object] = dict(_SHARED)
        self.run: list[tuple[str, str]] = []  # struct character, variable
        self.after: list[str] = []  # what to do with the run's variables once they are read
        self.names = 0

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
        """Read the waiting run."""
        if self.run:
            row = "".join(char for char, _ in self.run)
            if row == "B":
                self.emit(depth, f"{self.run[0][1]} = buf[p]", "p += 1")
            else:
                compiled = struct.Struct(">" + row)
                unpack = self.constant("unpack", compiled.unpack_from)
                self.emit(
                    depth, f"{', '.join(name for _, name in self.run)}, = {unpack}(buf, p)", f"p += {compiled.size}"
                )
        self.emit(depth, *self.after)
        self.run, self.after = [], []

    def struct_body(self, message: Message, depth: int) -> str:
        """Emit reads of all fields; returns the expression that builds the struct (after the next flush)."""
        values: dict[str, str] = {}
        tagged = []
        for field in message.fields_in(self.version):
            if field.tag is not None:
                tagged.append(field)
            else:
                values[field.name] = self.field(message, field, depth)
        if self.flexible:
            self.tags(message, tagged, values, depth)
        return self.construct(message, values)

    def construct(self, message: Message, values: dict[str, str]) -> str:
        """The call of the class: by position, with defaults for the fields this version does not have."""
        absent = [field.name not in values for field in message.fields]
        used = len(absent) - next((i for i, gone in enumerate(reversed(absent)) if not gone), len(absent))
        arguments = [values.get(f.name) or self.default(f) for f in message.fields[:used]]
        self.constants[message.name] = message.struct
        return f"{message.name}({', '.join(arguments)})"

    def default(self, field: Field) -> str:
        value = field.default_value
        if value == []:
            return "[]"
        return repr(value) if value is None or isinstance(value, int | str | bytes) else self.constant("default", value)

    def field(self, message: Message, field: Field, depth: int) -> str:
        what = f"{message.name}.{field.name}"
        nullable = field.is_nullable(self.version)
        if field.array:
            return self.array(field, what, nullable, depth)
        if isinstance(field.type, Message):
            if nullable and field.tag is None:
                return self.nullable_struct(field.type, depth)
            result = self.struct_body(field.type, depth)
            self.flush(depth)  # its tagged section may be longer than the byte in the run
            return result
        return self.primitive(field.type, what, nullable, depth)

    def primitive(self, kind: str, what: str, nullable: bool, depth: int) -> str:
        value = self.name("v")
        if kind in FIXED_FORMATS:
            self.run.append((FIXED_FORMATS[kind], value))
            if kind == "uuid":
                self.after.append(f"{value} = uuid_of({value})")
            return value
        size = self.length("h" if kind == "string" else "i", depth)
        part = "buf[p:q]"
        part = {"string": f'str({part}, "utf-8")', "bytes": f"bytes({part})"}.get(kind, part)
        self.emit(depth, f"if {size} < 0:")
        self.emit(depth + 1, f"{value} = None" if nullable else f'not_nullable("{what}")')
        self.emit(depth, "else:")
        bound = f" or {size} > {wire.STRING_BYTES_MAX}" if kind == "string" and self.flexible else ""
        self.emit(depth + 1, f"q = p + {size}", f"if q > end{bound}:", f'    too_long("{what}", {size}, end - p)')
        self.emit(depth + 1, f"{value} = {part}", "p = q")
        return value

    def length(self, char: str, depth: int) -> str:
        """Read a length with the waiting run; negative afterwards means null."""
        size = self.name("n")
        if not self.flexible:
            self.run.append((char, size))
            self.flush(depth)
            return size
        self.run.append(("B", size))
        self.flush(depth)
        self.emit(depth, f"if {size} > 127:", f"    {size}, p = longer_varint(buf, p, {size})", f"{size} -= 1")
        return size

    def nullable_struct(self, message: Message, depth: int) -> str:
        """A struct behind a marker: negative is null (KIP-893)."""
        marker, value = self.name("n"), self.name("v")
        self.run.append(("b", marker))
        self.flush(depth)
        self.emit(depth, f"if {marker} < 0:", f"    {value} = None", "else:")
        result = self.struct_body(message, depth + 1)
        self.flush(depth + 1)
        self.emit(depth + 1, f"{value} = {result}")
        return value

    def array(self, field: Field, what: str, nullable: bool, depth: int) -> str:
        value, count = self.name("v"), self.length("i", depth)
        element_bytes = max(size_min_bytes(field.type, self.version, array=False, flexible=self.flexible), 1)
        self.emit(depth, f"if {count} < 0:")
        self.emit(depth + 1, f"{value} = None" if nullable else f'not_nullable("{what}")')
        scale = f" * {element_bytes}" if element_bytes > 1 else ""
        self.emit(depth, f"elif {count}{scale} > end - p:", f'    too_long("{what}", {count}, end - p)', "else:")
        depth += 1
        if self.counted:
            self.emit(depth, f"left -= {count}", "if left < 0:", f'    too_many("{what}")')
        if isinstance(field.type, str) and field.type in FIXED_FORMATS and field.type != "uuid":
            char = FIXED_FORMATS[field.type]
            self.emit(depth, f"{value} = list(compiled_struct(f'>{{{count}}}{char}').unpack_from(buf, p))")
            self.emit(depth, f"p += {count} * {element_bytes}")
            return value
        if isinstance(field.type, Message) and self.is_fixed(field.type):
            self.fixed_elements(field.type, value, count, depth)
            self.emit(depth, "else:")
            depth += 1
        self.emit(depth, f"{value} = []", f"for _ in range({count}):")
        if isinstance(field.type, Message):
            item = self.struct_body(field.type, depth + 1)
        else:
            item = self.primitive(field.type, what, False, depth + 1)
        self.flush(depth + 1)
        self.emit(depth + 1, f"{value}.append({item})")
        return value

    def is_fixed(self, message: Message) -> bool:
        fields = list(message.fields_in(self.version))
        return bool(fields) and all(f.type in FIXED_FORMATS and not f.array and f.tag is None for f in fields)

    def fixed_elements(self, message: Message, value: str, count: str, depth: int) -> None:
        """All elements by one `iter_unpack`, if they are many and none has tagged fields; leaves an `else` open."""
        fields = list(message.fields_in(self.version))
        names = {field.name: self.name("e") for field in fields}
        row = "".join(FIXED_FORMATS[cast(str, f.type)] for f in fields) + ("x" if self.flexible else "")
        compiled = struct.Struct(">" + row)
        iter_unpack = self.constant("iter_unpack", compiled.iter_unpack)
        built = {f.name: f"uuid_of({names[f.name]})" if f.type == "uuid" else names[f.name] for f in fields}
        tagless = f" and not any(buf[p + {compiled.size - 1}:q:{compiled.size}])" if self.flexible else ""
        self.emit(depth, f"q = p + {count} * {compiled.size}")
        self.emit(depth, f"if {count} >= {ITER_UNPACK_ELEMENTS_MIN}{tagless}:")
        item, row_names = self.construct(message, built), ", ".join(names.values())
        rows = f"{iter_unpack}(buf[p:q])"
        if item == f"{message.name}({row_names})":
            self.emit(depth + 1, f"{value} = list(starmap({message.name}, {rows}))", "p = q")
        else:
            self.emit(depth + 1, f"{value} = [{item} for {row_names}, in {rows}]", "p = q")

    def tags(self, message: Message, tagged: list[Field], values: dict[str, str], depth: int) -> None:
        count = self.name("t")
        self.run.append(("B", count))
        if not tagged:
            self.after += [f"if {count}:", f"    p = skip_tags(buf, p, end, {count})"]
            return
        self.flush(depth)
        for field in tagged:
            values[field.name] = self.name("v")
            self.emit(depth, f"{values[field.name]} = {self.default(field)}")
        tag, stop = self.name("tag"), self.name("stop")
        self.emit(depth, f"if {count}:")
        self.emit(depth + 1, f"{count}, p = count_of_tags(buf, p, end, {count})", f"for _ in range({count}):")
        depth += 2
        self.emit(depth, f"{tag}, p = read_varint(buf, p)", f"p, {stop} = tag_end(buf, p, end)")
        for i, field in enumerate(tagged):
            self.emit(depth, f"{'elif' if i else 'if'} {tag} == {field.tag}:")
            result = self.field(message, field, depth + 1)
            self.flush(depth + 1)
            self.emit(depth + 1, f"{values[field.name]} = {result}", f"if p != {stop}:")
            self.emit(depth + 1, f'    too_long("{message.name}.{field.name}", p, {stop})')
        self.emit(depth, "else:", f"    p = {stop}")
