"""Checkpoint folders of every family, as `transformers` saves them: tiny, random, never fetched.

folder = tiny_checkpoint(tmp_path / "encoder", "wav2vec2")
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

_BLOCKS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
_CONV = {
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_codevectors_per_group": 8,
    "codevector_dim": 8,
    "proj_codevector_dim": 8,
}
_SEW_CONV = {
    "conv_dim": [16] * 5,
    "conv_kernel": [10, 3, 3, 2, 2],
    "conv_stride": [5, 4, 4, 2, 2],
    "squeeze_factor": 2,
    "num_conv_pos_embeddings": 15,
    "num_conv_pos_embedding_groups": 4,
}
_LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2": ("Wav2Vec2", {**_BLOCKS, **_CONV}),
    "wav2vec2-large": ("Wav2Vec2", {**_BLOCKS, **_CONV, **_LAYER_NORM}),
    "hubert": ("Hubert", {**_BLOCKS, **_CONV}),
    "hubert-large": ("Hubert", {**_BLOCKS, **_CONV, **_LAYER_NORM}),
    "wavlm": ("WavLM", {**_BLOCKS, **_CONV}),
    "wavlm-large": ("WavLM", {**_BLOCKS, **_CONV, **_LAYER_NORM}),
    "data2vec-audio": (
        "Data2VecAudio",
        {
            **_BLOCKS,
            "conv_dim": [16] * 7,
            "num_conv_pos_embeddings": 3,
            "conv_pos_kernel_size": 5,
            "num_conv_pos_embedding_groups": 4,
        },
    ),
    "wav2vec2-bert": (
        "Wav2Vec2Bert",
        {**_BLOCKS, "feature_projection_input_dim": 160, "conv_depthwise_kernel_size": 7},
    ),
    "unispeech": ("UniSpeech", {**_BLOCKS, **_CONV}),
    "unispeech-sat": ("UniSpeechSat", {**_BLOCKS, **_CONV}),
    "sew": ("SEW", {**_BLOCKS, **_SEW_CONV}),
    "sew-d": (
        "SEWD",
        {**_BLOCKS, **_SEW_CONV, "position_buckets": 8, "max_position_embeddings": 64},
    ),
    "whisper": (
        "Whisper",
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "num_mel_bins": 80,
            "max_source_positions": 100,
            "max_target_positions": 8,
            "vocab_size": 32,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
    ),
    "audio-spectrogram-transformer": (
        "AST",
        {**_BLOCKS, "max_length": 128, "num_mel_bins": 64, "patch_size": 16},
    ),
}
"""Families by name: the class of `transformers` without `Config` or `Model`, and its settings."""

_WAVEFORM = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "do_normalize": True,
    "feature_size": 1,
    "padding_value": 0.0,
    "sampling_rate": 16000,
    "return_attention_mask": False,
}
PREPROCESSORS: dict[str, dict[str, Any]] = {
    "whisper": {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": 80,
        "n_fft": 400,
        "hop_length": 160,
        "chunk_length": 2,
        "sampling_rate": 16000,
    },
    "wav2vec2-bert": {
        "feature_extractor_type": "SeamlessM4TFeatureExtractor",
        "feature_size": 80,
        "num_mel_bins": 80,
        "stride": 2,
        "padding_value": 0.0,
        "sampling_rate": 16000,
    },
    "audio-spectrogram-transformer": {
        "feature_extractor_type": "ASTFeatureExtractor",
        "num_mel_bins": 64,
        "max_length": 128,
        "mean": -4.2677393,
        "std": 4.5689974,
        "do_normalize": True,
        "sampling_rate": 16000,
    },
}
"""`preprocessor_config.json` of the families that do not read waveforms."""


def tiny_checkpoint(folder: Path, family: str, seed: int = 0, **changes: Any) -> Path:
    """Save a random model of a family of `FAMILIES` with its `preprocessor_config.json`.

    The weights are drawn a bit larger than the library's, so that every path through the network
    shows in its output.

    Args:
        folder: Where to save.
        family: A key of `FAMILIES`.
        seed: Of the weights.
        changes: Settings of the model's config, instead of the tiny ones.
    """
    import transformers

    from harken.backbones.pretrained import quiet

    name, settings = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**{**settings, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, f"{name}Model")(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    with quiet():
        model.save_pretrained(folder)
    preprocessor = PREPROCESSORS.get(family, _WAVEFORM)
    if family == "wav2vec2-large":
        preprocessor = {**preprocessor, "return_attention_mask": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


_SHARED = tempfile.TemporaryDirectory(prefix="harken-tiny-", ignore_cleanup_errors=True)


@cache
def shared_checkpoint(family: str) -> Path:
    """Return a checkpoint that all tests of this process share."""
    return tiny_checkpoint(Path(_SHARED.name) / family, family)
