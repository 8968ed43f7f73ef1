"""The rivals, written anew from their papers; CHECKED.md says how near they are to the originals.

Each module holds one method as a frozen dataclass that is called with a base and a task, and
`PUBLISHED` (the paper's settings), `FITTED` (what works on the demo model, chosen on concepts of
`splits.TUNING` only) and `SWEEP` (strengths around that); some have `NEWEST`, what the paper's
repository does today. `few_shot_erasing` changes the text encoder; `uce`, `esd` and
`concept_ablation` the UNet; `negative_prompt` nothing.
"""
