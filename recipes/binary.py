"""Binary structures that read like the table in their specification.

    class GptEntry(Struct):
        type_guid: guid
        first_lba: u64
        name: Annotated[bytes, raw(72)]

Little endian unless the class says ``endian=">"``. Reserved fields are named by their offset
(``reserved_0x14``). Every instance is frozen, compares by value and takes keyword arguments only.
"""

from __future__ import annotations

import struct
import uuid
from typing import Annotated, Any, ClassVar, Self, dataclass_transform, get_type_hints

from .errors import FormatError
from .record import dataclass, names_of


@dataclass(frozen=True)
class Code:
    """How one field is stored: a ``struct`` format, and whether it is a GUID."""

    format: str
    is_guid: bool = False


def raw(size: int) -> Code:
    """Exactly ``size`` bytes, taken as they are."""
    return Code(f"{size}s")


u8 = Annotated[int, Code("B")]
u16 = Annotated[int, Code("H")]
u32 = Annotated[int, Code("I")]
u64 = Annotated[int, Code("Q")]
i64 = Annotated[int, Code("q")]
guid = Annotated[uuid.UUID, Code("16s", is_guid=True)]


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Struct:
    """A fixed-size structure; subclasses list one annotated field a line, in storage order, unpadded."""

    SIZE: ClassVar[int]
    _codec: ClassVar[struct.Struct]
    _names: ClassVar[tuple[str, ...]]
    _guids: ClassVar[tuple[int, ...]]

    def __init_subclass__(cls, *, endian: str = "<") -> None:
        super().__init_subclass__()
        dataclass(frozen=True, kw_only=True)(cls)
        hints = get_type_hints(cls, include_extras=True)
        cls._names = names_of(cls)
        codes: list[Code] = [hints[name].__metadata__[0] for name in cls._names]
        cls._codec = struct.Struct(endian + "".join(code.format for code in codes))
        cls._guids = tuple(index for index, code in enumerate(codes) if code.is_guid)
        cls.SIZE = cls._codec.size

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview, offset: int = 0, *, source: str = "bytes") -> Self:
        """The structure at ``offset``.

        Raises:
            FormatError: fewer than ``SIZE`` bytes are left.
        """
        if offset < 0 or len(data) - offset < cls.SIZE:
            left = max(len(data) - offset, 0)
            what = f"{cls.__name__} needs {cls.SIZE} bytes, {left} are left; the data is truncated"
            raise FormatError(source, what, offset=offset)
        values: list[Any] = list(cls._codec.unpack_from(data, offset))
        for index in cls._guids:
            values[index] = uuid.UUID(bytes_le=values[index])
        return cls(**dict(zip(cls._names, values, strict=True)))

    def pack(self) -> bytes:
        """The ``SIZE`` bytes of this structure.

        Raises:
            FormatError: a value does not fit its field.
        """
        values: list[Any] = [getattr(self, name) for name in self._names]
        for index in self._guids:
            values[index] = values[index].bytes_le
        try:
            return self._codec.pack(*values)
        except struct.error as error:
            raise FormatError(type(self).__name__, f"a value does not fit its field ({error})") from None
