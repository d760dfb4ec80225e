"""Lines for the user's console."""

from __future__ import annotations

from typing import Literal

from nerfstudio.utils.rich_utils import CONSOLE

Colour = Literal["", "yellow", "red"]


def say(message: str, colour: Colour = "", wrap: bool = True) -> None:
    """Print a message as it is: brackets and colons in names and errors are no markup.

    Args:
        message: without any markup.
        colour: of all of it; yellow for what is doubtful, red for what failed.
        wrap: break long lines at words; False for commands to be copied.
    """
    CONSOLE.print(message, style=colour, markup=False, emoji=False, soft_wrap=not wrap)
