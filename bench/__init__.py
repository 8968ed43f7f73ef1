"""The benchmark of the repository: `python -m bench`."""
