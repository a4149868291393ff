"""What ``coproc bench scale`` measures: the queue in Postgres, and many workers on it."""
