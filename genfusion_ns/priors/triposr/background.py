"""Backgrounds of photos taken away, where a library for it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from genfusion_ns.priors.triposr.pictures import PictureError


class BackgroundRemover:
    """Cuts the object out of photos by rembg, which fetches a network of its own at the first use."""

    def __init__(self) -> None:
        """
        Raises:
            ImportError: rembg is not installed.
        """
        try:
            from rembg import new_session, remove  # pyright: ignore[reportMissingImports]
        except (ImportError, SystemExit) as error:  # it ends the program where onnxruntime lacks
            raise ImportError(
                "--remove-background needs rembg: pip install 'genfusion-ns[image3d]'; or give RGBA images, in which "
                "the object is cut out already"
            ) from error
        self._remove: Any = remove
        self._new_session: Any = new_session
        self._session: Any = None

    def __call__(self, picture: Image.Image, name: str) -> Image.Image:
        """An RGB photo as RGBA, its background transparent.

        Raises:
            PictureError: the network of rembg cannot be had.
        """
        try:
            self._session = self._session or self._new_session()
        except Exception as error:  # whatever its downloader raises
            raise PictureError(
                f"{name}: rembg could not get its network ({type(error).__name__}: {error}); run it once on a machine "
                "with network and copy ~/.u2net, or give an RGBA image"
            ) from error
        return self._remove(picture, session=self._session).convert("RGBA")


def rgba_of(
    picture: Image.Image, name: str, remover: BackgroundRemover | None, as_is: bool = False
) -> Image.Image | None:
    """The picture with its object cut out; None where it is to be taken as it is.

    Args:
        picture: RGB or RGBA.
        name: of its file, for messages.
        remover: for photos without alpha, and with alpha that is opaque everywhere.
        as_is: such photos show the object on grey and well framed.

    Raises:
        PictureError: there is no alpha, and nothing that could make one.
    """
    has_alpha = picture.mode == "RGBA"
    if has_alpha and int(np.asarray(picture.getchannel("A")).min()) < 255:
        return picture
    if as_is:
        return None
    if remover is not None:
        return remover(picture.convert("RGB"), name)
    what = "an alpha channel that is opaque everywhere" if has_alpha else "no alpha channel"
    raise PictureError(
        f"{name} has {what}, so that nothing says which part of it is the object. Give an RGBA image in which it is "
        "cut out, or --remove-background, which needs rembg (pip install 'genfusion-ns[image3d]'); --as-is takes an "
        "image as it is, with the object on grey, well framed"
    )
