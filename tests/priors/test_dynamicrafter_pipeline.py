"""The generator at toy size with random weights: what holds whatever the weights are."""

import pytest
import torch
from dynamicrafter_toys import UNET, quiet, toy_pipeline

from genfusion_ns.priors.dynamicrafter.architecture import weighted_parts
from genfusion_ns.priors.dynamicrafter.cross_attention import TEXT_TOKENS, contexts_per_frame
from genfusion_ns.priors.dynamicrafter.pipeline import DynamiCrafterPipeline
from genfusion_ns.priors.dynamicrafter.sampling import RecordedNoise, Sampling
from genfusion_ns.priors.dynamicrafter.scheduler import DynamiCrafterScheduler
from genfusion_ns.priors.dynamicrafter.unet import DynamiCrafterUNet

SHORT = Sampling(steps=2)


@pytest.fixture(scope="module")
def pipeline():
    return toy_pipeline()


@pytest.fixture(scope="module")
def clip():
    generator = torch.Generator().manual_seed(1)
    return {
        "rgb": torch.rand(3, 64, 64, 3, generator=generator),
        "disparity": torch.rand(3, 64, 64, 1, generator=generator),
        "references": torch.rand(1, 40, 56, 3, generator=generator),
    }


def run(pipeline, clip, sampling=SHORT, seed=0):
    return pipeline(**clip, sampling=sampling, generator=torch.Generator().manual_seed(seed))


def network_inputs(length=256):
    generator = torch.Generator().manual_seed(2)
    return (
        torch.randn(2, 8, 3, 8, 8, generator=generator),
        torch.tensor([300, 700]),
        torch.randn(2, length, 64, generator=generator),
        torch.tensor([30, 10]),
    )


def test_same_seed_same_clip_and_another_seed_another(pipeline, clip):
    first, again, other = run(pipeline, clip), run(pipeline, clip), run(pipeline, clip, seed=1)
    assert torch.equal(first.rgb, again.rgb)
    assert torch.equal(first.disparity, again.disparity)
    assert (first.rgb - other.rgb).abs().max() > 0.01
    assert first.rgb.shape == clip["rgb"].shape
    assert first.disparity.shape == clip["disparity"].shape
    assert first.rgb.min() >= 0
    assert first.rgb.max() <= 1


def test_guidance_in_one_call_is_guidance_in_two(pipeline, clip):
    one = run(pipeline, clip)
    two = run(pipeline, clip, Sampling(steps=2, batch_guidance=False))
    torch.testing.assert_close(one.latents, two.latents, atol=1e-4, rtol=0)


def test_guidance_of_one_does_without_the_second_branch(pipeline, clip):
    plain = run(pipeline, clip, Sampling(steps=2, guidance_scale=1.0))
    nearly = run(pipeline, clip, Sampling(steps=2, guidance_scale=1.0 + 1e-6, guidance_rescale=0.0))
    torch.testing.assert_close(plain.latents, nearly.latents, atol=1e-4, rtol=0)


def test_autoencoder_in_slices(pipeline, monkeypatch):
    video = torch.rand(2, 4, 3, 64, 64) * 2 - 1
    noise = torch.randn(6, 4, 8, 8)
    latents, frames = [], []
    for size in (1, 4, 6):
        monkeypatch.setattr(pipeline, "frames_per_slice", size)
        latents.append(pipeline.encode_video(video, noise=noise))
        frames.append(pipeline.decode_video(latents[0]))
    for latent, frame in zip(latents[1:], frames[1:], strict=True):
        torch.testing.assert_close(latent, latents[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(frame, frames[0], atol=1e-4, rtol=0)


def test_mode_of_the_condition_needs_no_generator(pipeline):
    video = torch.rand(1, 4, 2, 64, 64) * 2 - 1
    mode = pipeline.encode_video(video, sample=False)
    assert torch.equal(mode, pipeline.encode_video(video, noise=torch.zeros(2, 4, 8, 8)))


def test_null_context_is_that_of_a_grey_photo_of_any_size(pipeline):
    null = pipeline.null_context(2)
    for size in ((40, 56), (300, 500)):
        grey = pipeline.encode_references(torch.zeros(1, 2, 3, *size))
        torch.testing.assert_close(grey, null, atol=1e-4, rtol=0)


def test_null_context_follows_the_projection():
    pipeline = toy_pipeline()
    before = pipeline.null_context(1).detach().clone()
    with torch.no_grad():
        pipeline.image_projection.latents.mul_(2)
    torch.testing.assert_close(
        pipeline.null_context(1), pipeline.encode_references(torch.zeros(1, 1, 3, 40, 56)), atol=1e-4, rtol=0
    )
    assert not torch.allclose(pipeline.null_context(1), before)


def test_saved_pipeline_gives_the_same(pipeline, clip, tmp_path):
    pipeline.save_pretrained(tmp_path)
    loaded = quiet(DynamiCrafterPipeline.from_pretrained(tmp_path))
    assert loaded.frames_per_slice == 2
    torch.testing.assert_close(run(loaded, clip).latents, run(pipeline, clip).latents, atol=1e-5, rtol=0)


def test_half_precision_stays_near(pipeline, clip, tmp_path):
    pipeline.save_pretrained(tmp_path)
    loaded = quiet(DynamiCrafterPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16))
    assert {part.dtype for part in weighted_parts(loaded).values()} == {torch.bfloat16}
    half, full = run(loaded, clip), run(pipeline, clip)
    assert half.latents.dtype == half.rgb.dtype == torch.float32
    assert (half.latents - full.latents).square().mean() < 0.01 * full.latents.square().mean()


def test_every_part_takes_its_turn_on_the_device(pipeline):
    assert sorted(pipeline.model_cpu_offload_seq.split("->")) == sorted(weighted_parts(pipeline))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rgb": torch.zeros(3, 64, 72, 3), "disparity": torch.zeros(3, 64, 72, 1)}, "72 x 64.*multiples of 64"),
        ({"rgb": torch.zeros(0, 64, 64, 3), "disparity": torch.zeros(0, 64, 64, 1)}, "0 frames"),
        ({"disparity": torch.zeros(3, 64, 64)}, r"disparity \[T, H, W, 1\]"),
        ({"references": torch.zeros(0, 64, 64, 3)}, "at least one photo"),
    ],
)
def test_wrong_shapes_are_named(pipeline, clip, change, message):
    with pytest.raises(ValueError, match=message):
        run(pipeline, {**clip, **change})


