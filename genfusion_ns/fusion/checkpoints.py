"""Checkpoints of a run: written completely or not at all, with checksums, and checked before anything uses them.

One checksum lies in the pipeline's part, which is all that nerfstudio hands on when it evaluates or renders; another
covers the rest, which a resumed run needs as well.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.optimizers import Optimizers
from torch import Tensor

from genfusion_ns.digests import digest_of
from genfusion_ns.errors import CheckpointError
from genfusion_ns.files import replacing
from genfusion_ns.messages import say

_KEYS = ("step", "pipeline", "optimizers", "schedulers", "scalers")
_EXTRA = "_extra_state"
_DIGEST = "digest"
_SURFELS = "_model.gauss_params."


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a state with the entries step, pipeline, optimizers, schedulers and scalers.

    Raises:
        WriteError: the disk is full or not writable; what was there before stays.
    """
    pipeline = dict(state["pipeline"])
    digest = digest_of(pipeline)
    pipeline[_EXTRA] = {**pipeline[_EXTRA], _DIGEST: digest}
    whole = digest_of({**state, "pipeline": digest})
    # nerfstudio lists every name in the folder as a checkpoint, so the unfinished file lies one level up.
    staging = path.parent.parent
    for stale in staging.glob(".step-*.part.ckpt"):  # of a run that was killed in a write
        stale.unlink(missing_ok=True)
    way_out = f"resume with --load-dir {path.parent}"
    with replacing(path, "the checkpoint", way_out, staging) as unfinished, unfinished.open("wb") as stream:
        torch.save({**state, "pipeline": pipeline, _DIGEST: whole}, stream)


def checkpoints_of(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by their step; none where there is no such folder."""
    names = {path: re.fullmatch(r"step-([0-9]+)\.ckpt", path.name) for path in folder.glob("step-*.ckpt")}
    return {int(name.group(1)): path for path, name in names.items() if name}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Tensors, numbers and strings of a checkpoint; nothing in it is executed.

    Raises:
        CheckpointError: it is damaged or something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint, it is damaged or something else ({error}). {_others(path)}"
        ) from error
    missing = set(_KEYS) - set(state) if isinstance(state, dict) else set(_KEYS)
    if missing:
        raise CheckpointError(f"{path} is no checkpoint of ns-train: it lacks {', '.join(sorted(missing))}.")
    expected = state.pop(_DIGEST, None)
    if expected is None:
        return state
    try:
        extra = state["pipeline"][_EXTRA]
        found = digest_of({**{key: state[key] for key in state if key in _KEYS}, "pipeline": extra[_DIGEST]})
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: its checksum is gone. {_others(path)}") from error
    if found != expected:
        raise CheckpointError(f"{path} is damaged: it does not fit its checksum. {_others(path)}")
    return state


def checked_pipeline_state(state: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The pipeline's part of a checkpoint, without its checksum.

    Raises:
        CheckpointError: it does not fit its checksum, or holds no scene that can be rendered.
    """
    where = f"the checkpoint of step {step}"
    state, extra = dict(state), state.get(_EXTRA)
    expected = None
    if isinstance(extra, Mapping):
        state[_EXTRA] = {name: value for name, value in extra.items() if name != _DIGEST}
        expected = extra.get(_DIGEST)
    if expected is None:
        say(f"The checkpoint of step {step} is of a version without checksums: damage to its numbers cannot be seen.")
    elif digest_of(state) != expected:
        raise CheckpointError(f"{where} is damaged: it does not fit its checksum. Take another one or a copy")
    check_scene(state, where)
    return state


def check_scene(state: Mapping[str, Any], where: str) -> None:
    """Refuse parameters that no scene has: none, not finite, or different numbers of surfels.

    Raises:
        CheckpointError: see above; the message begins with `where`.
    """
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    counts = {name.removeprefix(_SURFELS): len(v) for name, v in tensors.items() if name.startswith(_SURFELS)}
    if counts and (len(set(counts.values())) > 1 or 0 in counts.values()):
        raise CheckpointError(f"{where} holds no scene: its numbers of surfels are {counts}; one above 0 is needed")
    broken = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise CheckpointError(f"{where} holds values that are not finite, in {', '.join(broken)}; take an earlier one")


def check_training_state(state: Mapping[str, Any], optimizers: Optimizers, schedulers: bool = True) -> None:
    """Refuse optimisers of other parameters, which torch would load without a word.

    Args:
        state: a checkpoint; see `read_checkpoint`.
        optimizers: of the run that resumes, whose parameters are those of the checkpoint already.
        schedulers: the schedules of learning rates are loaded as well.

    Raises:
        CheckpointError: what does not fit.
    """
    compared = {"optimizers": optimizers.optimizers} | ({"schedulers": optimizers.schedulers} if schedulers else {})
    for kind, ours in compared.items():
        if set(state[kind]) != set(ours):
            raise CheckpointError(f"it has {kind} of {sorted(state[kind])}, this run of {sorted(ours)}")
    for name, optimizer in optimizers.optimizers.items():
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, moments in state["optimizers"][name]["state"].items():
            for kind, value in moments.items():
                if not isinstance(value, Tensor) or value.dim() == 0:
                    continue
                if index >= len(parameters) or value.shape != parameters[index].shape:
                    raise CheckpointError(f"{kind} of the optimiser of {name} has shape {tuple(value.shape)}")
                if not bool(torch.isfinite(value).all()):
                    raise CheckpointError(f"{kind} of the optimiser of {name} has values that are not finite")


def _others(path: Path) -> str:
    names = sorted(other.name for other in path.parent.glob("step-*.ckpt") if other != path)
    return f"Other checkpoints beside it, for --load-step: {', '.join(names) if names else 'none'}."
