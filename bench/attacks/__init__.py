"""Attacks that bring an erased concept back, each as a curve over its steps.

`textual_inversion` (CCE), `soft_prompt` (PGD), `pass_through` (a free state) and `words` (synonyms,
typos, paraphrases) each have

    attack(erased: Erased, concept: str, pictures: tuple[Tensor, ...], settings, seed: int,
           world: World) -> AttackCurve

and their settings as SETTINGS (full) and QUICK. `pictures` are `pictures.attack_pictures(concept)`,
which no eraser sees; `words` needs none. All work on objects; `words` on styles too.
An attack reads text through `erased.encoder` and draws through `erased.model`, with
`erased.negative` in the branch without the prompt; it changes neither.

Controls: `attack(base, control, attack_pictures(control), ...)` for `splits.CONTROLS`. The base
model never learned these, so what their curves show was drawn anew and not recovered.
`words.attack` is run on the base model and on the erased one; `words.against(base, erased)` keeps
the entries that work on the base.
"""

from .curve import AttackCurve, Point, Restart

__all__ = ["AttackCurve", "Point", "Restart"]
