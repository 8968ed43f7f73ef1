"""Seconds and memory, at SD2's size and for many concepts."""
