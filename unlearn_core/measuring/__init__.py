"""What a LoRA has done: numbers, strength curve, contact sheets, the report."""
