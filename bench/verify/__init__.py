"""A page that shows what a LoRA does to a model, read by the model itself."""
