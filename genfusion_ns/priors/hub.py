"""Generators that are not folders yet: on the Hugging Face hub, or one checkpoint file; converted once, into a cache.

The cache is ``$GENFUSION_CACHE``, else ``$XDG_CACHE_HOME/genfusion_ns``, else ``~/.cache/genfusion_ns``; one folder per
generator under ``generators``, in half precision, which may be deleted at any time. What is downloaded lies in the
cache of huggingface_hub and is not needed any more once it is converted. Conversion runs nothing of a checkpoint.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genfusion_ns.priors.pipeline_files import INDEX

if TYPE_CHECKING:
    from genfusion_ns.priors.dynamicrafter.architecture import Architecture

PUBLISHED = "Sibo2rr/GenFusion-GenerationModel"
"""The generator that the authors of GenFusion published."""
_PUBLISHED_FILE = "epoch=59-step=34000.ckpt"
_CHECKPOINTS = (".ckpt", ".pt", ".pth", ".safetensors")
_WANTED = ["*.json", *(f"*{suffix}" for suffix in _CHECKPOINTS)]


def is_hub_name(model: str) -> bool:
    """Whether a model that is nothing on this disk may be the name of a hub repository, ``organisation/name``.

    >>> is_hub_name("Intel/ldm3d-4c"), is_hub_name("weights/model.ckpt"), is_hub_name("/models/generator")
    (True, False, False)
    """
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model) is not None and not model.endswith(_CHECKPOINTS)


def repairers_folder() -> Path:
    """Where converted generators are kept; see the module."""
    own = os.environ.get("GENFUSION_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "genfusion_ns"
    return base.expanduser() / "generators"


def converted_folder(repository: str) -> Path:
    """Where the converted copy of a hub repository is, or would be."""
    return repairers_folder() / repository.replace("/", "--")


def is_converted(repository: str) -> bool:
    """Whether the cache has a hub repository; a conversion that broke off leaves nothing behind."""
    return (converted_folder(repository) / INDEX).is_file()


def fetch_repairer(repository: str, architecture: Architecture | None = None) -> Path:
    """The folder of a hub repository, downloaded and converted where that has not been done.

    Downloads show their progress, go on where they broke off, and obey ``HF_HUB_OFFLINE``. A repository may hold one
    checkpoint, or a folder that needs no conversion. An updated repository is not noticed: delete the folder.

    Args:
        repository: ``organisation/name``.
        architecture: sizes of a checkpoint; the published ones where there are none.

    Raises:
        FileNotFoundError: the repository can neither be reached nor is it in a cache; the message says what to
            download and where to put it.
        ValueError: it holds no generator, or a checkpoint of another network.
        OSError: the disk is too small.
    """
    folder = converted_folder(repository)
    if is_converted(repository):
        return folder
    snapshot = _download(repository)
    if (snapshot / INDEX).is_file() or (snapshot / "config.json").is_file():
        return snapshot
    checkpoints = sorted(path for path in snapshot.iterdir() if path.suffix in _CHECKPOINTS)
    if len(checkpoints) != 1:
        names = ", ".join(path.name for path in checkpoints) or "none"
        raise ValueError(
            f"{repository} on the Hugging Face hub must hold one checkpoint, or a folder with {INDEX} or config.json; "
            f"checkpoints found in {snapshot}: {names}. Give the path of one of them to --pipeline.repairer.model"
        )
    _convert(checkpoints[0], folder, architecture)
    return folder


def convert_file(path: Path, architecture: Architecture | None = None) -> Path:
    """The folder of one checkpoint file, converted where that has not been done for this file as it is now.

    Args:
        path: see `conversion.source.open_checkpoint`.
        architecture: as in `fetch_repairer`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a checkpoint of another network, or a damaged one.
        OSError: the disk is too small.
    """
    state = path.stat()
    identity = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"
    folder = repairers_folder() / f"{path.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if not (folder / INDEX).is_file():
        _convert(path, folder, architecture)
    return folder


def _convert(checkpoint: Path, folder: Path, architecture: Architecture | None) -> None:
    from genfusion_ns.priors.dynamicrafter.conversion.convert import convert_checkpoint

    print(f"Converting {checkpoint} once, into {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        done = convert_checkpoint(checkpoint, folder, architecture=architecture)
    except OSError:
        if not (folder / INDEX).is_file():  # unless another run has converted the same meanwhile
            raise
    else:
        print(f"Converted {done.parameters:,} parameters")


def fetch_files(repository: str, wanted: Sequence[str], way_out: str) -> Path:
    """The folder of a hub repository in the cache of huggingface_hub, downloaded where it is not there yet.

    Downloads show their progress, go on where they broke off, and obey ``HF_HUB_OFFLINE``.

    Args:
        repository: ``organisation/name``.
        wanted: patterns of the files.
        way_out: what to do where it cannot be had, for the message.

    Raises:
        FileNotFoundError: the repository can neither be reached nor is it in the cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    # Failures of the connection itself are errors of whichever HTTP library this release of the hub client uses.
    network_errors: type[Exception] = HfHubHTTPError.__mro__[1]

    def gone(reason: str) -> FileNotFoundError:
        return FileNotFoundError(
            f"the generator {repository!r} is neither here nor could it be had from the Hugging Face hub: "
            f"{reason.rstrip('.')}. {way_out}"
        )

    try:
        snapshot = Path(snapshot_download(repository, allow_patterns=list(wanted)))
    except (OSError, ValueError, network_errors) as error:
        raise gone(str(error).strip().splitlines()[0]) from error
    # Without network the client gives what there is of a snapshot, which may be other files than these.
    if not any(path.suffix in (".json", *_CHECKPOINTS) for path in snapshot.glob("*")):
        raise gone(f"{snapshot} has no {' or '.join(wanted)}")
    return snapshot


def _download(repository: str) -> Path:
    return fetch_files(repository, [_PUBLISHED_FILE] if repository == PUBLISHED else _WANTED, _way_out(repository))


def _way_out(repository: str) -> str:
    file = f"{_PUBLISHED_FILE} (10.4 GB)" if repository == PUBLISHED else "the checkpoint"
    name = _PUBLISHED_FILE if repository == PUBLISHED else "FILE"
    return (
        f"On a machine with network, get {file} from https://huggingface.co/{repository} "
        f"(hf download {repository} --local-dir FOLDER), copy it here and give its path: "
        f"--pipeline.repairer.model FOLDER/{name}"
    )
