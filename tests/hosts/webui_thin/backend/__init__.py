"""A thin stand-in for Forge's package `backend`."""
