"""Clip pairs on disk and the stream of training samples drawn from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genfusion_ns.data.clips import pairs as clips
from genfusion_ns.data.clips.degradation import degrade_clip, degrade_pair
from genfusion_ns.data.clips.frame_samples import FrameClipDataset
from genfusion_ns.data.clips.pair_samples import AugmentationConfig, ClipDataset, PairSource
from genfusion_ns.data.clips.pairs import ClipFolder, Provenance, list_pairs, read_pair, read_provenance, write_pair
from genfusion_ns.data.clips.procedural import procedural_pair
from genfusion_ns.geometry.clips import ClipPair
from genfusion_ns.geometry.warping import warp_references
from genfusion_ns.priors.compact.conditioning import stack_pairs

ORIGIN = Provenance("fox", "sparse 6", 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips")
    for index in range(3):
        pair = procedural_pair(torch.Generator().manual_seed(index), frames=5, size=(64, 48))
        write_pair(path, f"clip_{index}", pair, ORIGIN)
    return path


def same(a: ClipPair, b: ClipPair) -> bool:
    return all(
        torch.equal(getattr(getattr(a, part), name), getattr(getattr(b, part), name))
        for part, names in (
            ("artifact", ("rgb", "depth", "alpha", "viewmats", "Ks")),
            ("clean", ("rgb", "depth", "alpha", "viewmats", "Ks")),
            ("references", ("rgb", "viewmats", "Ks")),
        )
        for name in names
    )


def stream(folder: Path, seed: int = 0, **changes: Any) -> ClipDataset:
    augmentation = replace(AugmentationConfig(crop=(32, 24), frames=3), **changes)
    return ClipDataset(
        [PairSource(list_pairs(folder), 1.0)], augmentation, batch_size=2, batches=20, seed=seed, degrade=degrade_pair
    )


def test_pairs_come_back_as_precise_as_their_types(folder: Path) -> None:
    pair = procedural_pair(torch.Generator().manual_seed(0), frames=5, size=(64, 48))
    back = read_pair(folder / "clip_0.npz")
    for part in ("artifact", "clean"):
        before, after = getattr(pair, part), getattr(back, part)
        assert (before.rgb - after.rgb).abs().max() <= 0.5 / 255 + 1e-6
        assert (before.alpha - after.alpha).abs().max() <= 0.5 / 255 + 1e-6
        assert torch.allclose(before.depth, after.depth, rtol=2**-10)
        assert torch.equal(before.viewmats, after.viewmats)
        assert torch.equal(before.Ks, after.Ks)
    assert (pair.references.rgb - back.references.rgb).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(pair.references.viewmats, back.references.viewmats)
    assert read_provenance(folder / "clip_0.npz") == ORIGIN


def test_degraded_depth_is_unknown_or_a_depth(folder: Path) -> None:
    pair = read_pair(folder / "clip_0.npz")
    clean = replace(pair.clean, depth=pair.clean.depth * (torch.arange(64) > 20)[:, None])
    nearest = clean.depth[clean.depth > 0].min()
    for seed in range(8):
        depth = degrade_clip(clean, torch.Generator().manual_seed(seed)).depth
        # Floaters stand at a hundredth of the usual depth at the nearest.
        assert bool(((depth == 0) | (depth > 0.005 * nearest)).all())


def test_writing_what_was_read_changes_nothing(folder: Path, tmp_path: Path) -> None:
    pair = read_pair(folder / "clip_1.npz")
    assert same(pair, read_pair(write_pair(tmp_path, "copy", pair, ORIGIN)))
    assert [path.name for path in list_pairs(tmp_path)] == ["copy.npz"]


def test_unknown_depth_is_stored_as_zero(folder: Path, tmp_path: Path) -> None:
    pair = read_pair(folder / "clip_0.npz")
    depth = pair.clean.depth.clone()
    depth[0, 0, :3, 0] = torch.tensor([torch.nan, torch.inf, -1.0])
    back = read_pair(write_pair(tmp_path, "odd", replace(pair, clean=replace(pair.clean, depth=depth)), ORIGIN))
    assert not back.clean.depth[0, 0, :3].any()


def test_normals_and_seen_parts_come_back(folder: Path, tmp_path: Path) -> None:
    pair = read_pair(folder / "clip_0.npz")
    assert pair.references.seen is None
    normals = torch.nn.functional.normalize(torch.randn(pair.artifact.rgb.shape), dim=-1)
    seen = torch.rand(pair.references.rgb[..., :1].shape) > 0.5
    more = ClipPair(replace(pair.artifact, normals=normals), pair.clean, replace(pair.references, seen=seen))
    path = write_pair(tmp_path, "more", more, ORIGIN)
    assert read_pair(path).artifact.normals is None
    back = read_pair(path, normals=True)
    assert back.artifact.normals is not None and back.references.seen is not None
    assert (back.artifact.normals - normals).abs().max() <= 0.5 / 127 + 1e-6
    assert torch.equal(back.references.seen, seen)
    source = PairSource([path], 1.0)
    data = ClipDataset(
        [source], AugmentationConfig(crop=(32, 24), frames=2), batch_size=1, batches=3, seed=0, normals=True
    )
    assert data[0][0].artifact.normals is not None
    assert data[0][0].artifact.normals.shape == (2, 24, 32, 3)


def test_pairs_of_different_cameras_or_shapes_are_refused(folder: Path, tmp_path: Path) -> None:
    pair, other = read_pair(folder / "clip_0.npz"), read_pair(folder / "clip_1.npz")
    with pytest.raises(ValueError, match="different cameras"):
        write_pair(tmp_path, "bad", replace(pair, clean=other.clean), ORIGIN)
    with pytest.raises(ValueError, match=r"artifact \(5, 48, 64, 3\) and clean \(5, 24, 64, 3\)"):
        write_pair(tmp_path, "bad", replace(pair, clean=replace(pair.clean, rgb=pair.clean.rgb[:, ::2])), ORIGIN)


def test_files_that_are_no_pairs_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gf-make-clips"):
        list_pairs(tmp_path)
    np.savez(tmp_path / "other.npz", viewmats=np.eye(4))
    with pytest.raises(ValueError, match=r"other\.npz.*lacks artifact_rgb"):
        read_pair(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(ValueError, match=r"text\.npz"):
        read_pair(tmp_path / "text.npz")


def edited(folder: Path, target: Path, name: str, change: Any) -> Path:
    """A pair with one array changed."""
    with np.load(folder / "clip_0.npz") as file:
        arrays = dict(file)
    arrays[name] = change(arrays[name])
    np.savez_compressed(target / "edited.npz", **arrays)
    return target / "edited.npz"


def put(array: np.ndarray, place: tuple[int, ...], value: float) -> np.ndarray:
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "viewmats",
            lambda a: put(a, (2, 1, 3), np.nan),
            "camera of frame 2 is not rigid, or has numbers that are not",
        ),
        ("viewmats", lambda a: put(a, (0, 0, 0), np.inf), "camera of frame 0"),
        ("viewmats", lambda a: 2 * a, "camera of frame 0 is not rigid"),
        ("viewmats", lambda a: put(a, (1, 3, 3), 0), "camera of frame 1 is not rigid"),
        ("viewmats", lambda a: a * np.float32([-1, 1, 1, 1])[:, None], "camera of frame 0 is not rigid"),
        ("Ks", lambda a: put(a, (4, 0, 0), np.nan), "camera of frame 4"),
        ("Ks", lambda a: -a, "camera of frame 0"),
        ("reference_viewmats", lambda a: put(a, (1, 0, 3), np.nan), "camera of photo 1"),
        ("reference_Ks", lambda a: 0 * a, "camera of photo 0"),
        (
            "clean_depth",
            lambda a: put(a, (0, 0, 0, 0), np.nan),
            "clean_depth has values that are negative or not finite",
        ),
        ("artifact_depth", lambda a: put(a, (0, 0, 0, 0), -1), "artifact_depth has values that are negative"),
        ("artifact_rgb", lambda a: a[:4], r"clean_rgb is uint8 \[5, .*is needed|artifact_depth is float16 \[5"),
        ("artifact_rgb", lambda a: a / np.float32(255), r"artifact_rgb is float32 .*uint8 \[T, H, W, 3\]"),
        ("clean_depth", lambda a: a[..., 0], r"clean_depth is float16 \[5, 48, 64\]; needed is float16 \[T, H, W, 1\]"),
        ("clean_alpha", lambda a: np.repeat(a, 3, -1), r"clean_alpha is uint8 \[5, 48, 64, 3\]"),
        ("reference_rgb", lambda a: a[:0], r"reference_rgb is uint8 \[0, "),
        ("Ks", lambda a: a.astype(">f4"), "Ks is >f4|Ks is float32"),
        ("Ks", lambda a: a.astype(object), "cannot be read as a clip pair: it holds Python objects"),
    ],
)
def test_pairs_that_nothing_can_be_learned_from_are_named(
    folder: Path, tmp_path: Path, name: str, change: Any, said: str
) -> None:
    path = edited(folder, tmp_path, name, change)
    for attempt in (read_pair, lambda p: FrameClipDataset([p], (32, 24), frames=2)[0]):
        with pytest.raises(ValueError, match=rf"edited\.npz.*({said})"):
            attempt(path)


def test_arrays_of_unreasonable_size_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "_LARGEST_ARRAY", 5 * 48 * 64 * 3 - 1)
    with pytest.raises(ValueError, match=r"clip_0\.npz .*artifact_rgb is uint8 .* at most 46,079 bytes"):
        read_pair(folder / "clip_0.npz")


def test_pairs_with_impossible_cameras_are_not_written(folder: Path, tmp_path: Path) -> None:
    pair = read_pair(folder / "clip_0.npz")
    viewmats = pair.artifact.viewmats.clone()
    viewmats[3, 0, 0] = torch.nan
    bad = replace(pair, artifact=replace(pair.artifact, viewmats=viewmats))
    with pytest.raises(ValueError, match="the camera of frame 3 is not rigid"):
        write_pair(tmp_path / "new", "bad", bad, ORIGIN)
    assert not (tmp_path / "new").exists()


def test_batches_depend_on_seed_and_index_alone(folder: Path) -> None:
    first, again, other = stream(folder), stream(folder), stream(folder, seed=1)
    expected = first[7]
    _ = again[2], again[11]
    assert all(same(a, b) for a, b in zip(expected, again[7], strict=True))
    assert not all(same(a, b) for a, b in zip(expected, other[7], strict=True))
    assert not all(same(a, b) for a, b in zip(expected, first[8], strict=True))
    with pytest.raises(IndexError):
        first[20]


def test_samples_have_the_asked_for_shape(folder: Path) -> None:
    counts = set()
    for index in range(12):
        batch = stream(folder)[index]
        assert {pair.artifact.rgb.shape for pair in batch} == {(3, 24, 32, 3)}
        assert {pair.clean.depth.shape for pair in batch} == {(3, 24, 32, 1)}
        assert len({len(pair.references) for pair in batch}) == 1
        counts.add(len(batch[0].references))
    assert counts == {1, 2, 3, 4}


def test_captures_of_different_sizes_share_a_batch(folder: Path, tmp_path: Path) -> None:
    wide = procedural_pair(torch.Generator().manual_seed(9), frames=5, size=(96, 40))
    write_pair(tmp_path, "wide", wide, ORIGIN)
    augmentation = AugmentationConfig(crop=(32, 24), frames=3)
    sources = [PairSource([folder / "clip_0.npz", tmp_path / "wide.npz"], 1.0)]
    batches = ClipDataset(sources, augmentation, batch_size=2, batches=8, seed=0)
    sizes = {tuple(pair.references.rgb.shape[1:3]) for i in range(8) for pair in batches[i]}
    assert len(sizes) == 2  # of the first of each batch
    for i in range(8):
        condition, _ = stack_pairs(batches[i])
        assert len(condition.artifact) == 2
    for pair in (pair for i in range(8) for pair in batches[i]):
        clean = pair.clean
        warped = warp_references(clean.depth, clean.viewmats, clean.Ks, pair.references)
        error = (warped.rgb - clean.rgb).abs().mean(-1, keepdim=True)[warped.visible]
        assert error.numel() == 0 or float(error.median()) < 0.06


@pytest.mark.parametrize("changes", [{"mirror": 1.0}, {"reverse": 1.0}, {"colour_jitter": 0.3}, {}])
def test_augmented_photos_still_warp_onto_the_clean_clip(folder: Path, changes: dict[str, Any]) -> None:
    plain = {"mirror": 0.0, "reverse": 0.0, "colour_jitter": 0.0, "degrade": 0.0, "references": (3, 3)}
    hit, missed = [], []
    for index in range(6):
        for pair in stream(folder, **(plain | changes))[index]:
            clean = pair.clean
            warped = warp_references(clean.depth, clean.viewmats, clean.Ks, pair.references)
            error = (warped.rgb - clean.rgb).abs().mean(-1, keepdim=True)
            hit.append(error[warped.visible])
            missed.append((warped.rgb.flip(3) - clean.rgb).abs().mean(-1, keepdim=True)[warped.visible])
    assert torch.cat(hit).median() < 0.03
    assert torch.cat(hit).mean() < 0.5 * torch.cat(missed).mean()


def test_photos_repeat_where_a_pair_has_too_few(folder: Path, tmp_path: Path) -> None:
    pair = read_pair(folder / "clip_0.npz")
    single = replace(pair.references, rgb=pair.references.rgb[:1], viewmats=pair.references.viewmats[:1])
    write_pair(tmp_path, "one", replace(pair, references=replace(single, Ks=pair.references.Ks[:1])), ORIGIN)
    sample = stream(tmp_path, references=(3, 3), colour_jitter=0.0, mirror=0.0)[0][0]
    assert len(sample.references) == 3
    assert torch.equal(sample.references.rgb[0], sample.references.rgb[2])


def test_sources_are_drawn_by_their_share(folder: Path) -> None:
    paths = list_pairs(folder)
    never = PairSource([folder / "missing.npz"], 0.0)
    data = ClipDataset(
        [never, PairSource(paths, 0.3)], AugmentationConfig(crop=(16, 16), frames=1), batch_size=1, batches=10, seed=0
    )
    assert len([data[index] for index in range(10)]) == 10
    with pytest.raises(ValueError, match="at least one clip pair"):
        ClipDataset([PairSource([], 1.0)], AugmentationConfig(), batch_size=1, batches=1, seed=0)


def test_folders_are_sequences_of_whole_pairs(folder: Path) -> None:
    pairs = ClipFolder(list_pairs(folder))
    assert len(pairs) == 3
    assert same(pairs[1], read_pair(folder / "clip_1.npz"))
    assert len(pairs[1:]) == 2


def test_degradation_is_seeded_keeps_cameras_and_makes_things_worse() -> None:
    clean = procedural_pair(torch.Generator().manual_seed(4), frames=3, size=(64, 48)).clean
    worse = degrade_clip(clean, torch.Generator().manual_seed(0))
    again = degrade_clip(clean, torch.Generator().manual_seed(0))
    assert torch.equal(worse.rgb, again.rgb)
    assert not torch.equal(worse.rgb, degrade_clip(clean, torch.Generator().manual_seed(1)).rgb)
    assert torch.equal(worse.viewmats, clean.viewmats)
    assert (worse.rgb - clean.rgb).abs().mean() > 0.02
    assert (worse.depth - clean.depth).abs().mean() > 0.01
    for values in (worse.rgb, worse.alpha):
        assert values.min() >= 0
        assert values.max() <= 1
