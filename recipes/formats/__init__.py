"""Bytes to dataclasses and back, one module per on-disk or in-memory format."""
