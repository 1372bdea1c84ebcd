"""`cnn`: small convolutional networks, trained from scratch."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from harken.backbones.backbone import Backbone, BackboneModule, Hidden, mask_from_lengths
from harken.backbones.shapes import (
    fixed_frames,
    is_full,
    pad_frames,
    require_spectrogram,
)
from harken.errors import ConfigError
from harken.frontends.frontend import FeatureSpec

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class CnnBackbone(Backbone):
    """A small convolutional network that needs no pretraining.

    `style: vgg` reads clips of any length: blocks of 3×3 convolution, batch normalisation and
    activation, each block ended by 2×2 pooling. `style: baseline` is a plain network of three
    5×5 convolutions and two dense layers, as many courses begin with; it needs
    `audio.clip_seconds`.
    """

    kind: Literal["cnn"] = "cnn"
    style: Literal["vgg", "baseline"] = "vgg"
    """`vgg`, a strong small network, or `baseline`, a weak one to compare with."""
    widths: list[PositiveInt] = Field(default=[32, 64, 128, 256], min_length=1)
    """vgg: channels of each block; each block halves bins and frames."""
    convs_per_block: int = Field(2, ge=1)
    """vgg: convolutions in each block."""
    stem_kernel: Literal[3, 5, 7] = 3
    """vgg: side of the very first convolution."""
    stem_stride: Literal[1, 2] = 1
    """vgg: its stride; 2 reads fine spectrograms at a quarter of the cost."""
    pool: Literal["avg", "max"] = "avg"
    """vgg: the 2×2 pooling that ends each block."""
    pool_before_norm: bool = False
    """vgg: pool right after a block's last convolution, so that a quarter is left to normalise."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """vgg: what follows each normalisation."""
    residual: bool = False
    """vgg: add each block's input, through a 1×1 convolution, before its last activation."""
    freq_channel: bool = False
    """vgg: give the bin number, from -1 to 1, as a second input channel."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """vgg: probability of dropping a value after each block."""
    share_conv: bool = False
    """baseline: use the second convolution's weights for the third one too."""

    @model_validator(mode="after")
    def _refuse_options_of_the_other_style(self) -> Self:
        style, own = ("vgg", {"share_conv"}) if self.style == "vgg" else ("baseline", None)
        other = own or set(type(self).model_fields) - {"kind", "style", "share_conv"}
        for name in sorted(other):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} does nothing with style {style!r}; leave it out")
        if self.residual and self.pool_before_norm:
            raise ValueError("residual adds to maps that are not pooled yet: no pool_before_norm")
        return self

    def check(self, spec: FeatureSpec) -> None:
        """Refuse what is no spectrogram."""
        require_spectrogram(spec, self.kind)

    def build(self, spec: FeatureSpec) -> BackboneModule:
        """Build the network for spectrograms.

        Raises:
            ConfigError: other features; for `baseline` also clips of no fixed length or too small.
        """
        self.check(spec)
        if self.style == "vgg":
            return Vgg(self, spec.dim)
        return BaselineCnn(spec.dim, fixed_frames(spec, "cnn style baseline"), self.share_conv)


class MaskedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose training statistics leave out padded frames."""

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise maps `(batch, channels, bins, frames)`.

        Args:
            input: The maps.
            mask: 0/1 `(batch, 1, 1, frames)`, or None where no frame is padded.
        """
        if mask is None or not self.training:
            return super().forward(input)
        return self._normalise_where(input, mask)

    def _normalise_where(self, x: Tensor, mask: Tensor) -> Tensor:
        count = mask.sum(dtype=torch.float32) * x.shape[2]
        mean = (x * mask).sum((0, 2, 3), dtype=torch.float32) / count
        centred = (x - mean[:, None, None]) * mask
        variance = centred.square().sum((0, 2, 3), dtype=torch.float32) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked.add_(1)


