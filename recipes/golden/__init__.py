"""The golden manifest: written, explained, compared and verified."""
