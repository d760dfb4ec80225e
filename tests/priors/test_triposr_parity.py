"""Every stage of TripoSR gives the recorded numbers of the published modules at reduced size."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from shared_files import recorded
from triposr_toys import settings, small_triposr, stages

from genfusion_ns.geometry.pixel_rays import evenly_around, intrinsics, meet_cube, orbit_poses, pixel_rays
from genfusion_ns.priors.triposr.marching import render_rays
from genfusion_ns.priors.triposr.network import TripoSRNetwork
from genfusion_ns.priors.triposr.pictures import as_tensor, cut_out, over_grey


@pytest.fixture(scope="module")
def network() -> TripoSRNetwork:
    return small_triposr()


@pytest.fixture(scope="module", autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def close(actual, name, atol=1e-4, rtol=0.0):
    torch.testing.assert_close(actual, stages()[name], atol=atol, rtol=rtol)


def test_input(network):
    rgba = stages()["rgba_u8"].numpy()
    square = cut_out(Image.fromarray(rgba), 0.85, "picture")
    np.testing.assert_array_equal(square, stages()["foreground_u8"].numpy())
    grey = over_grey(square)
    np.testing.assert_array_equal(grey, stages()["composite_u8"].numpy())
    close(network.condition(as_tensor(grey)).permute(0, 2, 3, 1), "rgb_cond", atol=1e-6)


def test_image_tokens(network):
    image = stages()["rgb_cond"].permute(0, 3, 1, 2)
    tokenizer = network.image_tokenizer
    embeddings = tokenizer.model.embeddings
    resized = embeddings.interpolate_pos_encoding(torch.zeros(1, 65, 48), 64, 64)
    close(resized, "vit_pos_embed", atol=1e-6)
    close(tokenizer(image), "image_tokens", atol=1e-5)


def test_the_resizing_of_newer_libraries_would_be_noticed(network):
    from transformers.models.vit.modeling_vit import ViTEmbeddings

    embeddings = network.image_tokenizer.model.embeddings
    naive = ViTEmbeddings.interpolate_pos_encoding(embeddings, torch.zeros(1, 65, 48), 64, 64)
    assert float((naive - stages()["vit_pos_embed"]).abs().max()) > 1e-2


def test_backbone(network):
    backbone, image = network.backbone, stages()["image_tokens"]
    tokens = network.tokenizer(1)
    close(tokens, "triplane_tokens_in")
    normed = backbone.norm(tokens)
    close(normed, "backbone_norm")
    x = backbone.proj_in(normed.transpose(1, 2))
    close(x, "backbone_proj_in")
    for index, block in enumerate(backbone.transformer_blocks):
        x = block(x, encoder_hidden_states=image)
        close(x, f"backbone_block{index}")
    close(backbone(tokens, image), "triplane_tokens_out")


def test_planes_and_code(network):
    image = stages()["rgb_cond"].permute(0, 3, 1, 2)
    planes = stages()["triplane_tokens_out"].unflatten(2, (3, 8, 8)).transpose(1, 2)
    close(planes, "planes", atol=0)
    close(network(image), "scene_codes")


def test_queries(network):
    field = network.field(stages()["scene_codes"][0])
    raw = field.raw(stages()["query_points"])
    close(raw[:, :1], "query_density", rtol=1e-4)
    close(raw[:, 1:], "query_features")
    found = field.query(stages()["query_points"], chunk=37)
    close(found.density[:, None], "query_density_act", rtol=1e-4)
    close(found.colours, "query_color")


@pytest.mark.parametrize("name", ["rays", "rays_wide"])
def test_rays_and_renders(network, name):
    ending = name.removeprefix("rays")
    said = settings()[name]
    poses = orbit_poses(evenly_around(said["n_views"]), said["elevation_deg"], said["camera_distance"])
    size = said["width"], said["height"]
    origins, directions = pixel_rays(poses, intrinsics(said["fovy_deg"], size), size)
    close(origins, f"rays_o{ending}", atol=1e-6)
    close(directions, f"rays_d{ending}", atol=1e-6)
    near, far, hits = meet_cube(origins.reshape(-1, 3), directions.reshape(-1, 3), 0.999 * 0.87)
    known = stages()[f"ray_valid{ending}"]
    assert bool((hits.view(known.shape) == known).all())
    if not ending:
        close(near.view(known.shape)[..., None], "t_near", atol=1e-5)
        close(far.view(known.shape)[..., None], "t_far", atol=1e-5)
    field = network.field(stages()["scene_codes"][0])
    image = render_rays(field, origins.reshape(-1, 3), directions.reshape(-1, 3), samples=32, chunk=1000)
    close(image.rgb.view(origins.shape), f"render{ending}")
    assert ending == "" or bool((image.rgb.view(origins.shape)[~known] == 1).all())


def test_the_whole_chain(network):
    grey = over_grey(cut_out(Image.fromarray(stages()["rgba_u8"].numpy()), 0.85, "picture"))
    code = network(network.condition(as_tensor(grey)))
    close(code, "scene_codes")
    origins, directions = stages()["rays_o"], stages()["rays_d"]
    image = render_rays(network.field(code[0]), origins.reshape(-1, 3), directions.reshape(-1, 3), samples=32)
    close(image.rgb.view(origins.shape), "render")


def test_batch_and_chunk_change_nothing(network):
    image = stages()["rgb_cond"].permute(0, 3, 1, 2)
    code = network(torch.cat([image, 1 - image, image]))
    torch.testing.assert_close(code[2:], stages()["scene_codes"], atol=1e-4, rtol=0)
    points = stages()["query_points"]
    field = network.field(code[0])
    whole, parts = field.query(points), field.query(points, chunk=7)
    torch.testing.assert_close(whole.density, parts.density, atol=0, rtol=1e-5)
    torch.testing.assert_close(whole.colours, parts.colours, atol=1e-6, rtol=0)


def test_the_published_size_has_exactly_the_published_tensors():
    layout = json.loads(recorded("siblings/published_layout_triposr.json").read_text())
    with torch.device("meta"):
        network = TripoSRNetwork()
    found = {name: [list(value.shape), "float32"] for name, value in network.state_dict().items()}
    assert len(layout) == 549 and found == layout
