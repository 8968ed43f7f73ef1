"""One run: which prompts, how much memory, stage by stage."""
