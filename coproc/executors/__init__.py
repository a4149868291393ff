"""Executors: run the levels of a circuit on ciphertext blocks."""
