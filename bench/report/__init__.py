"""Rows to tables, plots and contact sheets."""
