"""The wire dialect of TFHE-rs: objects made by ``safe_serialize`` of releases 1.5, 1.6 and 1.7, read and written.

The schema is declared as annotated dataclasses (``core``, ``parameters``, ``keys``, ``server_keys``, ``ciphertexts``,
``proofs``), from which ``hints`` makes codecs. It knows sizes and shapes, not cryptography: its users decide what the
numbers mean.
"""

from coproc.tfhe.wire.codec import Release
from coproc.tfhe.wire.container import read_name, read_object, write_object
from coproc.tfhe.wire.errors import WireError

__all__ = ["Release", "WireError", "read_name", "read_object", "write_object"]
