"""Where the training of a dynamicrafter generator starts: a folder, a checkpoint file, or a name on the hub."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from genfusion_ns.priors.dynamicrafter.architecture import Architecture
from genfusion_ns.priors.dynamicrafter.conversion.convert import convert_checkpoint
from genfusion_ns.priors.dynamicrafter.folder import check_pipeline_folder
from genfusion_ns.priors.hub import fetch_repairer, is_hub_name, repairers_folder
from genfusion_ns.priors.pipeline_files import INDEX


def initial_folder(initial: str, vae: Path | None, architecture: Architecture) -> Path:
    """The folder of the generator that a training starts from, converted in full precision where it is a file.

    Args:
        initial: folder, checkpoint file or hub name.
        vae: folder of an RGB-D autoencoder for base checkpoints, which have one without depth.
        architecture: of a checkpoint file, with the size that is trained at.

    Raises:
        FileNotFoundError: there is no such generator.
        ValueError: it is one of another kind, or damaged.
        OSError: the disk is too small for a converted copy.
    """
    path = Path(initial).expanduser()
    if path.is_dir():
        check_pipeline_folder(path)
        return path
    if path.is_file():
        return _converted(path, vae, architecture)
    if is_hub_name(initial):
        return fetch_repairer(initial)
    raise FileNotFoundError(
        f"--initial {initial} is neither a folder nor a checkpoint file nor a hub name (organisation/name); a folder "
        "is written by gf-convert-generator CHECKPOINT FOLDER --dtype float32, with --vae VAE for a base checkpoint"
    )


def _converted(path: Path, vae: Path | None, architecture: Architecture) -> Path:
    state = path.stat()
    identity = f"{path.resolve()} {state.st_size} {state.st_mtime_ns} {vae and vae.resolve()} {architecture}"
    folder = repairers_folder() / f"{path.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}-float32"
    if not (folder / INDEX).is_file():
        print(f"Converting {path} once, into {folder}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        convert_checkpoint(path, folder, torch.float32, vae, architecture)
    return folder
