"""A TFHE-rs client in Python: secret keys, encryption, decryption. Servers never need it."""

from coproc.tfhe.client.key import ClientKey

__all__ = ["ClientKey"]
