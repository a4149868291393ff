"""Google's own classes for the messages of our contract, as a second opinion."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from coproc.api.generate import PROTO

if TYPE_CHECKING:
    from google.protobuf.message import Message


@cache
def pool() -> descriptor_pool.DescriptorPool:
    """Compile the contract into a descriptor pool."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "set.bin"
        arguments = [f"-I{PROTO}", f"--descriptor_set_out={out}", "coproc/v1/coproc.proto"]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True)
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    descriptors = descriptor_pool.DescriptorPool()
    for file in files:
        descriptors.Add(file)
    return descriptors


def google_class(name: str) -> type[Message]:
    """Get google's class of a message."""
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(f"coproc.v1.{name}"))


def serialize(message: Message) -> bytes:
    """Serialize, as grpcio wants it."""
    return message.SerializeToString()
