"""The network, its conditioning and its sampler give the recorded numbers of the published modules at toy size."""

import pytest
import torch
from dynamicrafter_toys import facts, recorded_pipeline, tensors

from genfusion_ns.geometry.depth import encode_disparity
from genfusion_ns.priors.dynamicrafter.conversion.key_map import pieces_of
from genfusion_ns.priors.dynamicrafter.image_projection import clip_pixels
from genfusion_ns.priors.dynamicrafter.images import from_network, resize_disparity, resize_rgb, to_network
from genfusion_ns.priors.dynamicrafter.sampling import RecordedNoise, Sampling
from genfusion_ns.priors.dynamicrafter.scheduler import DynamiCrafterScheduler, spaced_timesteps


@pytest.fixture(scope="module")
def pipeline():
    return recorded_pipeline()


@pytest.fixture(scope="module")
def conditioning():
    """Only the networks that look at photos have their recorded weights."""
    return recorded_pipeline("weights_conditioning")


def close(actual, expected, atol, rtol=0.0):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)


@pytest.mark.parametrize(
    "case", ["genfusion_t16", "batch2_mixed", "default_fs", "per_frame_text", "two_refs", "short_context80"]
)
def test_unet(pipeline, case):
    data = tensors("unet")
    get = lambda name: data.get(f"{case}.{name}")  # noqa: E731
    with torch.no_grad():
        out = pipeline.unet(get("x"), get("timesteps"), get("context"), get("fs"))
    close(out, get("out"), atol=1e-4)


def test_projection(conditioning):
    data = tensors("conditioning")
    with torch.no_grad():
        close(conditioning.image_projection(data["resampler.x"]), data["resampler.out"], atol=5e-5)


@pytest.mark.parametrize("name", ["down_270x480", "mixed_160x256"])
def test_image_encoder(conditioning, name):
    data = {key.removeprefix(f"embedder.{name}."): value for key, value in tensors("conditioning").items()}
    photo = data["image_u8"].float() / 255 * 2 - 1
    pixels = clip_pixels(photo)
    close(pixels, data["preprocessed"], atol=1e-5)
    close(conditioning.image_encoder(pixel_values=pixels).last_hidden_state, data["tokens"], atol=5e-5)
    close(conditioning.encode_references(photo[None]), data["context"], atol=5e-5)


def test_null_context(conditioning):
    close(conditioning.null_context(1), tensors("conditioning")["embedder.null.context"], atol=5e-5)


def test_autoencoder(pipeline):
    data = tensors("vae")
    with torch.no_grad():
        distribution = pipeline.vae.encode(data["x"]).latent_dist
    close(torch.cat([distribution.mean, distribution.logvar], 1), data["moments"], atol=1e-5)
    frames = data["x"].transpose(0, 1)[None]
    latents = pipeline.encode_video(frames, noise=data["noise"])
    close(latents[0].transpose(0, 1), data["latent_scaled"], atol=1e-5)
    decoded = pipeline.decode_video(data["z"].transpose(0, 1)[None] * 0.18215)
    close(decoded[0].transpose(0, 1), data["decoded"], atol=1e-5)
    close(pipeline.encode_video(data["video.x"], noise=data["video.noise"]), data["video.latent"], atol=1e-5)
    close(pipeline.decode_video(data["video.latent"]), data["video.decoded_rgbd"], atol=1e-5)


def test_schedule_tables():
    data, scheduler = tensors("schedule"), DynamiCrafterScheduler()
    close(scheduler.alphas_cumprod, data["alphas_cumprod_f64"], atol=1e-15, rtol=1e-9)
    close(scheduler.scales.float(), data["scale_arr"][:1000], atol=0, rtol=1e-6)
    assert scheduler.alphas_cumprod[999] == 0


def test_timesteps():
    for name, expected in facts("ddim_timesteps").items():
        spacing, steps = name.split(".")
        if 1000 in expected:
            with pytest.raises(ValueError, match="past 999"):
                spaced_timesteps(int(steps), spacing)
        else:
            assert spaced_timesteps(int(steps), spacing) == expected, name


