"""`timm`: any image network of the installed timm, reading a spectrogram as a one-channel image."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from harken.backbones.backbone import Backbone, BackboneModule, Hidden, mask_from_lengths
from harken.backbones.shapes import fixed_frames, pad_frames, require_spectrogram
from harken.backbones.timm_weights import load_weights
from harken.errors import ConfigError, import_extra
from harken.frontends.frontend import FeatureSpec

OURS = {
    "checkpoint_path": "backbone.checkpoint",
    "drop_path_rate": "backbone.drop_path",
    "drop_rate": "heads.dropout",
    "global_pool": "pooling",
    "img_size": "audio.clip_seconds and the front-end's bins",
    "in_chans": "the front-end",
    "num_classes": "the labels",
    "pretrained": "backbone.pretrained",
}


class TimmBackbone(Backbone):
    """Any network of the installed timm, without its classifier; needs `audio.clip_seconds`."""

    kind: Literal["timm"] = "timm"
    name: str
    """The network, as in `timm.list_models()`, e.g. `resnet18` or `efficientnet_b0.ra_in1k`."""
    pretrained: bool = False
    """Fetch the weights that timm names for this network from the hub."""
    checkpoint: str | None = None
    """A local file with weights of this network, safetensors or torch's (`.pth`, `.pt`, `.bin`),
    such as torchvision's of a `resnet50`; its classifier is left out, and its pickle is not run."""
    drop_path: float = Field(0.0, ge=0.0, lt=1.0)
    """Stochastic depth rate, for networks that have it."""
    options: dict[str, Any] = Field(default={})
    """Further arguments of the network's constructor, e.g. `{depth: 4}` for a `vit`."""

    @field_validator("options")
    @classmethod
    def _refuse_our_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key in sorted(OURS.keys() & options.keys()):
            raise ValueError(f"{key!r} cannot be set here; it follows from {OURS[key]}")
        return options

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.pretrained and self.checkpoint is not None:
            raise ValueError("give either pretrained or checkpoint, not both")
        return self

    def build(self, spec: FeatureSpec) -> BackboneModule:
        """Build the network for spectrograms of a fixed number of frames.

        Raises:
            ConfigError: other features, clips of no fixed length, a name that timm does not know,
                a size or an option that the network does not take, or weights that do not fit.
            MissingExtraError: timm is not installed.
        """
        require_spectrogram(spec, self.kind)
        frames = fixed_frames(spec, f"timm network {self.name}")
        timm = import_extra("timm", "timm")
        self._check_name(timm)
        module = self._first_that_runs(timm, (spec.dim, frames))
        if self.pretrained:
            self._fetch(timm, module)
        if self.checkpoint is not None:
            load_weights(module.network, self.checkpoint)
        return module

    def _check_name(self, timm: ModuleType) -> None:
        if timm.is_model(self.name):
            return
        near = difflib.get_close_matches(self.name, timm.list_models(), n=3, cutoff=0.4)
        raise ConfigError(
            f"timm has no network {self.name!r}",
            where="backbone.name",
            fix=f"did you mean {', '.join(near)}?" if near else "see timm.list_models()",
        )

    def _first_that_runs(self, timm: ModuleType, size: tuple[int, int]) -> TimmModule:
        """Try the network with an image size of its own, then without, until one reads a clip.

        Which networks take `img_size`, `global_pool` or an image of any size is written down
        nowhere, so a zero clip of the true size is sent through each variant.
        """
        reason: Exception | None = None
        for arguments, padded in self._variants(size):
            try:
                network = timm.create_model(self.name, **arguments)
                layout = inspect_network(network, padded)
            except Exception as error:  # timm's networks raise anything for a wrong size
                reason = error if reason is None or _says_more(error, reason) else reason
            else:
                self._check_drop_path(network)
                return TimmModule(network, arguments, layout)
        text = _first_line(reason)
        if "drop_path_rate" in text:
            raise self._no_drop_path() from reason
        by_option = any(f"'{key}'" in text for key in self.options)
        raise ConfigError(
            f"{self.name} cannot read a spectrogram of {size[0]} × {size[1]}: {text}",
            where="backbone.options" if by_option else "backbone.name",
            fix="choose another network, or other bins or audio.clip_seconds",
        ) from reason

    def _variants(self, size: tuple[int, int]) -> Iterator[tuple[dict[str, Any], tuple[int, int]]]:
        patch = re.search(r"patch(\d+)", self.name)
        side = int(patch[1]) if patch and int(patch[1]) >= 8 else 32
        padded = (math.ceil(size[0] / side) * side, math.ceil(size[1] / side) * side)
        fixed: dict[str, Any] = {"in_chans": 1, "num_classes": 0, **self.options}
        if self.drop_path:
            fixed["drop_path_rate"] = self.drop_path
        for pool in ({"global_pool": ""}, {}):
            yield {**fixed, **pool, "img_size": padded}, padded
            yield {**fixed, **pool}, size
            yield {**fixed, **pool}, padded

    def _check_drop_path(self, network: nn.Module) -> None:
        dropped = (getattr(m, "drop_prob", 0) for m in network.modules())
        if self.drop_path and not any(isinstance(p, float) and p > 0 for p in dropped):
            raise self._no_drop_path()

    def _no_drop_path(self) -> ConfigError:
        return ConfigError(
            f"{self.name} has no stochastic depth",
            where="backbone.drop_path",
            fix="leave backbone.drop_path out",
        )

    def _fetch(self, timm: ModuleType, module: TimmModule) -> None:
        """Build the network again, this time with the hub's weights, and take them over."""
        try:
            fetched = timm.create_model(self.name, pretrained=True, **module.arguments)
        except Exception as error:  # the hub's client raises errors of half a dozen libraries
            raise ConfigError(
                f"the weights of {self.name} could not be fetched: {_first_line(error)}",
                where="backbone.pretrained",
                fix="give a local file, backbone.checkpoint=weights.safetensors",
            ) from error
        module.network.load_state_dict(fetched.state_dict())


