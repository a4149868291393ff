"""Block circuits: operations as look-ups over 2-bit blocks, levels, clear evaluation, counts."""
