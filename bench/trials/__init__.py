"""Single questions, each asked by one command."""
