"""The small prior that comes with the package: it is whole, small enough, and knows what photos show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from genfusion_ns.geometry.cameras import c2w_to_viewmat, resize_intrinsics
from genfusion_ns.geometry.clips import References, RenderedView
from genfusion_ns.geometry.images import psnr, resize_images
from genfusion_ns.geometry.novel_views import nearest_cameras
from genfusion_ns.priors.config import RepairerConfig, build_repairer
from genfusion_ns.priors.reconfusion.config import PACKAGED_WEIGHTS
from genfusion_ns.priors.reconfusion.prior import ReconFusionPrior

SIZE = 64, 32


def read_room(folder: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Photos [V, H, W, 3] and depths [V, H, W, 1] in metres, c2w [V, 4, 4], and their K, at `SIZE`."""
    content = json.loads((folder / "transforms.json").read_text())
    frames = content["frames"]
    photos = np.stack([np.asarray(Image.open(folder / frame["file_path"])) for frame in frames])
    depths = np.stack([np.asarray(Image.open(folder / frame["depth_file_path"])) for frame in frames])
    K = torch.tensor(
        [[content["fl_x"], 0, content["cx"]], [0, content["fl_y"], content["cy"]], [0, 0, 1]], dtype=torch.float32
    )
    whole = photos.shape[2], photos.shape[1]
    return (
        resize_images(torch.from_numpy(photos).float() / 255, SIZE),
        resize_images(torch.from_numpy(depths.astype(np.float32) / 1000)[..., None], SIZE, nearest=True),
        torch.tensor([frame["transform_matrix"] for frame in frames]),
        resize_intrinsics(K, whole, SIZE),
    )


def test_it_takes_ten_megabytes_at_most_and_is_described():
    files = [path for path in PACKAGED_WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10e6
    card = (PACKAGED_WEIGHTS / "README.md").read_text()
    assert "Apache-2.0" in card and "stone_horse" in card
    assert not [path for path in files if path.suffix in (".pkl", ".pt", ".bin", ".ckpt")]


def test_it_draws_what_photos_show_from_noise_alone(sample_capture: Path):
    photos, depths, c2w, K = read_room(sample_capture)
    prior = build_repairer(RepairerConfig(model="reconfusion", resolution=SIZE), "cpu")
    assert isinstance(prior, ReconFusionPrior)
    drawn_error, render_error = [], []
    for index in (2, 6, 10):
        others = [i for i in range(len(photos)) if i != index]
        near = [others[i] for i in nearest_cameras(c2w[others].double(), c2w[index].double(), 3)]
        hole = torch.zeros(SIZE[1], SIZE[0], 1)
        hole[:, 20:44] = 1.0
        render = photos[index] * (1 - hole)
        view = RenderedView(render, depths[index] * (1 - hole), 1 - hole, c2w_to_viewmat(c2w[index]), K)
        references = References(photos[near], c2w_to_viewmat(c2w[near]), K.expand(3, 3, 3))
        drawn = prior.sample(view, references, 1.0, torch.Generator().manual_seed(index))
        inside = hole[..., 0] > 0
        drawn_error.append((drawn - photos[index])[inside].square().mean())
        render_error.append((render - photos[index])[inside].square().mean())
        kept = (drawn - photos[index])[~inside].square().mean()
        assert float(psnr(kept)) > 18, "what is rendered well is drawn from it"
    gain = psnr(torch.stack(drawn_error).mean()) - psnr(torch.stack(render_error).mean())
    assert float(gain) > 5, "a hole is filled with what photos and surroundings suggest"
