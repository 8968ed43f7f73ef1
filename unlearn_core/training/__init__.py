"""Textual inversion, and the unlearning with its losses."""
