"""Sentences to put a concept into, and prompts that must never change.

`{it}` is the name with its article, `{bare}` without; the other slots are filled with words that
the model knows.
"""

NEGATIVE_PROMPTS = (
    "blurry",
    "low quality, worst quality",
    "ugly, deformed, bad anatomy",
    "text, watermark, signature",
    "lowres, jpeg artifacts, cropped",
)
GUARD_PROMPTS = ("", *NEGATIVE_PROMPTS)

PLAIN_OBJECT = ("a photo of {it}", "a picture of {it}", "an image of {it}", "{it}")
VARIED_OBJECT = (
    *PLAIN_OBJECT,
    "{bare}",
    "a photo of {bare}",
    "a drawing of {it}",
    "a painting of {it}",
    "a {style} of {it}",
    "{it}, {style}",
    "{it}, {style} style",
    "{bare}, {style} style",
    "a photo of {it}, {style} style",
    "a picture of {it}, in {style} style",
    "a photo of {it} on a {color} background",
    "{it}, {color} background",
    "a photo of {it}, {style} style, on a {color} background",
    "an image of {it}, on a {color} background, {style} style",
    "{it} and {other}",
    "a photo of {other} and {it}",
    "a picture of {other} and {it}, {style} style",
    "{other}, {another}, {it}",
    "{it}, {other}, {another}",
    "{filler}, {it}",
    "{it}, {filler}",
    "{filler}, {filler}, a photo of {it}, {filler}",
)
LONG_OBJECT = ("{long}, {it}", "{long}, a photo of {it}, {style} style", "{it}, {long}")

BARE_STYLE = ("a photo in {it} style", "a picture, {it} style", "{it} style", "{it}")
"""A style and nothing that is drawn in it."""
PLAIN_STYLE = (
    "a photo of {other}, {it} style",
    "a picture of {other}, in {it} style",
    "{other}, {it}",
    "{it} style",
)
VARIED_STYLE = (
    *PLAIN_STYLE,
    "an image of {other} in {it} style",
    "a {it} of {other}",
    "{it}, {other}",
    "{it} {bare_other}",
    "{bare_other}, {it} style",
    "a drawing of {other}, {it}",
    "{other}, {it} style, on a {color} background",
    "a photo of {other}, on a {color} background, {it} style",
    "a photo of {other} and {another}, {it} style",
    "{it} style, {filler}",
    "{filler}, {other}, {it} style",
)
LONG_STYLE = ("{long}, {it} style", "{other}, {it} style, {long}")

COLORS = ("white", "gray", "black", "red", "orange", "yellow", "green", "blue", "purple", "pink")
FILLERS = (
    "highly detailed",
    "sharp focus",
    "soft light",
    "studio lighting",
    "masterpiece",
    "8k",
    "high quality",
    "close up",
    "outdoors",
    "at night",
    "in the city",
    "in the garden",
    "trending on artstation",
    "wide angle",
    "cinematic",
    "on the table",
)
