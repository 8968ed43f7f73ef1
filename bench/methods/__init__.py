"""Our presets and how any method is found by its name."""
