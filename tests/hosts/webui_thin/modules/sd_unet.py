"""UNets that draw instead of the checkpoint's own: none."""

current_unet = None
