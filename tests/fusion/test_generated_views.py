"""The store of generated views: what goes in comes out, each once per epoch, also after a restart."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from genfusion_ns import files
from genfusion_ns.data.camera_conversion import cameras_to_viewmats, viewmats_to_cameras
from genfusion_ns.errors import CheckpointError
from genfusion_ns.fusion.rounds.generated_views import (
    GeneratedView,
    GeneratedViewStore,
    load_views,
    save_views,
    views_of_clip,
)
from genfusion_ns.geometry.clips import RepairedClip

torch.set_num_threads(1)


def make_views(round: int, clip: int, count: int = 4, size: tuple[int, int] = (5, 3)) -> list[GeneratedView]:
    generator = torch.Generator().manual_seed(100 * round + clip)
    shape = (count, size[1], size[0])
    repaired = RepairedClip(
        rgb=torch.rand(*shape, 3, generator=generator),
        disparity=torch.rand(*shape, 1, generator=generator),
        confidence=torch.rand(*shape, 1, generator=generator),
    )
    rotation = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator)).Q
    viewmats = torch.eye(4).repeat(count, 1, 1)
    viewmats[:, :3, :3] = rotation * torch.linalg.det(rotation)[:, None, None]
    viewmats[:, :3, 3] = torch.randn(count, 3, generator=generator)
    Ks = torch.tensor([[6.0, 0, 2.5], [0, 5, 1.5], [0, 0, 1]]).repeat(count, 1, 1)
    return views_of_clip(repaired, viewmats, Ks, round, clip)


def make_store(keep_rounds: int = 1) -> GeneratedViewStore:
    store = GeneratedViewStore(keep_rounds)
    store.replace(0, [*make_views(0, 0), *make_views(0, 1, count=3, size=(4, 6))])
    return store


def key(view: GeneratedView) -> tuple[int, int, int]:
    return view.round, view.clip, view.frame


def draw(store: GeneratedViewStore, count: int, generator: torch.Generator) -> list[tuple[int, int, int]]:
    return [key(store.sample(generator)) for _ in range(count)]


def test_storage_is_exact_to_its_precision() -> None:
    shape = (2, 6, 7)
    generator = torch.Generator().manual_seed(1)
    rgb, disparity, confidence = (torch.rand(*shape, c, generator=generator) for c in (3, 1, 1))
    viewmats, Ks = torch.eye(4).repeat(2, 1, 1), torch.eye(3).repeat(2, 1, 1)
    views = views_of_clip(RepairedClip(rgb, disparity, confidence), viewmats, Ks, round=3, clip=1, frames=[1])
    assert [key(view) for view in views] == [(3, 1, 1)]
    assert (views[0].rgb_float() - rgb[1]).abs().max() <= 0.5 / 255 + 1e-6
    assert (views[0].disparity.float() - disparity[1]).abs().max() <= 2**-12
    assert (views[0].confidence.float() - confidence[1]).abs().max() <= 2**-12
    assert views[0].size == (7, 6)


def test_a_view_does_not_keep_its_clip_in_memory() -> None:
    view = make_views(0, 0)[1]
    for tensor in (view.rgb, view.disparity, view.confidence, view.viewmat, view.K):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_values_beyond_the_range_are_clamped() -> None:
    wild = RepairedClip(
        rgb=torch.tensor([-1.0, 2.0, 0.5]).expand(1, 1, 1, 3),
        disparity=torch.full((1, 1, 1, 1), 3.0),
        confidence=torch.full((1, 1, 1, 1), -3.0),
    )
    view = views_of_clip(wild, torch.eye(4)[None], torch.eye(3)[None], 0, 0)[0]
    assert view.rgb.flatten().tolist() == [0, 255, 128]
    assert (view.disparity.item(), view.confidence.item()) == (1.0, 0.0)


def test_a_view_of_the_wrong_shape_is_refused() -> None:
    view = make_views(0, 0)[0]
    with pytest.raises(ValueError, match=r"disparity of a generated view is \(4, 5, 1\)"):
        GeneratedView(view.viewmat, view.K, view.rgb, torch.zeros(4, 5, 1).half(), view.confidence, 0, 0, 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_every_view_once_per_epoch(seed: int, epochs: int) -> None:
    store = make_store()
    drawn = Counter(draw(store, epochs * len(store), torch.Generator().manual_seed(seed)))
    assert drawn == {key(view): epochs for view in store}


@pytest.mark.parametrize(("keep", "rounds"), [(1, [4]), (2, [3, 4]), (9, [1, 2, 3, 4])])
def test_only_the_newest_rounds_are_kept(keep: int, rounds: list[int]) -> None:
    store = GeneratedViewStore(keep)
    for round in (1, 2, 3, 4):
        store.replace(round, make_views(round, 0))
    assert store.rounds == rounds
    assert len(store) == 4 * len(rounds)


def test_repeating_a_round_replaces_it_and_what_came_after() -> None:
    store = GeneratedViewStore(keep_rounds=3)
    for round in (1, 2, 3):
        store.replace(round, make_views(round, 0))
    store.replace(2, make_views(2, 5, count=2))
    assert [key(view) for view in store] == [(1, 0, t) for t in range(4)] + [(2, 5, 0), (2, 5, 1)]


def test_an_empty_round_ends_the_older_ones() -> None:
    store = make_store()
    store.replace(1, [])
    assert len(store) == 0
    with pytest.raises(IndexError, match="no generated view"):
        store.sample(torch.Generator())


def test_views_of_another_round_are_refused() -> None:
    with pytest.raises(ValueError, match=r"round \[1\] cannot be stored as round 2"):
        GeneratedViewStore().replace(2, make_views(1, 0))
    with pytest.raises(ValueError, match="keep_rounds is 0"):
        GeneratedViewStore(keep_rounds=0)


def test_dropping_a_clip_keeps_the_order_of_the_rest() -> None:
    expected = draw(make_store(), 7, torch.Generator().manual_seed(2))
    store = make_store()
    generator = torch.Generator().manual_seed(2)
    assert draw(store, 2, generator) == expected[:2]
    assert store.drop(0, 1) == 3
    assert store.drop(0, 1) == 0
    rest = [view for view in expected[2:] if view[1] != 1]
    assert draw(store, len(rest), generator) == rest
    assert all(view.clip == 0 for view in store)


def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    store, generator = make_store(keep_rounds=2), torch.Generator().manual_seed(5)
    store.replace(1, make_views(1, 0), pin=True)
    digests = {
        r: save_views(tmp_path / "new folder" / str(r), [view for view in store if view.round == r]) for r in (0, 1)
    }
    store.drop(0, 1)
    draw(store, 3, generator)
    state, generator_state = json.loads(json.dumps(store.state())), generator.get_state()
    expected = draw(store, 20, generator)

    resumed, generator = GeneratedViewStore(2), torch.Generator()
    resumed.restore(state, lambda r: load_views(tmp_path / "new folder" / str(r), digests[r]))
    generator.set_state(generator_state)
    assert resumed.pinned == {1}
    assert draw(resumed, 20, generator) == expected
    for old, new in zip(store, resumed, strict=True):
        assert key(old) == key(new)
        for name in ("viewmat", "K", "rgb", "disparity", "confidence"):
            assert torch.equal(getattr(old, name), getattr(new, name))
            assert getattr(old, name).dtype == getattr(new, name).dtype


def test_a_pinned_round_stays_and_pushes_nothing_out() -> None:
    store = make_store()
    store.replace(1, make_views(1, 0), pin=True)
    assert store.rounds == [0, 1]
    store.replace(2, make_views(2, 0))
    assert store.rounds == [1, 2]
    store.replace(3, [])
    assert store.rounds == [1]
    assert store.drop(1) == 4
    assert len(store) == 0


def test_an_empty_round_survives_a_restart(tmp_path: Path) -> None:
    digest = save_views(tmp_path / "views", [])
    assert load_views(tmp_path / "views", digest) == []
    store = GeneratedViewStore(3)
    store.restore(GeneratedViewStore(3).state(), lambda r: [])
    assert (len(store), store.rounds) == (0, [])


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "views"
    save_views(file, make_views(0, 0))
    before = file.read_bytes()

    def disk_full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(files.os, "fsync", disk_full)
    with pytest.raises(OSError, match="no space left"):
        save_views(file, make_views(1, 0))
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_truncated_file_is_named(tmp_path: Path, share: float) -> None:
    file = tmp_path / "views"
    save_views(file, make_views(0, 0))
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=f"{file} is damaged"):
        load_views(file)


def test_one_changed_byte_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "views"
    digest = save_views(file, make_views(0, 0))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    load_views(file)  # nothing in the format itself tells
    with pytest.raises(CheckpointError, match="not the file that the checkpoint was saved with"):
        load_views(file, digest)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_views(tmp_path / "nothing")
    save_file({"weight": torch.zeros(3)}, tmp_path / "weights")
    with pytest.raises(CheckpointError, match="holds no generated views"):
        load_views(tmp_path / "weights")


@pytest.mark.parametrize(("change", "message"), [({"queue": [7]}, "order"), ({"queue": [0, 0]}, "order")])
def test_an_order_that_does_not_fit_is_refused(change: dict, message: str) -> None:
    store = make_store()
    views = list(store)
    with pytest.raises(CheckpointError, match=message):
        store.restore({**store.state(), **change}, lambda r: views)
    with pytest.raises(CheckpointError, match="Frame 3 of clip 0 of round 0 is missing"):
        store.restore(store.state(), lambda r: views[:3])
    assert len(store) == 7


def test_cameras_go_to_nerfstudio_and_back() -> None:
    views = make_views(0, 0)
    viewmats, Ks = torch.stack([view.viewmat for view in views]), torch.stack([view.K for view in views])
    cameras = viewmats_to_cameras(viewmats, Ks, (5, 3))
    back_viewmats, back_Ks = cameras_to_viewmats(cameras)
    torch.testing.assert_close(back_viewmats, viewmats, atol=1e-6, rtol=1e-5)
    assert torch.equal(back_Ks, Ks)
    assert (cameras.width == 5).all() and (cameras.height == 3).all()


def test_nerfstudio_sees_the_same_rays() -> None:
    """The ray through a pixel, made by nerfstudio, projects back onto that pixel with the view matrix."""
    view = make_views(0, 0)[2]
    rays = view.camera().generate_rays(camera_indices=0)
    points = rays.origins + 2.5 * rays.directions
    pixels = (points @ view.viewmat[:3, :3].T + view.viewmat[:3, 3]) @ view.K.T
    u, v = (pixels[..., :2] / pixels[..., 2:]).unbind(-1)
    torch.testing.assert_close(u, (torch.arange(5) + 0.5).expand(3, 5), atol=1e-4, rtol=0)
    torch.testing.assert_close(v, (torch.arange(3) + 0.5)[:, None].expand(3, 5), atol=1e-4, rtol=0)
    assert (pixels[..., 2] > 0).all()
