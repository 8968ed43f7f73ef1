"""What a rival is told about a task: the concept's word, its super-category, and what surrounds it.

The rivals' papers leave the super-category to the user (Concept Ablation: "grumpy cat" -> "cat";
UCE: a guide such as "art"). Here it is the category that demo/world.json gives, which the demo
model learned as a word. Synonyms are not told.
"""

from __future__ import annotations

from bench.protocol.erased import Task
from unlearn_core.concept import Concept
from unlearn_core.errors import BadConcept
from unlearn_core.loaders.demo_model import load_demo_world
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.words.neighbours import look_around
from unlearn_core.words.prompts import Name


def checked_name(task: Task, encoder: TextEncoder) -> str:
    """The concept's name; raises BadConcept if it or the kind can't be used on this model."""
    if task.kind not in ("object", "style"):
        raise BadConcept(f"A rival erases an object or a style, not a {task.kind!r}.")
    name = Concept(task.name, kind=task.kind, keep=tuple(task.keep)).name
    if not encoder.knows(name):
        raise BadConcept(
            f"The model has no word vector for {name!r}, so there is nothing to erase; name "
            "something that it draws, such as dog."
        )
    return name


def super_category(task: Task, encoder: TextEncoder) -> str:
    """The more general word for an object, such as animal for dog; "" for a style.

    Where the model lacks that word, or the world the object, the nearest other noun takes its
    place. Raises BadConcept if there is none.
    """
    if task.kind == "style":
        return ""
    known = load_demo_world()["objects"].get(task.name, {})
    category = str(known.get("category", ""))
    if category and encoder.knows(category):
        return category
    nearest = look_around(encoder, Concept(task.name)).nearest(1)
    if not nearest:
        raise BadConcept(f"The model knows no word that could take the place of {task.name!r}.")
    return nearest[0]


def surroundings(task: Task) -> tuple[str, ...]:
    """Things that may stand in a prompt about a style: the task's kept objects, or all categories.

    Styles in the keep list are left out.
    """
    world = load_demo_world()
    kept = [word for word in task.keep if word not in world["styles"]]
    return tuple(kept) or tuple(world["hypernyms"])


def styles_beside(task: Task) -> tuple[str, ...]:
    """The world's styles without the one that is erased."""
    return tuple(style for style in load_demo_world()["styles"] if style != task.name)


def with_article(word: str) -> str:
    """`a dog`, `an apple`, `scissors`."""
    return Name.of(word).article + word
