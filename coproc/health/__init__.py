"""Health probes over HTTP."""
