"""Trains and measures the demo's model and judges."""
