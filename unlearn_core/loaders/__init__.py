"""Models from files: diffusers folders, single files, the demo model."""