def _first_line(error: Exception | None) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _says_more(error: Exception, known: Exception) -> bool:
    """Whether an error is about the network rather than about an argument it never had."""
    ours = re.compile(r"'(img_size|global_pool)'")
    return bool(ours.search(str(known))) and not ours.search(str(error))


@dataclass(frozen=True)
class Layout:
    """How a network's output is to be read.

    Attributes:
        size: Bins and frames of the image that the network reads.
        order: The dimensions of its output, after the batch: a map's channels, height and width,
            or n tokens.
        grid: Rows and columns of its map.
        dim: Channels.
        prefix: Tokens before those of the map.
        has_cls: Whether the first of them is a class token.
        whole: Whether `forward` keeps the map; else `forward_features` is called.
    """

    size: tuple[int, int]
    order: Literal["CHW", "HWC", "NC"]
    grid: tuple[int, int]
    dim: int
    prefix: int
    has_cls: bool
    whole: bool


class TimmModule(BackboneModule):
    """A timm network without classifier and without pooling."""

    def __init__(self, network: nn.Module, arguments: dict[str, Any], layout: Layout) -> None:
        super().__init__()
        self.network, self.arguments, self.layout = network, arguments, layout
        self.dim, self.has_cls = layout.dim, layout.has_cls
        self._depths = _depths(network)
        self.num_depths = 1 + max(self._depths.values(), default=-1)
        _go_channels_last(network)

    def depth_of(self, name: str) -> int:
        """Return a parameter's depth by the network's own grouping of its layers."""
        return self._depths.get(name.removeprefix("network."), self.num_depths - 1)

    def forward(self, features: Tensor, lengths: Tensor) -> Hidden:
        """Turn spectrograms of at most the fixed number of frames into hidden states.

        A column of the output map belongs to a clip if it begins before the clip's end.
        """
        layout, (rows, columns) = self.layout, self.layout.grid
        x = F.pad(features, (0, 0, 0, layout.size[0] - features.shape[1]))
        states = _tokens(self.network, pad_frames(x, layout.size[1])[:, None], layout)
        ends = (lengths * columns / layout.size[1]).ceil().clamp(min=1)
        mask = mask_from_lengths(ends, columns).repeat(1, rows)
        cls = states[:, 0] if layout.has_cls else None
        return Hidden(states[:, layout.prefix :], mask, grid=layout.grid, cls=cls)


