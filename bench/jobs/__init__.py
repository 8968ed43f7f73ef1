"""A run as a list of jobs: planned, done in one or more processes, kept row by row."""
