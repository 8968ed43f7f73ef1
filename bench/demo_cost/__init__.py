"""Seconds on the demo model, and what is got for them."""
