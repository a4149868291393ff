"""Websocket subscriptions to results: protocol, resume, slow consumers."""
