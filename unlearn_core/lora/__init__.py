"""LoRAs: their keys, weights, files and metadata, and one that is being trained."""