class GaussianNetwork(torch.nn.Module):
    """The best prediction of v where clean latents are independent and normal, whatever the condition."""

    def __init__(self, scheduler, deviation):
        super().__init__()
        self.levels, self.variance, self.dtype = scheduler.alphas_cumprod.float(), deviation**2, torch.float32

    def forward(self, sample, timestep, context, fps):
        a = self.levels[timestep][:, None, None, None, None]
        noisy = sample[:, :4]
        clean = self.variance * a.sqrt() / (self.variance * a + 1 - a) * noisy
        # At the zero SNR end, where a is 0 and so is the estimate, v is minus the estimate.
        noise = (noisy - a.sqrt() * clean) / (1 - a).sqrt()
        return a.sqrt() * noise - (1 - a).sqrt() * clean


@pytest.mark.parametrize("deviation", [0.5, 1.0])
def test_uncertainty_is_the_variance_of_what_is_sampled(deviation):
    pipeline = toy_pipeline()
    pipeline.scheduler = DynamiCrafterScheduler(base_scale=1.0)
    pipeline.unet = GaussianNetwork(pipeline.scheduler, deviation)
    sampling = Sampling(steps=250, guidance_scale=1.0, spacing="uniform_trailing")
    condition = torch.zeros(1, 4, 4, 32, 32)
    end = pipeline.denoise(condition, torch.zeros(1, 1, 1), None, sampling, torch.Generator().manual_seed(0))
    # A little less, because the last time step is not free of noise and steps are finite.
    assert 0.85 * deviation**2 < float(end.variance.mean()) < deviation**2
    assert float(end.latents.var()) == pytest.approx(deviation**2, rel=0.1)
    certain = pipeline.denoise(
        condition,
        torch.zeros(1, 1, 1),
        None,
        sampling,
        noise=RecordedNoise(start=torch.zeros_like(condition), steps=torch.zeros(250, *condition.shape)),
    )
    assert not certain.variance.any()


def test_untrained_network_predicts_nothing():
    torch.manual_seed(0)
    assert not DynamiCrafterUNet(**UNET).eval()(*network_inputs()).any()


def test_context_is_split_at_the_length_of_a_prompt(pipeline):
    sample, times, context, fps = network_inputs()
    with torch.no_grad():
        expected = pipeline.unet(sample, times, context, fps)
        shuffled = torch.cat([context[:, :TEXT_TOKENS].flip(1), context[:, TEXT_TOKENS:].flip(1)], 1)
        torch.testing.assert_close(pipeline.unet(sample, times, shuffled, fps), expected, atol=1e-4, rtol=0)
        crossed = context.roll(1, dims=1)
        assert (pipeline.unet(sample, times, crossed, fps) - expected).abs().max() > 1e-3


def test_contexts_of_frames():
    shared = torch.randn(2, 256, 4)
    per_frame = contexts_per_frame(shared, 3)
    assert torch.equal(per_frame[1], shared[0])
    assert torch.equal(per_frame[3], shared[1])
    own = torch.randn(2, TEXT_TOKENS + 3 * 16, 4)
    second = contexts_per_frame(own, 3)[3 + 1]
    assert torch.equal(second, torch.cat([own[1, :TEXT_TOKENS], own[1, TEXT_TOKENS + 16 : TEXT_TOKENS + 32]]))


def test_clips_of_a_batch_do_not_meet(pipeline):
    sample, times, context, fps = network_inputs()
    with torch.no_grad():
        both = pipeline.unet(sample, times, context, fps)
        second = pipeline.unet(sample[1:], times[1:], context[1:], fps[1:])
    torch.testing.assert_close(both[1:], second, atol=1e-4, rtol=0)


def test_latents_that_cannot_be_halved_are_refused(pipeline):
    with pytest.raises(ValueError, match=r"12 x 8 .* multiples of 8"):
        pipeline.unet(torch.zeros(1, 8, 2, 8, 12), torch.tensor([1]), torch.zeros(1, 256, 64))


def test_checkpointing_gives_the_same_gradients_with_fewer_tensors_kept():
    unet = toy_pipeline().unet
    gradients, kept = [], []
    for enable in (unet.disable_gradient_checkpointing, unet.enable_gradient_checkpointing):
        enable()
        unet.zero_grad()
        sizes = []
        pack = lambda tensor: sizes.append(tensor.numel()) or tensor  # noqa: E731, B023
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = unet(*network_inputs()).square().mean()
        kept.append(sum(sizes))
        loss.backward()
        gradients.append({name: parameter.grad for name, parameter in unet.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)
    assert kept[1] < kept[0] / 3