@pytest.mark.parametrize("run", sorted(facts("ddim_runs")))
def test_sampling(pipeline, run):
    data, how = tensors("ddim"), facts("ddim_runs")[run]
    group = "b2." if run.startswith("b2.") else ""
    get = lambda name: data[group + name]  # noqa: E731
    sampling = Sampling(
        steps=how["steps"],
        eta=how["eta"],
        guidance_scale=how["cfg_scale"],
        guidance_rescale=how["guidance_rescale"],
        spacing=how["timestep_spacing"],
    )
    if run.endswith("noscale"):
        pipeline = recorded_pipeline()
        pipeline.scheduler = DynamiCrafterScheduler(base_scale=1.0)
    noise = RecordedNoise(start=get("x_T"), steps=get("noise"))
    latents = pipeline.denoise(
        get("c_concat"), get("context"), get("uncond_context"), sampling, noise=noise, fps=get("fs")
    ).latents
    close(latents, data[f"{run}.x_prev"][-1], atol=5e-4)
    assert pipeline.scheduler.timesteps.tolist() == how["executed_timesteps"]


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_training_loss(pipeline, case):
    data = {key.removeprefix(f"{case}."): value for key, value in tensors("train_loss").items()}
    scheduler, unet = pipeline.scheduler, pipeline.unet
    scaled = scheduler.rescale(data["x_start"], data["t"])
    close(scaled, data["x_scaled"], atol=1e-6)
    noisy = scheduler.add_noise(scaled, data["noise"], data["t"])
    close(noisy, data["x_noisy"], atol=1e-6)
    target = scheduler.get_velocity(scaled, data["noise"], data["t"])
    close(target, data["v_target"], atol=1e-6)
    output = unet(torch.cat([noisy, data["c_concat"]], 1), data["t"], data["context"], data["fs"])
    close(output, data["model_output"], atol=1e-4)
    loss = (output - target).square().mean()
    close(loss, data["loss"].reshape(()), atol=1e-5)
    unet.zero_grad()
    loss.backward()
    parameters = dict(unet.named_parameters())
    for name, expected in data.items():
        if name.startswith("grad.model."):
            (piece,) = pieces_of("model." + name.removeprefix("grad.model."))
            actual = parameters[piece.target.removeprefix("unet.")].grad.reshape(expected.shape)
            close(actual, expected, atol=1e-6, rtol=1e-3)


def test_pixels_in_and_out():
    data = tensors("preprocess")
    rgb = resize_rgb(to_network(data["rgb"])[None], (120, 64))
    close(rgb[0], data["rgb_out"], atol=1e-6)
    code = encode_disparity(data["depth"][0, ..., None])
    disparity = resize_disparity(to_network(code.disparity[..., 0])[None, None], (120, 64))
    close(disparity[0], data["depth_out"], atol=1e-6)
    close(resize_rgb(to_network(data["ref"])[None], (120, 64))[0], data["ref_out"], atol=1e-6)
    decoded = from_network(data["decoded"])
    close(decoded[:3], data["post_rgb"], atol=1e-6)
    close(1 / (decoded[3:] + 1e-6), data["post_depth"], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("run", ["default_like", "deterministic"])
def test_renders_to_frames(pipeline, run):
    data = tensors("pipeline")
    how = {
        "default_like": Sampling(steps=5),
        "deterministic": Sampling(steps=5, eta=0, guidance_scale=2.2, spacing="uniform_trailing"),
    }[run]
    code = encode_disparity(data["render_depth"][0, ..., None])
    size = (128, 64)
    rgb = resize_rgb(to_network(data["render_rgb"])[None], size)
    disparity = resize_disparity(to_network(code.disparity[..., 0])[None, None], size)
    photos = resize_rgb(to_network(data["ref_rgb"])[None], size)
    close(rgb, data["artifact_rgb"], atol=1e-6)
    close(disparity, data["artifact_depth"], atol=1e-6)
    close(photos, data["ref_frames"], atol=1e-6)

    to_unit = lambda video: (video[0].permute(1, 2, 3, 0) + 1) / 2  # noqa: E731
    noise = RecordedNoise(condition=data["vae_noise"], start=data["x_T"], steps=data["noise"])
    out = pipeline(to_unit(rgb), to_unit(disparity), to_unit(photos), how, noise=noise)
    close(out.latents, data[f"{run}.latent"], atol=5e-4)
    expected = from_network(data[f"{run}.decoded"]).permute(1, 2, 3, 0)
    close(torch.cat([out.rgb, out.disparity], -1), expected, atol=5e-4)


def test_batches_of_training(pipeline):
    data = tensors("batch_input")
    clean = torch.cat([data["in.gt_rgb"], data["in.gt_depth"]], 1)
    artifact = torch.cat([data["in.artifact_rgb"], data["in.artifact_depth"]], 1)
    close(pipeline.encode_video(clean, noise=data["vae_noise_gt"]), data["z"], atol=5e-5)
    close(pipeline.encode_video(artifact, noise=data["vae_noise_cond"]), data["c_concat"], atol=5e-5)
    photos = data["in.ref_rgb"].transpose(1, 2)
    close(pipeline.encode_references(photos), data["context"], atol=5e-5)
    for name in ("drop_first", "drop_second"):
        random = data[f"{name}.random"]
        dropped = (random >= 0.05) & (random < 0.15)
        context = pipeline.encode_references(torch.where(dropped[:, None, None, None, None], 0.0, photos))
        close(context, data[f"{name}.context"], atol=5e-5)
        null = pipeline.null_context(1, batch=2)
        close(context[dropped], null[dropped], atol=5e-5)
