"""The TFHE-rs dialect: parameters, wire format, keys, ciphertexts, noise, and a client."""
