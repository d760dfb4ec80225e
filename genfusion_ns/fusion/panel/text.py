"""What the panel "GenFusion" says, in the MDX (markdown with JSX) that viser's browser page evaluates.

Every text that is not written here goes in as a quoted JavaScript string: braces, brackets and tags in messages and
paths would otherwise be evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from genfusion_ns.fusion.rounds.steering import LoopStatus


def quoted(text: str) -> str:
    """A text as a JSX expression, to be shown as it is."""
    return "{" + json.dumps(text) + "}"


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns, names and values."""
    cells = "".join(
        f"<span style={{{{opacity: 0.6}}}}>{quoted(name)}</span>"
        f'<span style={{{{overflowWrap: "anywhere"}}}}>{quoted(value)}</span>'
        for name, value in rows
    )
    style = '{{display: "grid", gridTemplateColumns: "auto 1fr", columnGap: "0.8em", fontSize: "0.85em"}}'
    return f"<div style={style}>{cells}</div>"


def describe(status: LoopStatus, training_state: str, doing: str) -> str:
    """State of the loop.

    Args:
        status: the latest snapshot.
        training_state: "training", "paused" or "completed".
        doing: what the loop is busy with, or "".
    """
    if not status.active:
        return table(
            [("Repairer", "none: no rounds take place. Start with --pipeline.repairer.model auto to generate views.")]
        )
    rows = [
        ("Rounds", f"{status.rounds} made, {_next(status, training_state)}"),
        ("Weight", f"{status.weight:.3f} on {status.views} generated views"),
    ]
    if training_state == "completed":
        left = f" {status.waiting} requests were not carried out." if status.waiting else ""
        rows.append(
            ("Now", f"training is complete, requests cannot be carried out.{left} Resume with --load-dir to go on.")
        )
    elif doing:
        more = f", {status.waiting} more waiting" if status.waiting else ""
        rows.append(("Now", f"{doing} ...{more}"))
    elif training_state == "paused":
        rows.append(("Now", f"training is paused, waiting: {status.waiting}. Resume training to go on."))
    elif status.waiting:
        rows.append(("Now", f"waiting: {status.waiting}"))
    if status.message:
        rows.append(("Last", status.message))
    return table(rows)


def _next(status: LoopStatus, training_state: str) -> str:
    if training_state == "completed":
        return "none to come"
    if status.paused:
        return "paused"
    return "none scheduled any more" if status.next_step is None else f"next at step {status.next_step}"
