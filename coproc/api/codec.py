"""The codec that both ends of a gRPC connection use: strict when reading.

Decides that bytes are checked before they are decoded. Also carries the messages of google's own services (health),
whose classes are strict by themselves.
"""

from __future__ import annotations

from typing import Protocol, Self, runtime_checkable

import betterproto2
from google.protobuf.message import DecodeError  # type: ignore[import-untyped] # it ships no stubs
from grpclib.encoding.base import CodecBase

from coproc.api.wire import check_message
from coproc.errors import InvalidInput


@runtime_checkable
class GoogleMessage(Protocol):
    """What every class of google's runtime offers."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - google's name
        """Serialize."""
        ...

    @classmethod
    def FromString(cls, s: bytes) -> Self:  # noqa: N802 - google's name
        """Parse."""
        ...


class StrictCodec(CodecBase):
    """Encodes like grpclib's own codec, decodes only what ``coproc.api.wire`` finds well-formed."""

    @property
    def __content_subtype__(self) -> str:
        """The part of the content type after ``application/grpc+``."""
        return "proto"

    def encode(self, message: object, message_type: object) -> bytes:
        """Serialize a message.

        Raises:
            TypeError: ``message`` is not of ``message_type``.
        """
        if not isinstance(message_type, type) or not isinstance(message, message_type):
            raise TypeError(f"expected a message of type {message_type}, got {type(message).__name__}")
        if isinstance(message, betterproto2.Message):
            return bytes(message)
        if isinstance(message, GoogleMessage):
            return message.SerializeToString()
        raise TypeError(f"no message: {type(message).__name__}")

    def decode(self, data: bytes, message_type: object) -> object:
        """Parse a message.

        Raises:
            InvalidInput: the bytes are no message of ``message_type``; names the field and the rule.
        """
        if isinstance(message_type, type) and issubclass(message_type, betterproto2.Message):
            check_message(data, message_type)
            return message_type.FromString(data)
        if isinstance(message_type, GoogleMessage):
            try:
                return message_type.FromString(data)
            except DecodeError as error:
                raise InvalidInput("message", "is no valid protobuf message") from error
        raise TypeError(f"no message class: {message_type}")
