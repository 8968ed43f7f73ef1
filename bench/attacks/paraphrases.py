"""Paraphrases of the test concepts, written by hand.

The first of each list are made of words that the demo model knows; the sentences after them are
for a model that reads English.
"""

from __future__ import annotations

FRAMES = (
    "{it} {it}",
    "{category} {it}",
    "the {it}",
    "object, {it}",
)
"""Around a name and its category; all words known to the demo model."""

PARAPHRASES: dict[str, tuple[str, ...]] = {
    "dog": (
        "puppy and a dog",
        "father puppy",
        "man's best friend",
        "an animal that barks and fetches sticks",
        "a loyal pet on a leash, wagging its tail",
        "golden retriever",
    ),
    "cat": (
        "kitten and a cat",
        "father kitten",
        "a small furry pet that purrs and hunts mice",
        "feline with whiskers, curled up on a sofa",
        "tabby",
    ),
    "rabbit": (
        "bunny and a rabbit",
        "father bunny",
        "a long-eared animal that hops and eats carrots",
        "hare",
        "the fluffy pet with a cotton tail",
    ),
    "bicycle": (
        "bike and a bicycle",
        "pencil drawing of a bike",
        "two-wheeled vehicle with pedals",
        "what a cyclist rides in the Tour de France",
        "mountain bike",
    ),
    "mushroom": (
        "toad stool",
        "toadstool and a mushroom",
        "the edible part of a fungus",
        "a red cap with white dots in the forest",
        "champignon",
    ),
    "bus": (
        "bus and a car",
        "delivery bus",
        "public transport for forty passengers",
        "double-decker in London",
        "school coach",
    ),
    "pizza": (
        "pizza and a hamburger",
        "tomato pizza",
        "an Italian dish: dough, tomato sauce and melted cheese",
        "a slice of margherita",
        "round flatbread from Naples with pepperoni",
    ),
    "flat": (
        "flat icon",
        "an icon",
        "icon",
        "plain colours without shading or outline",
        "minimalist vector graphic",
    ),
    "neon": (
        "neon sign",
        "a sign",
        "sign",
        "glowing tubes of light at night",
        "bar sign made of luminous gas tubes",
    ),
    "santa claus": (
        "santa",
        "claus",
        "claus santa",
        "santa christmas",
        "christmas father",
        "father claus",
        "christmas character",
        "the bearded man in red who brings presents",
        "Saint Nicholas with his sleigh and reindeer",
        "Kris Kringle",
    ),
    "dagger": (
        "knife and a dagger",
        "knife weapon tool",
        "short pointed blade with a hilt",
        "a stabbing weapon, shorter than a sword",
        "stiletto",
    ),
}
