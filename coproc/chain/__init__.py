"""EVM chains as callers: blocks are followed, events become computations.

Decides how a chain's blocks are told apart, fetched and read; where they are kept is ``coproc.store.chains``, what runs
is ``nurseries.chain``.
"""
