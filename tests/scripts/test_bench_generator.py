"""The benchmark of the generator at toy size: its figures are there, and its random networks are usable."""

import re

import pytest
import torch

from genfusion_ns.priors.dynamicrafter.benchmark import benched_architecture, random_pipeline
from genfusion_ns.scripts.bench_generator import BenchGenerator

torch.set_num_threads(1)


def test_a_line_per_number_of_steps_and_one_for_the_guidance(capsys):
    BenchGenerator(device="cpu", sizes=("64x64",), steps=(1, 2), frames=2, repeats=1).main()
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("CPU, 1 torch threads") and head.endswith("toy sizes, 2 frames")
    assert [line.split(",")[0] for line in lines] == [
        "64x64 fp32: 1 steps",
        "64x64 fp32: 2 steps",
        "64x64 fp32: 1 steps",
    ]
    assert re.search(r"in one call \d+\.\d\d s, in two \d+\.\d\d s; two / one \d+\.\d\d$", lines[2])


def test_random_networks_stay_in_range_and_differ_from_zero():
    pipeline = random_pipeline(benched_architecture(published=False), torch.float32, torch.device("cpu"))
    with torch.no_grad():
        context = pipeline.encode_references(torch.zeros(1, 1, 3, 64, 64))
        velocity = pipeline.unet(torch.randn(1, 8, 2, 8, 8), torch.tensor([500]), context)
    assert torch.isfinite(velocity).all()
    assert 0.01 < float(velocity.std()) < 100
    ids = dict(pipeline.image_encoder.named_buffers())["vision_model.embeddings.position_ids"]
    assert ids.flatten().tolist() == list(range(257))


def test_random_networks_have_the_published_sizes():
    assert benched_architecture(published=True).skeleton().unet.config.block_out_channels == (320, 640, 1280, 1280)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sizes": ("960",)}, "--sizes has 960; WIDTHxHEIGHT"),
        ({"sizes": ("960x500",)}, "--sizes has 960x500"),
        ({"dtypes": ("int8",)}, "--dtypes has int8; allowed are fp16, bf16, fp32"),
        ({"device": "gpu"}, "--device is gpu; this machine has: cpu"),
        ({"repeats": 0}, "--repeats is 0"),
        ({"steps": (0,)}, "number of steps is 0"),
    ],
)
def test_settings_that_make_no_benchmark(options, said):
    with pytest.raises(ValueError, match=said):
        BenchGenerator(**{"device": "cpu", **options}).main()
