"""What may stand in the configs of networks: types and ranges, checked before anything is built or imported.

Configs come with weights from anywhere. The libraries that build networks from them keep what they do not understand,
import what `model_index.json` names, and fail at any later moment with any error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from genfusion_ns.json_files import JsonValue

Check = Callable[[JsonValue], object]
_LARGEST_WIDTH = 2**14


def whole(least: int, most: int = _LARGEST_WIDTH) -> Check:
    """A whole number in least..most, written as one: networks are not built from 3.0."""

    def check(value: JsonValue) -> None:
        allowed = f"a whole number in {least}..{most}"
        if isinstance(value.value, float):
            value.refuse(allowed)
        value.whole(allowed, least, most)

    return check


def number(least: float, most: float = 1e6) -> Check:
    """A number in least..most."""
    return lambda value: value.number(f"a number in {least:g}..{most:g}", lambda found: least <= found <= most)


def one_of(*choices: str) -> Check:
    """One of several words."""
    return lambda value: value.choice(choices)


def list_of(check: Check, least: int = 1, most: int = 16) -> Check:
    """A list of least..most entries."""

    def check_all(value: JsonValue) -> None:
        allowed = f"a list of {least}..{most} entries" if least < most else f"a list of {least}"
        entries = value.entries(allowed)
        if not least <= len(entries) <= most:
            value.refuse(allowed)
        for entry in entries:
            check(entry)

    return check_all


def optional(check: Check) -> Check:
    """The same, or null."""
    return lambda value: None if value.value is None else check(value)


def check_config(config: JsonValue, checks: Mapping[str, Check], closed: bool = True) -> None:
    """Check what is given in a config; keys that are not given keep their defaults.

    Args:
        config: an object.
        checks: by key.
        closed: refuse other keys, but for notes of the libraries, which begin with an underscore.

    Raises:
        ValueError: a value, or a key, that is not allowed; the message names the file and the key.
    """
    for name, value in config.fields().items():
        if name in checks:
            checks[name](value)
        elif closed and not name.startswith("_"):
            said = f"{config.file}: the key {name[:60]!r} is unknown; allowed: {', '.join(sorted(checks))}"
            raise config.error(f"{said}. {config.way_out}".rstrip())


def check_kind(config: JsonValue, kind: str, key: str = "_class_name") -> None:
    """Refuse the config of another class."""
    found = config[key]
    if found.value != kind:
        what = found.value if found.is_given else None
        raise config.error(f"{config.file} describes a {str(what)[:60]}, not a {kind}. {config.way_out}".rstrip())


def check_weight_index(index: JsonValue, names: Sequence[str], check_inside: Callable[[JsonValue], object]) -> None:
    """Refuse an index of weights in several files that names others than those beside it.

    Args:
        index: content of ``*.safetensors.index.json``.
        names: of the weight files beside it.
        check_inside: refuses names that lead out of the folder.
    """
    for entry in index["weight_map"].fields().values():
        check_inside(entry)
        if entry.text() not in names:
            entry.refuse(f"a file of weights beside the index: {', '.join(names)}")


COMPACT: dict[str, Check] = {
    "channels": list_of(whole(1), 3, 3),
    "reference_channels": whole(1),
    "patch_size": whole(1, 64),
    "attention_head_dim": whole(1),
    "norm_groups": whole(1),
    "sigma_min": number(0, 100),
    "sigma_max": number(0, 100),
    "output": one_of("correction", "selection"),
}
"""Of `CompactUNet`."""
TRIPOSR: dict[str, Check] = {
    **{name: whole(1, 4096) for name in ("image_size", "vit_native_size", "vit_patch_size", "plane_size", "samples")},
    **{name: whole(1) for name in ("vit_width", "vit_mlp_width", "plane_channels", "features", "decoder_width")},
    **{name: whole(1, 1024) for name in ("vit_heads", "heads", "head_width")},
    **{name: whole(1, 256) for name in ("vit_layers", "layers", "decoder_layers")},
    "radius": number(1e-3, 1e3),
    "density_bias": number(-1e3, 1e3),
    "surface_density": number(1e-6),
}
"""Of `TripoSRNetwork`."""
UNET: dict[str, Check] = {
    "in_channels": whole(1),
    "out_channels": whole(1),
    "block_out_channels": list_of(whole(1)),
    "layers_per_block": whole(1, 64),
    "attention_head_dim": whole(1),
    "cross_attention_dim": whole(1),
    "norm_num_groups": whole(1),
    "dropout": number(0, 1),
    "default_fps": whole(1, 1000),
}
"""Of `DynamiCrafterUNet`."""
IMAGE_PROJECTION: dict[str, Check] = {
    **{name: whole(1) for name in ("embed_dims", "hidden_dims", "output_dims", "dim_head", "heads", "num_queries")},
    "depth": whole(1, 256),
    "ffn_ratio": whole(1, 64),
}
"""Of `ImageProjection`."""
SCHEDULER: dict[str, Check] = {
    "num_train_timesteps": whole(2, 100_000),
    "beta_start": number(1e-9, 0.9),
    "beta_end": number(1e-9, 0.9),
    "rescale_betas_zero_snr": JsonValue.flag,
    "base_scale": number(1e-3, 1),
    "turning_step": whole(1, 100_000),
    "timestep_spacing": one_of("uniform", "uniform_trailing"),
}
"""Of `DynamiCrafterScheduler`."""
AUTOENCODER: dict[str, Check] = {
    **{name: whole(1) for name in ("in_channels", "out_channels", "latent_channels", "norm_num_groups")},
    "block_out_channels": list_of(whole(1)),
    "down_block_types": list_of(one_of("DownEncoderBlock2D", "AttnDownEncoderBlock2D")),
    "up_block_types": list_of(one_of("UpDecoderBlock2D", "AttnUpDecoderBlock2D")),
    "layers_per_block": whole(1, 64),
    "act_fn": one_of("silu", "swish", "mish", "gelu", "relu"),
    "sample_size": lambda value: (list_of(whole(1)) if isinstance(value.value, list) else whole(1))(value),
    "scaling_factor": number(1e-6, 1e3),
    "shift_factor": optional(number(-1e3, 1e3)),
    "latents_mean": optional(list_of(number(-1e3, 1e3))),
    "latents_std": optional(list_of(number(-1e3, 1e3))),
    **dict.fromkeys(
        ("force_upcast", "use_quant_conv", "use_post_quant_conv", "mid_block_add_attention"), JsonValue.flag
    ),
}
"""Of diffusers' `AutoencoderKL`; other releases have other keys beside these."""
IMAGE_ENCODER: dict[str, Check] = {
    **{name: whole(1) for name in ("hidden_size", "intermediate_size", "projection_dim", "num_attention_heads")},
    "num_hidden_layers": whole(1, 256),
    "image_size": whole(224, 224),
    "patch_size": whole(1, 224),
    "num_channels": whole(3, 3),
    "hidden_act": one_of("gelu", "quick_gelu", "gelu_new", "relu", "silu"),
    "layer_norm_eps": number(1e-12, 1),
    "attention_dropout": number(0, 1),
    "initializer_range": number(0, 10),
    "initializer_factor": number(0, 10),
    "dtype": one_of("float32", "float16", "bfloat16"),
    "torch_dtype": one_of("float32", "float16", "bfloat16"),
    "model_type": one_of("clip_vision_model"),
    "architectures": list_of(one_of("CLIPVisionModelWithProjection"), 1, 1),
    "transformers_version": JsonValue.text,
    "return_dict": lambda value: value.flag() or value.refuse("true"),
}
"""Of transformers' `CLIPVisionConfig`; other releases have other keys beside these."""
PIXELNERF: dict[str, Check] = {
    **{name: whole(1, 4096) for name in ("features", "rays", "samples", "training_samples", "hidden")},
    "frequencies": whole(0, 32),
    "widths": list_of(whole(1)),
    "level": whole(0, 15),
    "norm_num_groups": whole(1),
}
"""Of `PixelNerf`."""
DENOISER: dict[str, Check] = {
    "in_channels": whole(1),
    "out_channels": whole(1),
    "block_out_channels": list_of(whole(1)),
    "norm_num_groups": whole(1),
}
"""Of diffusers' `UNet2DConditionModel`, as far as other parts depend on it; it has many more keys."""
DDIM: dict[str, Check] = {
    "num_train_timesteps": whole(2, 100_000),
    "beta_start": number(1e-9, 0.9),
    "beta_end": number(1e-9, 0.9),
    "beta_schedule": one_of("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": one_of("epsilon", "v_prediction"),
    "rescale_betas_zero_snr": JsonValue.flag,
    "trained_betas": lambda value: None if value.value is None else value.refuse("null"),
}
"""Of diffusers' `DDIMScheduler`, as far as noise levels depend on it."""
