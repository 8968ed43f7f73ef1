"""What a LoRA has done: numbers, strength curve, and who reads the pictures."""
