"""Our ``.proto`` files as the protobuf library's descriptors: one statement of every field.

Only what these files use is read: messages, enums, ``oneof``, ``optional``, ``repeated`` and maps with
``string`` keys; every type is of the same file. A line that is none of that is a mistake, never passed over.

Spec: Protocol Buffers, "Language Specification (proto3)"; protobuf 30 descriptor.proto,
``FieldDescriptorProto`` and ``MessageOptions.map_entry``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from ..errors import FormatError

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
}
_FIELD = re.compile(r"(?:(repeated|optional) )?(?:map<string, (\w+)>|(\w+)) (\w+) = (\d+);")
_BLOCK = re.compile(r"(message|enum|oneof) (\w+) \{(\})?")
_VALUE = re.compile(r"(\w+) = (\d+);")
_HEAD = re.compile(r'syntax = "proto3";|package ([\w.]+);')


def message_classes(name: str) -> dict[str, type[Message]]:
    """The classes of a file's messages, by name.

    Args:
        name: of a file beside this module.

    Raises:
        FormatError: a line is not understood.
    """
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    file = file_descriptor(text, name)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindFileByName(name).message_types_by_name
    return {key: message_factory.GetMessageClass(value) for key, value in found.items()}


def file_descriptor(text: str, name: str) -> descriptor_pb2.FileDescriptorProto:
    """What a ``.proto`` file describes.

    Raises:
        FormatError: a line is not understood.
    """
    file = descriptor_pb2.FileDescriptorProto(name=name, syntax="proto3")
    lines = _lines(text)
    for number, line in lines:
        block, head = _BLOCK.fullmatch(line), _HEAD.fullmatch(line)
        if head is not None:
            file.package = head[1] or file.package
        elif block is not None and block[1] == "message":
            _message(file.message_type.add(name=block[2]), lines if not block[3] else iter(()), name)
        elif block is not None and block[1] == "enum":
            _enum(file.enum_type.add(name=block[2]), lines, name)
        else:
            raise _wrong(name, number, line)
    _resolve(file)
    return file


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("//")[0].strip()
        if content:
            yield number, content


def _wrong(name: str, number: int, line: str) -> FormatError:
    return FormatError(f"{name}:{number}", f"{line!r} is not understood")


def _message(message: descriptor_pb2.DescriptorProto, lines: Iterator[tuple[int, str]], name: str) -> None:
    choice: int | None = None
    optional: list[descriptor_pb2.FieldDescriptorProto] = []
    for number, line in lines:
        block, found = _BLOCK.fullmatch(line), _FIELD.fullmatch(line)
        if line == "}" and choice is None:
            break
        if line == "}":
            choice = None
        elif block is not None and block[1] == "oneof":
            choice = len(message.oneof_decl)
            message.oneof_decl.add(name=block[2])
        elif found is not None:
            field = message.field.add(name=found[4], number=int(found[5]), type_name=found[3] or "")
            field.label = _Field.LABEL_REPEATED if found[1] == "repeated" else _Field.LABEL_OPTIONAL
            if choice is not None:
                field.oneof_index = choice
            if found[1] == "optional":
                optional.append(field)
            if found[2] is not None:
                _map(message, field, found[2])
        else:
            raise _wrong(name, number, line)
    # A oneof of its own is how a field's presence is told; these come after all others.
    for field in optional:
        field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{field.name}")


def _map(
    message: descriptor_pb2.DescriptorProto, field: descriptor_pb2.FieldDescriptorProto, value: str
) -> None:
    """A map is a repeated message of its own with key and value."""
    words = "".join(word.capitalize() for word in field.name.split("_"))
    entry = message.nested_type.add(name=f"{words}Entry")
    entry.options.map_entry = True
    for number, (name, kind) in enumerate((("key", "string"), ("value", value)), 1):
        entry.field.add(name=name, number=number, type_name=kind, label=_Field.LABEL_OPTIONAL)
    field.type_name, field.label = f"{message.name}.{entry.name}", _Field.LABEL_REPEATED


def _enum(enum: descriptor_pb2.EnumDescriptorProto, lines: Iterator[tuple[int, str]], name: str) -> None:
    for number, line in lines:
        value = _VALUE.fullmatch(line)
        if line == "}":
            return
        if value is None:
            raise _wrong(name, number, line)
        enum.value.add(name=value[1], number=int(value[2]))


def _resolve(file: descriptor_pb2.FileDescriptorProto) -> None:
    """Gives each field its type: a scalar, an enum or a message of the file."""
    enums = {enum.name for enum in file.enum_type}
    for message in file.message_type:
        for field in (*message.field, *(field for entry in message.nested_type for field in entry.field)):
            word = field.type_name
            if word in _SCALARS:
                field.type = _SCALARS[word]
                field.ClearField("type_name")
            else:
                field.type = _Field.TYPE_ENUM if word in enums else _Field.TYPE_MESSAGE
                field.type_name = f".{file.package}.{word}"
