"""TripoSR from files: ours and the published ones, and those that are neither."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from triposr_toys import SIZES, small_triposr, stages

from genfusion_ns.priors.triposr.loading import PACKAGED_WEIGHTS, choose_network, load_network
from genfusion_ns.priors.triposr.network import TripoSRNetwork
from genfusion_ns.priors.triposr.published import load_published, published_sizes

CONFIG = """
cond_image_size: 64
image_tokenizer_cls: tsr.models.tokenizers.image.DINOSingleImageTokenizer
image_tokenizer:
  pretrained_model_name_or_path: facebook/dino-vits16
tokenizer_cls: tsr.models.tokenizers.triplane.Triplane1DTokenizer
tokenizer:
  plane_size: 4
  num_channels: 64
backbone_cls: tsr.models.transformer.transformer_1d.Transformer1D
backbone:
  in_channels: ${tokenizer.num_channels}
  num_attention_heads: 2
  attention_head_dim: 16
  num_layers: 1
  cross_attention_dim: 384
post_processor_cls: tsr.models.network_utils.TriplaneUpsampleNetwork
post_processor:
  in_channels: 64
  out_channels: 8
decoder_cls: tsr.models.network_utils.NeRFMLP
decoder:
  in_channels: 24
  n_neurons: 16
  n_hidden_layers: 2
  activation: silu
renderer_cls: tsr.models.nerf_renderer.TriplaneNeRFRenderer
renderer:
  radius: 0.87
  feature_reduction: concat
  density_activation: exp
  density_bias: -1.0
  num_samples_per_ray: 16
