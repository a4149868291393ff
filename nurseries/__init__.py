"""The supervision tree: every nursery, channel, restart policy and shutdown order."""
