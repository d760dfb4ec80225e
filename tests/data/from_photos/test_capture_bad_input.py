"""What no capture can be made of is refused with the file or flag, what was found, and the way out."""

from __future__ import annotations

import builtins
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_captures import tree
from photo_walks import Progress, film, take_noise
from PIL import Image
from scipy.ndimage import gaussian_filter

from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.data.from_photos.settings import CaptureFromPhotosSettings
from genfusion_ns.scripts.capture import Capture


@dataclass
class Given:
    """What a user gives."""

    inputs: list[Path]
    out: Path
    settings: dict[str, Any] = field(default_factory=dict)


def make(given: Given) -> None:
    pytest.importorskip("pycolmap", reason="the extra `capture` is not installed: pycolmap")
    from genfusion_ns.data.from_photos.capture import make_capture

    make_capture(given.inputs, given.out, CaptureFromPhotosSettings(**given.settings), Progress().begin)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photos that have nothing in common; to be copied."""
    folder = tmp_path_factory.mktemp("strangers") / "photos"
    folder.mkdir()
    for k in range(5):
        take_noise(folder / f"photo_{k}.png", seed=k)
    return folder


@pytest.fixture
def given(photos: Path, tmp_path: Path) -> Given:
    shutil.copytree(photos, tmp_path / "photos")
    return Given([tmp_path / "photos"], tmp_path / "out")


def nothing(given: Given) -> None:
    given.inputs = []


def missing_input(given: Given) -> None:
    given.inputs = [given.inputs[0] / "nowhere"]


def empty_folder(given: Given) -> None:
    for file in given.inputs[0].iterdir():
        file.unlink()


def photos_below(given: Given) -> None:
    (given.inputs[0].parent / "images").mkdir()
    given.inputs = [given.inputs[0].parent]


def only_videos(given: Given) -> None:
    empty_folder(given)
    (given.inputs[0] / "clip.MOV").touch()


def poses_there(given: Given) -> None:
    (given.inputs[0] / "transforms.json").write_text("{}")


def blender_poses_there(given: Given) -> None:
    (given.inputs[0] / "transforms_train.json").write_text("{}")


def colmap_poses_there(given: Given) -> None:
    (given.inputs[0] / "sparse" / "0").mkdir(parents=True)
    (given.inputs[0] / "sparse" / "0" / "images.bin").touch()


def heic_folder(given: Given) -> None:
    empty_folder(given)
    (given.inputs[0] / "IMG_1.HEIC").touch()


def raw_file(given: Given) -> None:
    given.inputs = [given.inputs[0] / "IMG_1.CR2"]
    given.inputs[0].touch()


def unknown_kind(given: Given) -> None:
    given.inputs = [given.inputs[0] / "notes.txt"]
    given.inputs[0].touch()


def out_is_file(given: Given) -> None:
    given.out.touch()


def out_is_foreign(given: Given) -> None:
    given.out.mkdir()
    (given.out / "diary.txt").touch()


def out_has_poses(given: Given) -> None:
    given.out.mkdir()
    (given.out / "transforms.json").write_text("{}")


def out_of_others(given: Given) -> None:
    (given.out / ".capture").mkdir(parents=True)
    (given.out / ".capture" / "inputs.json").write_text('["/elsewhere/clip.mp4"]')


def setting(**settings: Any) -> Callable[[Given], None]:
    def change(given: Given) -> None:
        given.settings = settings

    return change


def masks_nowhere(given: Given) -> None:
    given.settings = {"masks": given.out.parent / "masks"}


def masks_empty(given: Given) -> None:
    masks_nowhere(given)
    given.settings["masks"].mkdir()


def masks_lacking(given: Given) -> None:
    masks_empty(given)
    Image.new("L", (320, 240), 255).save(given.settings["masks"] / "photo_0.png")


def masks_twice(given: Given) -> None:
    masks_lacking(given)
    Image.new("L", (320, 240), 255).save(given.settings["masks"] / "photo_0.jpg")


def mask_of_other_shape(given: Given) -> None:
    given.settings = {"masks": given.out.parent / "mask.png"}
    Image.new("L", (240, 240), 255).save(given.settings["masks"])


def mask_hides_all(given: Given) -> None:
    given.settings = {"masks": given.out.parent / "mask.png"}
    Image.new("L", (320, 240), 0).save(given.settings["masks"])


def masks_for_a_video(given: Given) -> None:
    masks_lacking(given)
    given.inputs = [given.out.parent / "clip.mp4"]
    given.inputs[0].touch()


def two_photos(given: Given) -> None:
    for k in range(3):
        (given.inputs[0] / f"photo_{k}.png").unlink()


def damaged_photos(given: Given) -> None:
    for file in given.inputs[0].iterdir():
        file.write_bytes(file.read_bytes()[:900])


def no_video(given: Given) -> None:
    given.inputs = [given.out.parent / "clip.mp4"]
    given.inputs[0].write_text("this is no video at all, though its name says so")


def empty_video(given: Given) -> None:
    given.inputs = [given.out.parent / "clip.mp4"]
    given.inputs[0].touch()


def short_video(given: Given) -> None:
    given.inputs = [given.out.parent / "clip.mp4"]
    film(
        given.inputs[0], [np.asarray(Image.open(file)) for file in sorted((given.out.parent / "photos").iterdir())[:2]]
    )


def video_without_its_end(given: Given) -> None:
    """The index of an MP4 file is at its end."""
    moving_video(given, "clip.mp4", 0.8)


def video_without_frames(given: Given) -> None:
    moving_video(given, "clip.mkv", 0.1)


def moving_video(given: Given, name: str, share: float) -> None:
    """A part of a video of 30 frames."""
    given.inputs = [given.out.parent / name]
    picture = np.asarray(Image.open(given.out.parent / "photos" / "photo_0.png"))
    film(given.inputs[0], [np.roll(picture, 6 * k, 1) for k in range(30)])
    content = given.inputs[0].read_bytes()
    given.inputs[0].write_bytes(content[: int(share * len(content))])


def video_without_picture(given: Given) -> None:
    import av

    given.inputs = [given.out.parent / "clip.mp4"]
    with av.open(str(given.inputs[0]), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        for part in (sound, None):
            container.mux(stream.encode(part))


def still_video(given: Given) -> None:
    given.inputs = [given.out.parent / "clip.mp4"]
    film(given.inputs[0], [np.asarray(Image.open(given.out.parent / "photos" / "photo_0.png"))] * 5)


def blurred_video(given: Given) -> None:
    given.inputs = [given.out.parent / "clip.mp4"]
    picture = np.asarray(Image.open(given.out.parent / "photos" / "photo_0.png"))
    film(given.inputs[0], [np.roll(gaussian_filter(picture, (14, 14, 0)), 12 * k, 1) for k in range(6)])


def plain_photos(given: Given) -> None:
    for file in given.inputs[0].iterdir():
        Image.new("RGB", (320, 240), "white").save(file)


def nothing_in_common(given: Given) -> None:
    pass


REFUSED = [
    (nothing, "no input is given; name a video"),
    (missing_input, "nowhere does not exist; give a video, or a folder"),
    (empty_folder, r"photos has no photos \(\.png.*name these folders instead"),
    (photos_below, r"has no photos itself; give .*images"),
    (only_videos, r"has videos but no photos; name the videos, such as .*clip\.MOV"),
    (poses_there, r"has poses already, in transforms\.json; they are left as they are: ns-train genfusion --data"),
    (blender_poses_there, r"has poses already, in transforms_train\.json"),
    (colmap_poses_there, r"has poses already, in sparse/0; they are left as they are"),
    (heic_folder, r"IMG_1\.HEIC is of a kind that is not read; save it as JPEG"),
    (raw_file, r"IMG_1\.CR2 is of a kind that is not read; develop it"),
    (unknown_kind, r"notes\.txt is neither a photo .* nor a video .*; rename or convert it"),
    (out_is_file, "out is a file; the last argument is the folder to write"),
    (out_is_foreign, "out is not empty and was not written by gf-capture; .*give a new one"),
    (out_has_poses, "out is not empty .*it has poses from elsewhere .*left as they are; .*give a new one"),
    (
        out_of_others,
        r"out holds a capture of /elsewhere/clip\.mp4, not of .*photos; give another folder, or --overwrite",
    ),
    (setting(frames=2), r"--frames is 2; allowed are 3\.\.5000"),
    (setting(focal_length=0.5), r"--focal-length is 0\.5; allowed are 5\.\.2000"),
    (setting(focal_length=float("nan")), "--focal-length is nan; allowed are"),
    (setting(features=10), r"--features is 10; allowed are 200\.\."),
    (setting(feature_size=0), r"--feature-size is 0; allowed are 200\.\."),
    (setting(seed=-1), r"--seed is -1; allowed are 0\.\."),
    (setting(lens="fisheye", focal_length=28.0), "--focal-length does not go with --lens fisheye.*leave it out"),
    (setting(lens="fisheye", undistort=True), "--undistort does not go with --lens fisheye.*leave one out"),
    (masks_nowhere, "--masks .*masks does not exist; give a folder of masks, or one mask"),
    (masks_empty, r"--masks .*masks has no masks \(\.png.*named like its photo"),
    (masks_lacking, r"--masks .*masks has no mask for photo_1\.png; it holds photo_0\.png"),
    (masks_twice, r"has no mask for photo_1\.png; it holds photo_0\.jpg \.\. photo_0\.png"),
    (mask_of_other_shape, r"mask\.png has 240 x 240 pixels, its photo 320 x 240; a mask must have the size"),
    (mask_hides_all, r"mask\.png shows nothing of its photo: no pixel is white. Invert it"),
    (masks_for_a_video, "--masks .* is a folder, but which frames of a video are taken .*give one mask image"),
    (two_photos, r"2 photo\(s\) can be used, at least 3 are needed and 20 or more are good.*Take photos from places"),
    (damaged_photos, r"0 photo\(s\) can be used.*photo_0\.png: is damaged or cut off.*Take photos"),
    (no_video, r"clip\.mp4 is not a video that can be read, or is cut off .*copy it .* again, or convert it"),
    (empty_video, r"clip\.mp4 is not a video that can be read, or is cut off .*copy it .* again, or convert it"),
    (video_without_its_end, r"clip\.mp4 is not a video that can be read, or is cut off .*copy it .* again"),
    (video_without_frames, r"clip\.mkv has no frame that can be decoded; copy it from the camera again"),
    (video_without_picture, r"clip\.mp4 has no video stream; give the video itself"),
    (short_video, r"clip\.mp4 has 2 frame\(s\), at least 3 are needed; record 20 seconds"),
    (still_video, r"clip\.mp4: the picture moves by .*Record while walking around the subject"),
    (blurred_video, r"0 of \d photos have 150 features or more.*Record slowly, in good light"),
    (plain_photos, r"0 of 5 photos have 150 features or more.*put things with texture"),
    (nothing_in_common, r"no poses were found for the 5 photos: 0 pair\(s\).*overlap too little. Take more of them"),
]


@pytest.mark.parametrize(
    ("damage", "said"), REFUSED, ids=[damage.__name__ + str(i) for i, (damage, _) in enumerate(REFUSED)]
)
def test_it_is_refused_and_nothing_is_written(damage: Callable[[Given], None], said: str, given: Given) -> None:
    damage(given)
    before = tree(given.inputs[0]) if given.inputs and given.inputs[0].is_dir() else {}
    with pytest.raises(ValueError, match=f"(?s){said}") as caught:
        make(given)
    assert isinstance(caught.value, CaptureError) or "--" in str(caught.value)
    if given.inputs and given.inputs[0].is_dir():
        assert tree(given.inputs[0]) == before
    written = [path.name for path in given.out.iterdir()] if given.out.is_dir() else []
    there = {"diary.txt", "transforms.json"} if damage in (out_is_foreign, out_has_poses) else set()
    assert not {*written} - {".capture", *there}


def test_two_processes_do_not_write_one_capture(given: Given) -> None:
    """The second one comes while the first one reads photos."""
    pytest.importorskip("pycolmap", reason="the extra `capture` is not installed: pycolmap")
    from genfusion_ns.data.from_photos.capture import make_capture

    settings, said = CaptureFromPhotosSettings(), []

    def meanwhile(*_: object) -> Any:
        for overwrite in (False, True):
            with pytest.raises(
                CaptureError, match=rf"out is being written by another .*process {os.getpid()}"
            ) as caught:
                make_capture(given.inputs, given.out, settings, Progress().begin, overwrite)
            said.append(str(caught.value))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_capture(given.inputs, given.out, settings, meanwhile)
    assert len(said) == 2
    with pytest.raises(CaptureError, match="no poses were found"):  # it is free again
        make(given)


def test_one_argument_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"only .*clip\.mp4 is given; name a video .* and last the folder to write"):
        Capture(paths=(tmp_path / "clip.mp4",)).run()


def test_without_pycolmap_the_extra_is_named(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    from genfusion_ns.data.from_photos.colmap_library import load_colmap

    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name == "pycolmap":
            raise ModuleNotFoundError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install 'genfusion-ns\[capture\]'; or bring poses"):
        load_colmap()
