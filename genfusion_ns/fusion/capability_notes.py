"""What the capabilities of its repairer mean for a run, said when it starts."""

from __future__ import annotations

from genfusion_ns.fusion.rounds.settings import RoundSettings
from genfusion_ns.priors.config import FoundRepairer


def capability_notes(config: RoundSettings, repairer: FoundRepairer) -> list[str]:
    """One sentence for each setting of the loop that this repairer makes mean less, or something else.

    Args:
        config: of the loop.
        repairer: that the run will use.
    """
    can, name = repairer.capabilities, repairer.kind
    config = config.suited_to(can)
    needs_filling = config.seeding.enabled or config.sampler._target.shows_holes
    if not can.repairs:
        left = ", and what they do not show stays empty" if needs_filling else ""
        return [f"Repairer: {name}. No rounds take place; the scene is fitted to the photos alone{left}."]
    notes = []
    if needs_filling and not can.fills_holes:
        notes.append(
            f"Repairer {name} leaves empty pixels as they are: what no photo shows stays empty. "
            "--pipeline.repairer.model names another."
        )
    elif config.seeding.enabled and not can.makes_depth:
        notes.append(
            f"Repairer {name} makes no depth of its own: new surfels take the depth that it continues from the render "
            "around them."
        )
    if needs_filling and can.fills_holes and config.unshown_weight == 0:
        instead = "that is left as it is"
        if config.continued_weight:
            instead = "what photos show goes on over what stands there, unless they tell what empty space looks like"
        notes.append(
            f"Repairer {name} can but guess what no photo shows, so {instead}; "
            "--pipeline.fusion.unshown-weight 1 has the guess supervise the scene."
        )
    if config.depth_weight and not can.makes_depth:
        notes.append(
            f"Repairer {name} makes no depth of its own: --pipeline.fusion.depth-weight {config.depth_weight:g} mostly "
            "holds the scene to the depth that it had in its latest round."
        )
    if config.use_confidence and not can.makes_confidence:
        notes.append(
            f"Repairer {name} gives no confidence of its own: pixels are weighed by coverage and agreement with the "
            "photos alone."
        )
    return notes
