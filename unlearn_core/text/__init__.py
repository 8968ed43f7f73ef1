"""Tokens, tables of words, and the engine's own copy of the text encoder."""
