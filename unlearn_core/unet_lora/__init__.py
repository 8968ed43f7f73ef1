"""A LoRA of the UNet beside that of the text encoder: applied by hooks, trained under attack."""
