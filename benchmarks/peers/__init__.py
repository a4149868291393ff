"""Other implementations on the same work, in turn with coproc."""
