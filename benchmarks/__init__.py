"""What ``coproc bench`` does not run: longer measurements, and their recorded results."""
