"""The WebUI around us: only files in this folder, and the tab, name its modules."""
