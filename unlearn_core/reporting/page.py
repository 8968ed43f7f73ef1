"""The report as one HTML page: pictures inside it, no scripts, nothing loaded from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from ..measuring.evaluation import Evaluation, Group
from ..measuring.judge import wilson
from ..measuring.subjects import OWN_ROLES
from .lines import tally, verdict

BAR = 180
"""Width of a share's bar in pixels."""
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1e1e22; margin: 2rem auto; max-width: 64rem;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.gone { color: #1b7f4b; } .there { color: #c83c32; } .faint { color: #74747c; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .2rem .9rem .2rem 0;
  vertical-align: top; } th { font-weight: 600; } code { overflow-wrap: anywhere; }
img { max-width: 100%; } svg { vertical-align: middle; } td:has(svg) { white-space: nowrap; }
"""


def html_page(
    evaluation: Evaluation,
    lines: Iterable[str],
    is_gone: bool,
    pictures: Mapping[str, bytes],
    facts: Mapping[str, str],
    more: Mapping[str, Mapping[str, str]] | None = None,
    beside: Sequence[Evaluation] = (),
) -> str:
    """The page. `lines` say what was found, `pictures` are PNG files by their captions.

    `facts` are what else a reader may check: hashes, settings. `more` are further tables by their
    captions, `beside` the same pictures as other judges read them.
    """
    name = evaluation.forgotten.concept.name
    found = verdict(is_gone)
    images = "".join(
        f'<h2>{escape(caption)}</h2><img alt="" src="data:image/png;base64,'
        f'{base64.b64encode(png).decode()}">'
        for caption, png in pictures.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(name)}: {found}</title><style>{_STYLE}</style></head><body>"
        f'<h1>{escape(name)}: <span class="{"gone" if is_gone else "there"}">{found}</span></h1>'
        + "".join(f"<p>{escape(line)}</p>" for line in lines)
        + f"<h2>What the pictures show</h2>{''.join(map(_pictures, (evaluation, *beside)))}"
        + "".join(
            f"<h2>{escape(caption)}</h2>{_table((), rows.items())}"
            for caption, rows in (more or {}).items()
        )
        + images
        + f"<h2>What else changed</h2>{_drift(evaluation)}"
        + f"<h2>What was measured</h2>{_table((), [*_own_facts(evaluation), *facts.items()])}"
        + "</body></html>\n"
    )


def _pictures(evaluation: Evaluation) -> str:
    judged = [group for group in evaluation.groups if group.judged]
    if not judged:
        return "<p>Nobody could read them.</p>"
    rows = [_row(group) for group in judged]
    columns = ("drawn", "looked for", "before", "after", "seen after")
    head = "".join(f"<th>{column}</th>" for column in columns)
    return (
        f"<p>Read by {escape(evaluation.judged_by)}. A bar is a share with its 95 % interval "
        f"(Wilson).</p><table><tr>{head}</tr>{''.join(rows)}</table>"
    )


def _row(group: Group) -> str:
    seen = ", ".join(f"{word} {count}" for word, count in tally(group.read_after).items())
    cells = "".join(
        f"<td>{_bar(hits, group.judged, group.role in OWN_ROLES)}</td>"
        for hits in (group.seen_before, group.seen_after)
    )
    role = f'<span class="faint">{escape(group.role)}</span>'
    return (
        f"<tr><td>{escape(group.word)} {role}</td><td>{escape(group.asked)}</td>{cells}"
        f"<td>{escape(seen)}</td></tr>"
    )


def _bar(hits: int, count: int, is_own: bool) -> str:
    low, high = wilson(hits, count)
    ink = "#c83c32" if is_own else "#286ebe"
    share = hits / count
    label = f"{hits} of {count}, 95 % interval {low:.0%} to {high:.0%}"
    return (
        f'<svg width="{BAR}" height="14" role="img"><title>{label}</title>'
        f'<rect width="{BAR}" height="14" fill="#eeeef1"/>'
        f'<rect width="{share * BAR:.0f}" height="14" fill="{ink}" opacity=".75"/>'
        f'<line x1="{low * BAR:.0f}" x2="{high * BAR:.0f}" y1="7" y2="7" stroke="#1e1e22" '
        f'stroke-width="2"/></svg> {hits} of {count}'
    )


def _drift(evaluation: Evaluation) -> str:
    drifts = {
        "the empty prompt": evaluation.drift_of_empty,
        **{f"negative prompt: {text}": d for text, d in evaluation.drift_of_negatives.items()},
        **{f"kept: {word}": d for word, d in evaluation.drift_of_kept.items()},
    }
    rows = [(name, f"{drift:.2%}") for name, drift in drifts.items()]
    return _table(("prompt", "greatest change of its conditioning"), rows)


def _own_facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    forgotten = evaluation.forgotten
    return [
        ("forgotten", ", ".join(forgotten.names)),
        ("kind", forgotten.concept.kind),
        ("drawn in its place", forgotten.stand_in),
        ("kept first", ", ".join(forgotten.kept)),
        ("recommended strength", f"{evaluation.recommended_strength:g}"),
        ("seed of the pictures", str(evaluation.seed)),
    ]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><td>{escape(name)}</td><td><code>{escape(value)}</code></td></tr>"
        for name, value in rows
    )
    return f"<table>{f'<tr>{top}</tr>' if head else ''}{body}</table>"
