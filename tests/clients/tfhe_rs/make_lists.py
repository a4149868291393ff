"""Let TFHE-rs pack what ``tests/tfhe/fixedkeys.py`` makes, and take out what coproc packs: ``make interop``.

Needs Rust. Writes the list that the tests compare with, and ends with status 1 if TFHE-rs reads coproc's otherwise.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from coproc.executors.compression import pack
from coproc.tfhe.ciphertext import read_ciphertext
from coproc.tfhe.compressed_list import write_compressed_list
from coproc.tfhe.parameters import TOY_2_2
from coproc.tfhe.server_key import load_packing_key, read_server_key_facts
from tests.tfhe.fixedkeys import VALUES, fixed_material

TARGET = Path(__file__).parents[2] / "tfhe/wire/data/compressed_list_1_5_1.safe"


def main(program: str) -> int:
    """Run both directions with a built ``tfhe-rs-lists``."""
    key, server_key, data = fixed_material()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "server.key").write_bytes(server_key)
        (folder / "client.key").write_bytes(key.serialize())
        for index, item in enumerate(data):
            (folder / f"{index}.ct").write_bytes(item)
        files = [str(folder / f"{index}.ct") for index in range(len(data))]
        subprocess.run([program, "pack", folder / "server.key", TARGET, *files], check=True)
        compression = read_server_key_facts(server_key).compression
        assert compression is not None
        blocks = [
            read_ciphertext(item, TOY_2_2, kind, bits) for item, (kind, bits, _) in zip(data, VALUES, strict=True)
        ]
        (parts,) = pack([np.concatenate(blocks)], load_packing_key(server_key), TOY_2_2.message_modulus)
        kinds = [(kind, len(own)) for (kind, _, _), own in zip(VALUES, blocks, strict=True)]
        ours = write_compressed_list(parts, kinds, TOY_2_2, compression, key.tag)
        (folder / "ours.list").write_bytes(ours)
        arguments = [program, "unpack", folder / "server.key", folder / "client.key", folder / "ours.list"]
        said = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    same = ours == TARGET.read_bytes()
    print(said, f"the same bytes as TFHE-rs: {same}", sep="")  # noqa: T201 - what it is for
    return 0 if said.split() == ["euint64", str(VALUES[0][2]), "ebool", "true", "eint64", "-42"] and same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
