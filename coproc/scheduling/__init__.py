"""The scheduler as a pure function from state and event to actions."""
