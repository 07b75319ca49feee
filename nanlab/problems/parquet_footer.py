"""A Parquet file -> its rows, and the bytes that it unpacks to, before any is unpacked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


def rows_and_bytes(path: Path) -> tuple[int, int]:
    """Return a Parquet file's number of rows, and its bytes before compression, by its footer.

    The footer is a struct in Thrift's compact protocol (Apache Parquet, `parquet.thrift`); Polars
    does not show this part of it.
    """
    with path.open("rb") as file:
        file.seek(-8, 2)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, 2)
        groups = _Thrift(file.read(length)).struct().get(4, [])
    return sum(group.get(3, 0) for group in groups), sum(group.get(2, 0) for group in groups)


class _Thrift:
    """A reader of Thrift's compact protocol; structs are dicts by field number."""

    def __init__(self, data: bytes) -> None:
        self._bytes: Iterator[int] = iter(data)
        self._read: Mapping[int, Callable[[], Any]] = {
            1: lambda: True, 2: lambda: False, 3: self._bytes.__next__, 4: self._integer,
            5: self._integer, 6: self._integer, 7: lambda: self._skip(8),
            8: lambda: self._skip(self._varint()), 9: self._list, 10: self._list,
            12: self.struct,
        }  # fmt: skip

    def struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while header := next(self._bytes):
            number = number + (header >> 4) if header >> 4 else self._integer()
            fields[number] = self._read[header & 15]()
        return fields

    def _list(self) -> list[Any]:
        header = next(self._bytes)
        size = header >> 4 if header >> 4 < 15 else self._varint()
        kind = header & 15
        # Within a list a boolean takes a byte.
        return [self._read[3 if kind in (1, 2) else kind]() for _ in range(size)]

    def _integer(self) -> int:
        coded = self._varint()
        return (coded >> 1) ^ -(coded & 1)

    def _varint(self) -> int:
        value = shift = 0
        while (byte := next(self._bytes)) & 128:
            value |= (byte & 127) << shift
            shift += 7
        return value | byte << shift

    def _skip(self, count: int) -> None:
        for _ in range(count):
            next(self._bytes)
