"""The gRPC compute API: codec, service, limits, version negotiation."""