class ConvBlock(nn.Module):
    """Convolutions of one width, then 2×2 pooling; padded frames are zero at every input."""

    def __init__(
        self, in_channels: int, channels: int, config: CnnBackbone, kernel: int, stride: int
    ) -> None:
        super().__init__()
        more = config.convs_per_block - 1
        first = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
        others = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(more))
        self.convs = nn.ModuleList([first, *others])
        self.norms = nn.ModuleList(MaskedBatchNorm2d(channels) for _ in self.convs)
        skip = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
        self.shortcut = skip if config.residual else None
        self.activation = ACTIVATIONS[config.activation]()
        self.pool = F.avg_pool2d if config.pool == "avg" else F.max_pool2d
        self.pool_before_norm = config.pool_before_norm
        self.dropout = nn.Dropout(config.dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if in_channels == 1:
            # On CPUs channels-last maps are faster, and a stem that makes them so at once saves a
            # fifth of a step. One channel's weights lie the same in both orders.
            first.weight.data = first.weight.data.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Turn maps `(batch, in, bins, frames)` into `(batch, channels, bins / 2, frames / 2)`.

        A stride divides them once more; they stay at least 1. `mask` is 0/1 `(batch, 1, 1, frames
        after the stride)`, or None.
        """
        added = None if self.shortcut is None else self.shortcut(x)
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            is_last = i == len(self.convs) - 1
            # The order of the maps is kept by all that follows.
            x = conv(x).contiguous(memory_format=torch.channels_last)
            if is_last and self.pool_before_norm:
                x, mask = self._pooled(x if mask is None else x * mask), _half(mask)
            x = norm(x, mask)
            if added is not None and is_last:
                x = x + added
            x = self.activation(x)
            x = x if mask is None else x * mask
        dropped: Tensor = self.dropout(x if self.pool_before_norm else self._pooled(x))
        return dropped

    def _pooled(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 1)) if x.shape[3] == 1 else x
        return self.pool(x, (min(2, x.shape[2]), 2))


def _half(mask: Tensor | None) -> Tensor | None:
    """Return the mask of pooled frames: both halves must be there, but one frame always stays."""
    if mask is None:
        return None
    half = mask[..., 1::2] if mask.shape[3] > 1 else mask
    return torch.cat((torch.ones_like(half[..., :1]), half[..., 1:]), dim=3)


class Vgg(BackboneModule):
    """Blocks of 3×3 convolutions after Simonyan & Zisserman (2015), with batch normalisation.

    Each block halves bins and frames (at least 1 stays), a strided stem once more, whatever the
    other clips of a batch: frames beyond a clip's length are zero before every convolution.
    """

    def __init__(self, config: CnnBackbone, bins: int) -> None:
        super().__init__()
        self.dim = config.widths[-1]
        self.freq_channel, self.stem_stride = config.freq_channel, config.stem_stride
        self.register_buffer("ramp", torch.linspace(-1, 1, bins)[:, None], persistent=False)
        inputs = [1 + config.freq_channel, *config.widths[:-1]]
        stem, others = (config.stem_kernel, config.stem_stride), [(3, 1)] * (len(inputs) - 1)
        self.blocks = nn.ModuleList(
            ConvBlock(n, width, config, *shape)
            for n, width, shape in zip(inputs, config.widths, [stem, *others], strict=True)
        )

    def forward(self, features: Tensor, lengths: Tensor) -> Hidden:
        """Turn spectrograms `(batch, bins, frames)` into hidden states."""
        full = is_full(lengths, features.shape[-1])
        x = self._with_bin_number(features) if self.freq_channel else features[:, None]
        x = x if full else x * self._mask(lengths, x.shape[3], x.dtype)
        for i, block in enumerate(self.blocks):
            stride = self.stem_stride if i == 0 else 1
            lengths, frames = -(-lengths // stride), -(-x.shape[3] // stride)
            x = block(x, None if full else self._mask(lengths, frames, x.dtype))
            lengths = (lengths // 2).clamp(1, x.shape[3])
            x = x if full else x * self._mask(lengths, x.shape[3], x.dtype)
        bins, frames = x.shape[2:]
        states = x.flatten(2).transpose(1, 2)
        columns = mask_from_lengths(lengths, frames)
        return Hidden(states, columns.repeat(1, bins), grid=(bins, frames))

    def _with_bin_number(self, features: Tensor) -> Tensor:
        ramp = self.get_buffer("ramp").expand_as(features)
        return torch.stack((features, ramp), dim=1)

    @staticmethod
    def _mask(lengths: Tensor, frames: int, dtype: torch.dtype) -> Tensor:
        return mask_from_lengths(lengths, frames)[:, None, None].to(dtype)


class BaselineCnn(BackboneModule):
    """Three times (5×5 convolution of 6 channels, ReLU, 2×2 max pooling), then dense 120 and 84.

    A spectrogram of 128 × 498 flattens to 4176 values. The head is the last dense layer.
    """

    dim = 84

    def __init__(self, bins: int, frames: int, share_conv: bool) -> None:
        super().__init__()
        self.frames = frames
        rows, columns = self._left_of(bins), self._left_of(frames)
        if rows < 1 or columns < 1:
            raise ConfigError(
                f"cnn style baseline needs at least 36 bins and frames, not {bins} × {frames}",
                where="backbone.style",
                fix="more bins or longer clips, or backbone.style=vgg",
            )
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 6, 5)
        self.conv3 = self.conv2 if share_conv else nn.Conv2d(6, 6, 5)
        self.dense1 = nn.Linear(6 * rows * columns, 120)
        self.dense2 = nn.Linear(120, self.dim)

    @staticmethod
    def _left_of(size: int) -> int:
        for _ in range(3):
            size = (size - 4) // 2
        return size

    def forward(self, features: Tensor, lengths: Tensor) -> Hidden:
        """Turn spectrograms of at most the fixed number of frames into one state per clip."""
        x = pad_frames(features, self.frames)[:, None]
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.max_pool2d(F.relu(conv(x)), 2)
        x = F.relu(self.dense2(F.relu(self.dense1(x.flatten(1)))))
        return Hidden(x[:, None], torch.ones(len(x), 1, dtype=torch.bool, device=x.device))