def _depths(network: Any) -> dict[str, int]:
    """Return the depth of each parameter, or nothing where timm does not group the layers."""
    if not hasattr(network, "group_matcher"):
        return {}
    group = import_extra("timm.models", "timm").group_parameters
    return dict(group(network, network.group_matcher(coarse=False), reverse=True))


def _tokens(network: Any, image: Tensor, layout: Layout) -> Tensor:
    """Run a network and return its output as tokens `(batch, n, dim)`."""
    out: Tensor = network(image) if layout.whole else network.forward_features(image)
    if layout.order == "CHW":
        return out.flatten(2).transpose(1, 2)
    return out.flatten(1, 2) if layout.order == "HWC" else out.view(len(out), -1, layout.dim)


def _go_channels_last(network: nn.Module) -> None:
    """Reorder the stem's output in memory; all later convolutions keep the order.

    On CPUs this makes inference 1.2 to 1.7 times as fast and training 1.2 times, but the training
    of networks without depthwise convolutions slower, which is why they change in inference only.
    The image itself stays as it is: one channel's strides tell no order, and forced ones crash
    strided 1×1 convolutions in oneDNN.
    """
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    depthwise = any(conv.groups > 1 for conv in convs)

    def reorder(module: nn.Module, _: object, out: Tensor) -> Tensor:
        wanted = depthwise or not module.training
        return out.contiguous(memory_format=torch.channels_last) if wanted else out

    for conv in convs:
        if conv.in_channels == 1:
            conv.register_forward_hook(reorder)


def inspect_network(network: Any, size: tuple[int, int]) -> Layout:
    """Send one zero clip through a network and learn the layout of its output.

    Parameters that the output does not depend on, such as those of an unused pooling, are frozen:
    no gradient would ever reach them.

    Raises:
        ValueError: the network returns neither a map, nor tokens, nor a vector.
    """
    training = network.training
    network.eval()
    image = torch.zeros(1, 1, *size)
    try:
        out = network(image)
    except Exception:  # some networks' heads need the pooling that was taken out
        out = None
    whole = isinstance(out, Tensor) and out.ndim in (3, 4)
    features = out if whole else network.forward_features(image)
    if not (isinstance(features, Tensor) and features.ndim in (3, 4)):
        # Networks of several scales keep no single map; their own pooled vector has to do.
        features, whole = out, True
    if not isinstance(features, Tensor):
        raise ValueError("its features are not one map or one sequence of tokens")
    network.train(training)
    _freeze_unreached(network, features)
    return _layout(network, features, size, whole)


def _layout(network: nn.Module, out: Tensor, size: tuple[int, int], whole: bool) -> Layout:
    if out.ndim == 2:
        return Layout(size, "NC", (1, 1), out.shape[1], 0, False, whole)
    if out.ndim == 4:
        height, width, dim = out.shape[1:]
        if _channels_come_last(network, out):
            return Layout(size, "HWC", (height, width), dim, 0, False, whole)
        return Layout(size, "CHW", (width, dim), height, 0, False, whole)
    has_cls = isinstance(getattr(network, "cls_token", None), Tensor)
    prefix = int(getattr(network, "num_prefix_tokens", has_cls))
    if out.shape[1] <= prefix:
        return Layout(size, "NC", (1, out.shape[1]), out.shape[2], 0, has_cls, whole)
    grid = _grid_of(out.shape[1] - prefix, size)
    return Layout(size, "NC", grid, out.shape[2], prefix, has_cls and prefix > 0, whole)


def _channels_come_last(network: nn.Module, out: Tensor) -> bool:
    if getattr(network, "output_fmt", None) in ("NCHW", "NHWC"):
        return bool(network.output_fmt == "NHWC")
    dim = getattr(network, "num_features", None)
    return bool(out.shape[3] == dim and out.shape[1] != dim)


def _grid_of(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Part a number of tokens into the rows and columns most like the image."""
    pairs = [(rows, tokens // rows) for rows in range(1, tokens + 1) if tokens % rows == 0]
    wanted = math.log(size[0] / size[1])
    return min(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1]) - wanted))


def _freeze_unreached(network: nn.Module, out: Tensor) -> None:
    reached, seen, stack = set(), set(), [out.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        reached.add(id(getattr(node, "variable", None)))
        stack.extend(before for before, _ in node.next_functions)
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in reached)
