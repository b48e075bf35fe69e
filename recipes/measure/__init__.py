"""Replay: pure functions from a machine and its bytes to a trace. Opens no file and knows no recipe."""
