"""Which words matter to a concept, and the prompts made of them."""
