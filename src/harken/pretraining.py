"""Pretraining without labels: some tokens of a clip are hidden, and the others must tell them.

Of the hidden tokens 80 % become the mask, 10 % another token and 10 % stay (Devlin et al., 2019).
Neighbouring frames are alike, so spans of several frames may be hidden at once (Hsu et al., 2021).
The trainer, its checkpoints and its memory are those of classification: a clip's "logits" are the
mean surprise, the share that was told right, and the number of its hidden tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from harken.backbones.backbone import mask_from_lengths
from harken.backbones.sequence import SequenceModule
from harken.batch import Batch, Output
from harken.choice import Config
from harken.frontends.frontend import FrontendModule
from harken.inference import infer
from harken.labels import Labels
from harken.loader import Loader
from harken.losses import LossModule
from harken.model import Classifier, Stage
from harken.seeds import generator
from harken.trainer import Trainer

Floats = npt.NDArray[np.float32]
Tokens = tuple[Tensor, Tensor]

NO_LABELS = Labels(task="regression", names=("surprise",), columns=())
"""What stands for labels where there are none."""

SHARE_OF_MASKS, SHARE_OF_OTHERS = 0.8, 0.1


class Masking(Config):
    """What is hidden of a clip."""

    rate: float = Field(0.15, gt=0.0, lt=1.0)
    """Share of the tokens that is hidden."""
    span: int = Field(1, ge=1)
    """Neighbouring tokens that are hidden at once."""

    def places(self, draws: Tensor) -> Tensor:
        """Return which tokens are hidden, bool, from uniform draws `(clips, frames)`."""
        # With this chance of a start, a token lies in no span with the probability 1 - rate.
        start = 1 - (1 - self.rate) ** (1 / self.span)
        padded = F.pad((draws < start).float()[:, None], (self.span - 1, 0))
        return F.max_pool1d(padded, self.span, stride=1)[:, 0] > 0


class MaskedTokens(Classifier):
    """Tells hidden tokens from the states around them.

    While training everything is drawn anew; in evaluation every clip has the same places hidden,
    so that its result depends neither on its batch nor on the epoch.

    Args:
        frontend: Waveforms to tokens.
        backbone: A sequence model.
        masking: What is hidden.
        sample_rate: Hz of the waveforms.
    """

    backbone: SequenceModule

    def __init__(
        self,
        frontend: FrontendModule,
        backbone: SequenceModule,
        masking: Masking,
        sample_rate: int,
    ) -> None:
        reads = backbone.reads
        assert reads.tokens is not None, "only tokens can be hidden and told"
        tells = nn.Linear(backbone.dim, reads.stride * reads.tokens)
        nn.Module.__init__(self)
        self.frontend, self.backbone, self.tells = frontend, backbone, tells
        self.labels, self.sample_rate, self.conditions = NO_LABELS, sample_rate, nn.ModuleList()
        self.masking, self.embedding_dim = masking, backbone.dim
        self.tokens, self.stride = reads.tokens, reads.stride

    def hide(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Hide some tokens `(batch, frames)`, at least one of every clip.

        Returns:
            What is seen, int64 `(batch, frames)`, and where something is hidden, bool.
        """
        place, fate, other = self._draws(tokens)
        inside = mask_from_lengths(lengths.clamp(min=1), tokens.shape[1])
        hidden = self.masking.places(place) & inside
        hidden[:, 0] |= ~hidden.any(1)
        mask_id = self.backbone.reads.mask_id
        stranger = (other * self.tokens).long()
        changed = torch.where(fate < SHARE_OF_MASKS, mask_id, stranger)
        changed = torch.where(fate < SHARE_OF_MASKS + SHARE_OF_OTHERS, changed, tokens)
        return torch.where(hidden, changed, tokens), hidden

    def _draws(self, tokens: Tensor) -> Tensor:
        """Return uniform draws, `(3, batch, frames)`; in evaluation `(3, 1, frames)`."""
        if self.training:
            return torch.rand((3, *tokens.shape), device=tokens.device)
        # The draws of a longer batch begin with those of a shorter one.
        lines = [generator(0, "hide", n).random(tokens.shape[1]) for n in range(3)]
        return torch.from_numpy(np.stack(lines)[:, None]).float().to(tokens.device)

    def classify(
        self,
        features: Tensor,
        lengths: Tensor,
        covariates: Tensor | None = None,
        stage: Stage = "features",
    ) -> Output:
        """Hide tokens and tell them.

        Args:
            features: Tokens int64 `(batch, frames)`.
            lengths: int64 `(batch,)` in frames.
            covariates: Not read.
            stage: `features`.

        Returns:
            For each clip its mean surprise in nats, its share of right answers and the number of
            its hidden tokens; the last one is the embedding, too.
        """
        del covariates, stage
        seen, hidden = self.hide(features, lengths)
        states = self.backbone(seen, lengths).states
        clip, frame = hidden.nonzero(as_tuple=True)
        answers = self.tells(states[clip, frame // self.stride]).view(len(clip), self.stride, -1)
        answers = answers[torch.arange(len(clip), device=clip.device), frame % self.stride].float()
        truth = features[clip, frame]
        surprise = F.cross_entropy(answers, truth, reduction="none")
        right = (answers.argmax(1) == truth).float()
        count = hidden.sum(1).float()
        sums = torch.zeros(2, len(features), device=count.device)
        sums = sums.index_add(1, clip, torch.stack((surprise, right)))
        table = torch.cat((sums / count, count[None])).T
        return Output(table, count[:, None])


class Surprise(LossModule):
    """The mean surprise of a clip at its hidden tokens; counts the right answers of an epoch."""

    told: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("told", torch.zeros(2, dtype=torch.float64))

    def forward(self, output: Output, batch: Batch) -> Tensor:
        """Return float32 `(batch,)`, in nats."""
        return output.logits[:, 0]

    def observe(self, output: Output, batch: Batch) -> None:
        """Count the batch's right answers and its hidden tokens."""
        _, right, count = output.logits.detach().double().unbind(1)
        self.told += torch.stack(((right * count).sum(), count.sum()))

    def end_epoch(self) -> dict[str, float]:
        """Return the share of right answers in the epoch."""
        right, count = self.told.tolist()
        self.told.zero_()
        return {"train_accuracy": right / max(count, 1)}


class Pretrainer(Trainer):
    """The trainer, told that there are no labels to measure by."""

    def _measure(self, loader: Loader) -> dict[str, float | None]:
        assert isinstance(self.model, MaskedTokens)
        table, _ = infer(self.model, loader.epoch(), self.device, None, self.valid_memory, self.ids)
        found = overall(table)
        return {"valid_loss": found["surprise"], "valid_accuracy": found["accuracy"]}


def overall(table: Floats) -> dict[str, float]:
    """Return surprise and accuracy over all hidden tokens of clips `(clips, 3)`."""
    surprise, right, count = table.astype(np.float64).T
    total = float(count.sum())
    return {
        "surprise": float((surprise * count).sum() / total),
        "accuracy": float((right * count).sum() / total),
        "num_hidden": total,
    }


def unigram(
    model: MaskedTokens, train: Iterable[Tokens], valid: Iterable[Tokens]
) -> dict[str, float]:
    """Return what is reached at hidden tokens by how frequent each one is in training.

    Args:
        model: Says what is hidden, in its evaluation mode.
        train: Tokens and lengths of training clips, batch by batch.
        valid: Those of the clips that are measured.
    """
    counts = torch.ones(model.tokens, dtype=torch.float64)
    for tokens, lengths in train:
        inside = mask_from_lengths(lengths, tokens.shape[1])
        counts += torch.bincount(tokens[inside].cpu(), minlength=model.tokens)
    chance = counts / counts.sum()
    truth = torch.cat([t[model.hide(t, n)[1]].cpu() for t, n in valid])
    return {
        "surprise": float(-chance[truth].log().mean()),
        "accuracy": float((truth == chance.argmax()).double().mean()),
    }
