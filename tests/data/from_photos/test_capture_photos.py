"""What photos say of their camera, how they are brought to disk, and which are compared."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from genfusion_ns.data.from_photos.exif import film_to_pixels, pixels_to_film, read_facts
from genfusion_ns.data.from_photos.pairs import all_pairs, chosen_matching, look_alikes, pairs_to_compare, signatures
from genfusion_ns.data.from_photos.photos import Photo, PhotoSet, gather
from genfusion_ns.data.from_photos.settings import CaptureFromPhotosSettings
from genfusion_ns.data.from_photos.sources import find_sources, plain, unused

E = ExifTags.Base


def photo(file: Path, orientation: int = 1, size: tuple[int, int] = (40, 30), **details: object) -> Path:
    """An image whose upper left quarter, as it is shown, is red."""
    shown = np.zeros((size[1], size[0], 3), np.uint8)
    shown[: size[1] // 2, : size[0] // 2, 0] = 255
    turned = {1: shown, 3: np.rot90(shown, 2), 6: np.rot90(shown, 1), 8: np.rot90(shown, -1)}[orientation]
    exif = Image.Exif()
    exif[E.Orientation], exif[E.Make], exif[E.Model] = orientation, "Maker", "Model 1"
    for name, value in details.items():
        exif.get_ifd(ExifTags.IFD.Exif)[getattr(E, name)] = value
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(np.ascontiguousarray(turned)).save(file, exif=exif, quality=95)
    return file


def gathered(folder: Path, out: Path, **settings: object) -> PhotoSet:
    for name in ("images", "masks"):
        (out / name).mkdir(parents=True)
    chosen = CaptureFromPhotosSettings(**settings)
    return gather(find_sources([folder]), chosen, out / "images", out / "masks", lambda *_: lambda: None)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photos_are_written_the_right_way_up(orientation: int, tmp_path: Path) -> None:
    for k in range(3):
        photo(tmp_path / "in" / f"{k}.jpg", orientation)
    found = gathered(tmp_path / "in", tmp_path / "out")
    for one in found.photos:
        assert one.size == (40, 30)
        with Image.open(tmp_path / "out" / "images" / one.name) as image:
            assert image.getexif().get(E.Orientation, 1) == 1
            pixels = np.asarray(image)
        assert pixels.shape == (30, 40, 3)
        assert pixels[3, 3, 0] > 200
        assert max(pixels[-3, 3, 0], pixels[3, -3, 0], pixels[-3, -3, 0]) < 60


def test_upright_photos_are_copied_byte_by_byte(tmp_path: Path) -> None:
    files = [photo(tmp_path / "in" / f"{k}.jpg") for k in range(3)]
    gathered(tmp_path / "in", tmp_path / "out")
    for file in files:
        assert (tmp_path / "out" / "images" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("details", "size", "focal"),
    [
        ({"FocalLengthIn35mmFilm": 50}, (36, 24), 50.0),
        ({"FocalLengthIn35mmFilm": 28, "FocalLength": 4.2}, (360, 240), 280.0),
        (
            {
                "FocalLength": 50.0,
                "FocalPlaneXResolution": 100.0,
                "FocalPlaneResolutionUnit": 4,
                "ExifImageWidth": 3600,
            },
            (36, 24),
            50.0,
        ),
        ({"FocalLength": 4.2}, (36, 24), None),
        ({"FocalLengthIn35mmFilm": 0}, (36, 24), None),
        ({"FocalLengthIn35mmFilm": 60_000}, (36, 24), None),
        ({}, (36, 24), None),
    ],
)
def test_focal_lengths_come_from_exif(
    details: dict, size: tuple[int, int], focal: float | None, tmp_path: Path
) -> None:
    facts = read_facts(photo(tmp_path / "p.jpg", size=size, **details))
    assert facts.focal == (None if focal is None else pytest.approx(focal))
    assert facts.camera == "Maker Model 1"


def test_focal_lengths_for_film_follow_the_diagonal() -> None:
    assert film_to_pixels(43.2666153, (300, 400)) == pytest.approx(500)
    assert pixels_to_film(film_to_pixels(35, (640, 480)), (640, 480)) == pytest.approx(35)


def test_cameras_differ_by_size_zoom_and_input(tmp_path: Path) -> None:
    for k, (size, focal) in enumerate([((40, 30), 28), ((40, 30), 28), ((40, 30), 50), ((30, 40), 28)]):
        photo(tmp_path / "in" / f"{k}.jpg", size=size, FocalLengthIn35mmFilm=focal)
    cameras = [one.camera for one in gathered(tmp_path / "in", tmp_path / "out").photos]
    assert cameras[0] == cameras[1]
    assert len(set(cameras)) == 3
    one_camera = gathered(tmp_path / "in", tmp_path / "again", one_camera=True, focal_length=28).photos
    assert len({one.camera for one in one_camera}) == 2, "width and height still count"
    assert {round(one.focal or 0, 3) for one in one_camera} == {round(film_to_pixels(28, (40, 30)), 3)}


def test_alpha_hides_from_features(tmp_path: Path) -> None:
    pixels = np.full((30, 40, 4), 255, np.uint8)
    pixels[:, 20:, 3] = 0
    (tmp_path / "in").mkdir()
    for k in range(3):
        Image.fromarray(pixels).save(tmp_path / "in" / f"{k}.png")
    found = gathered(tmp_path / "in", tmp_path / "out")
    assert all(one.has_mask for one in found.photos)
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "0.png.png"))
    assert (mask[:, :20] == 255).all()
    assert (mask[:, 20:] == 0).all()


def test_names_are_plain_and_differ(tmp_path: Path) -> None:
    for name in ("Küche 1.jpg", "K_che 1.jpg", "a.jpg", "A.jpg", "a.png"):
        photo(tmp_path / "in" / name)
    found = gathered(tmp_path / "in", tmp_path / "out").photos
    stems = [Path(one.name).stem.casefold() for one in found]
    assert len(set(stems)) == 5
    assert all(one.name == plain(one.name) for one in found)
    assert {Path(one.origin).name for one in found} == {"Küche 1.jpg", "K_che 1.jpg", "a.jpg", "A.jpg", "a.png"}


def test_inputs_of_one_name_get_prefixes_that_differ(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        photo(tmp_path / folder / "photos" / "x.jpg")
    prefixes = [one.prefix for one in find_sources([tmp_path / "one/photos", tmp_path / "two/photos"])]
    assert prefixes == ["photos_", "photos_2_"]
    assert find_sources([tmp_path / "one/photos"])[0].prefix == ""
    assert unused("a", {"a", "a2"}) == "a3"


def test_what_is_noted_comes_back(tmp_path: Path) -> None:
    for k in range(3):
        photo(tmp_path / "in" / f"{k}.jpg", FocalLengthIn35mmFilm=28)
    (tmp_path / "in" / "cut.jpg").write_bytes((tmp_path / "in" / "0.jpg").read_bytes()[:300])
    found = gathered(tmp_path / "in", tmp_path / "out")
    assert len(found.refused) == 1
    assert PhotoSet.from_json(found.as_json()) == found


def some_photos(count: int, from_video: bool = False, source: int = 0) -> list[Photo]:
    return [Photo(f"{source}_{k}", "", source, (4, 3), None, "", from_video, False) for k in range(count)]


def test_all_pairs_are_compared_once() -> None:
    assert sorted(all_pairs(23)) == list(combinations(range(23), 2))


def test_auto_depends_on_number_and_kind() -> None:
    assert chosen_matching(some_photos(80), "auto") == "exhaustive"
    assert chosen_matching(some_photos(81), "auto") == "retrieval"
    assert chosen_matching(some_photos(81, from_video=True), "auto") == "sequential"
    assert chosen_matching(some_photos(500), "exhaustive") == "exhaustive"


def clusters(groups: int, each: int) -> list[np.ndarray]:
    """Descriptors of photos of which `each` in a row show the same thing."""
    rng = np.random.default_rng(1)
    things = rng.integers(0, 120, (groups, 60, 128))
    return [
        np.clip(things[k // each] + rng.integers(0, 12, (60, 128)), 0, 255).astype(np.uint8)
        for k in range(groups * each)
    ]


def test_photos_of_the_same_thing_look_alike() -> None:
    found = look_alikes(signatures(clusters(6, 4), seed=0), 3)
    assert len(found) == 24 * 3
    assert all(i // 4 == j // 4 for i, j in found)


def test_sequences_are_compared_with_neighbours_and_what_looks_alike() -> None:
    """A walk that comes back: its end shows what its beginning shows."""
    walk = clusters(16, 1)
    pairs = pairs_to_compare(some_photos(32, from_video=True), "sequential", [*walk, *walk], seed=0)
    assert pairs == sorted(set(pairs))
    assert all((k, k + 1) in pairs for k in range(31))
    assert all((k, k + 16) in pairs for k in range(16))
    assert len(pairs) < 32 * 31 / 2


def test_inputs_are_joined_by_what_looks_alike() -> None:
    same = clusters(20, 1)
    photos = some_photos(20, source=0) + some_photos(20, source=1)
    pairs = pairs_to_compare(photos, "sequential", [*same, *same], seed=0)
    assert all((k, k + 20) in pairs for k in range(20))


def test_photos_without_features_are_no_trouble() -> None:
    descriptors = [*clusters(3, 4), np.zeros((0, 128), np.uint8)]
    pairs = pairs_to_compare(some_photos(13), "retrieval", descriptors, seed=0)
    assert {i for pair in pairs for i in pair} == set(range(13))
