"""The word level: types, handles, operations, graphs, and planning a batch."""