"""


def raised(kind, act, *arguments) -> str:
    """The message of the error that a call raises."""
    with pytest.raises(kind) as caught:
        act(*arguments)
    return str(caught.value)


@pytest.fixture
def network() -> TripoSRNetwork:
    return small_triposr()


def code_of(network):
    with torch.no_grad():
        return network(stages()["rgb_cond"].permute(0, 3, 1, 2))


def test_saved_and_loaded_it_is_the_same(network, tmp_path):
    network.save_pretrained(tmp_path / "own")
    again = load_network(str(tmp_path / "own"))
    assert torch.equal(code_of(again), code_of(network))
    assert set(again.state_dict()) == set(network.state_dict())
    assert any(".encoder.layer.0.attention.attention.query" in name for name in again.state_dict())


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder as published: config.yaml and model.ckpt."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "config.yaml").write_text(CONFIG)
    torch.manual_seed(0)
    network = TripoSRNetwork(**published_sizes(folder / "config.yaml"))
    torch.save(network.state_dict(), folder / "model.ckpt")
    return folder, network.eval()


@pytest.mark.parametrize("name", [".", "model.ckpt"])
def test_published_files(published, name):
    folder, network = published
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(load_network(str(folder / name))(image), network(image))


def changed(published, tmp_path, change):
    _, network = published
    state = {name: value.clone() for name, value in network.state_dict().items()}
    change(state)
    (tmp_path / "config.yaml").write_text(CONFIG)
    torch.save(state, tmp_path / "model.ckpt")
    return str(tmp_path)


def test_every_tensor_counts(published, tmp_path):
    missing = changed(published, tmp_path, lambda state: state.pop("backbone.norm.weight"))
    assert "1 tensors missing (backbone.norm.weight)" in raised(ValueError, load_network, missing)
    more = changed(published, tmp_path, lambda state: state.update(more=torch.zeros(2)))
    assert "1 tensors unexpected (more)" in raised(ValueError, load_network, more)
    other = changed(published, tmp_path, lambda state: state.update({"tokenizer.embeddings": torch.zeros(3, 64, 4, 5)}))
    assert "of another shape (tokenizer.embeddings (3, 64, 4, 5)" in raised(ValueError, load_network, other)
    worse = changed(published, tmp_path, lambda state: state["backbone.norm.bias"].fill_(torch.nan))
    assert "backbone.norm.bias contains NaN" in raised(ValueError, load_network, worse)


def test_checkpoints_of_another_network_or_none(published, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    weights = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"unet.conv.weight": torch.zeros(1)}}, weights)
    assert "unet.conv.weight" in raised(ValueError, load_network, str(weights))
    whole = (published[0] / "model.ckpt").read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "not a complete" in raised(ValueError, load_network, str(weights))
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert "Git LFS pointer" in raised(ValueError, load_network, str(weights))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_of_a_malicious_checkpoint_is_run(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "model.ckpt").write_bytes(pickle.dumps({"a": Evil(tmp_path / "ran")}))
    message = raised(ValueError, load_network, str(tmp_path))
    assert "model.ckpt" in message and not (tmp_path / "ran").exists()
    torch.save({"a": Evil(tmp_path / "ran")}, tmp_path / "model.ckpt")
    assert "nothing of it was run" in raised(ValueError, load_network, str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tsr.models.network_utils.NeRFMLP", "os.system", "decoder_cls is 'os.system'"),
        ("facebook/dino-vits16", "facebook/dinov2", "facebook/dino-vitb16 or facebook/dino-vits16"),
        ("plane_size: 4", "plane_size: 0", "tokenizer.plane_size is 0"),
        ("activation: silu", "activation: relu", "decoder.activation is 'relu'"),
        ("cross_attention_dim: 384", "cross_attention_dim: 385", "backbone.cross_attention_dim is 385"),
        ("  radius: 0.87\n", "", "renderer.radius is missing"),
        ("${tokenizer.num_channels}", "${backbone.in_channels}", "backbone.in_channels"),
    ],
)
def test_configs_of_other_networks(tmp_path, old, new, said):
    assert old in CONFIG
    (tmp_path / "config.yaml").write_text(CONFIG.replace(old, new))
    assert said in raised(ValueError, published_sizes, tmp_path / "config.yaml")


def test_what_is_missing_is_said(published, tmp_path, monkeypatch):
    assert "config.json" in raised(FileNotFoundError, load_network, str(tmp_path))
    (tmp_path / "model.ckpt").write_bytes(b"")
    assert "config.yaml is missing" in raised(FileNotFoundError, load_network, str(tmp_path))
    assert "neither a folder nor" in raised(FileNotFoundError, load_network, str(tmp_path / "nothing.ckpt"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = raised(FileNotFoundError, load_network, "stabilityai/TripoSR-that-is-not-here")
    assert "config.yaml and model.ckpt" in message and "--model FOLDER" in message


def in_the_cache(root, *names) -> None:
    """Files as the cache of the hub has them."""
    folder = root / "models--stabilityai--TripoSR"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("abc")
    for name in names:
        (folder / "snapshots" / "abc").mkdir(parents=True, exist_ok=True)
        (folder / "snapshots" / "abc" / name).write_text("")


def test_auto_takes_the_published_network_only_where_it_was_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    small = choose_network("auto")
    assert small.model == str(PACKAGED_WEIGHTS) and small.note and "--model stabilityai/TripoSR" in small.note
    assert choose_network("small") == small
    in_the_cache(tmp_path, "config.yaml")
    assert choose_network("auto") == small
    in_the_cache(tmp_path, "config.yaml", "model.ckpt")
    assert choose_network("auto").model == "stabilityai/TripoSR" and choose_network("auto").note is None
    assert choose_network("small") == small and choose_network("else/where").model == "else/where"


def test_own_folders_of_other_networks(network, tmp_path):
    network.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, said in (
        ({"_class_name": "CompactUNet"}, "not a TripoSRNetwork"),
        ({"heads": 0}, "heads is 0"),
        ({"plane_channels": 65}, "cannot be built"),
        ({"decoder_layers": 4}, "tensors missing"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        assert said in raised(ValueError, load_network, str(tmp_path))


def test_safetensors_with_the_published_names(tmp_path, network):
    save_file({name: value.half() for name, value in network.state_dict().items()}, tmp_path / "model.safetensors")
    loaded = load_published(tmp_path / "model.safetensors", SIZES)
    assert next(loaded.parameters()).dtype == torch.float32
    torch.testing.assert_close(code_of(loaded), code_of(network), atol=0.1, rtol=0)
