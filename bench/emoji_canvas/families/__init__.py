"""Small SD1 and SDXL models of the same world, around the demo model's UNet and VAE."""
