from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.backbones import BertBackbone, LstmBackbone
from harken.backbones.sequence import SequenceModule
from harken.batch import Batch
from harken.frontends.frontend import FeatureSpec, FrontendModule
from harken.pretraining import MaskedTokens, Masking, Surprise, overall, unigram

K = 7
SPEC = FeatureSpec("tokens", K, 100.0, None)


def build(masking: Masking | None = None, *, stride: int = 1) -> MaskedTokens:
    torch.manual_seed(0)
    back = LstmBackbone(dim=16, hidden=16, stride=stride).build(SPEC)
    assert isinstance(back, SequenceModule)
    front = FrontendModule()
    front.spec = SPEC
    return MaskedTokens(front, back, masking or Masking(), 8000)


def ids(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips of the pattern 0 1 2 3 4 5 6 0 1 …, each from another start on."""
    tokens = torch.zeros(len(lengths), max(lengths)).long()
    for row, n in enumerate(lengths):
        tokens[row, :n] = (torch.arange(n) + row) % K
    return tokens, torch.tensor(lengths)


@settings(max_examples=20, deadline=None)
@given(rate=st.floats(0.05, 0.6), span=st.integers(1, 12), seed=st.integers(0, 99))
def test_the_asked_share_is_hidden_in_spans(rate: float, span: int, seed: int) -> None:
    draws = torch.rand((4, 30_000), generator=torch.Generator().manual_seed(seed))
    hidden = Masking(rate=rate, span=span).places(draws)
    assert hidden[:, span:].float().mean() == pytest.approx(rate, abs=0.04)
    starts = (hidden[:, 1:] & ~hidden[:, :-1]).sum()
    if span > 1:
        assert hidden.sum() / starts >= span * 0.95


def test_eight_of_ten_hidden_tokens_are_masks_one_another_and_one_stays() -> None:
    model = build(Masking(rate=0.5)).train()
    tokens = torch.zeros(8, 5000).long()
    seen, hidden = model.hide(tokens, torch.full((8,), 4000))
    assert not hidden[:, 4000:].any()
    assert torch.equal(seen[~hidden], tokens[~hidden])
    masks = (seen[hidden] == model.backbone.reads.mask_id).float().mean()
    others = ((seen[hidden] > 0) & (seen[hidden] < K)).float().mean()
    assert masks == pytest.approx(0.8, abs=0.02)
    assert others == pytest.approx(0.1 * (K - 1) / K, abs=0.02)


def test_every_clip_has_a_hidden_token_and_evaluation_hides_the_same_ones() -> None:
    model = build(Masking(rate=0.001)).eval()
    tokens, lengths = ids(3, 40, 1)
    assert model.hide(tokens, lengths)[1].any(1).all()
    model = build(Masking(rate=0.3)).eval()
    first, again = (model.hide(tokens, lengths) for _ in range(2))
    assert torch.equal(first[0], again[0])
    model.train()
    assert not torch.equal(model.hide(tokens, lengths)[1], model.hide(tokens, lengths)[1])


@pytest.mark.parametrize("stride", [1, 3])
def test_a_clips_result_does_not_depend_on_its_batch(stride: int) -> None:
    model = build(Masking(rate=0.3, span=2), stride=stride).eval()
    tokens, lengths = ids(23, 60, 31)
    together = model.classify(tokens, lengths).logits
    for row, n in enumerate(lengths):
        alone = model.classify(tokens[row : row + 1, :n], lengths[row : row + 1]).logits
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)


def test_surprise_and_accuracy_are_those_of_the_hidden_tokens() -> None:
    model = build(Masking(rate=0.3)).eval()
    tokens, lengths = ids(20, 15)
    seen, hidden = model.hide(tokens, lengths)
    states = model.backbone(seen, lengths).states
    for row, (surprise, right, count) in enumerate(model.classify(tokens, lengths).logits):
        answers = model.tells(states[row][hidden[row]]).log_softmax(-1)
        truth = tokens[row][hidden[row]]
        mean = -answers[torch.arange(len(truth)), truth].mean()
        torch.testing.assert_close(surprise, mean)
        torch.testing.assert_close(right, (answers.argmax(-1) == truth).float().mean())
        assert count == hidden[row].sum()


@pytest.mark.parametrize("stride", [1, 2])
def test_it_learns_what_frequency_cannot_tell(stride: int) -> None:
    model = build(Masking(rate=0.2), stride=stride).train()
    loss = Surprise()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    tokens, lengths = ids(*[35] * 16)
    nothing = torch.zeros(16)
    batch = Batch(nothing, nothing, lengths, nothing, nothing, nothing)
    for _ in range(80):
        output = model.classify(tokens, lengths)
        optimizer.zero_grad()
        loss(output, batch).mean().backward()
        optimizer.step()
        loss.observe(output, batch)
    seen = loss.end_epoch()["train_accuracy"]
    assert loss.end_epoch()["train_accuracy"] == 0
    model.eval()
    found = overall(model.classify(tokens, lengths).logits.detach().numpy())
    frequent = unigram(model, [(tokens, lengths)], [(tokens, lengths)])
    assert frequent["accuracy"] < 0.4
    assert frequent["surprise"] == pytest.approx(math.log(K), abs=0.05)
    assert frequent["accuracy"] < seen
    assert found["accuracy"] > 0.9
    assert found["surprise"] < 0.5 * frequent["surprise"]


def test_a_transformer_can_be_pretrained_too() -> None:
    back = BertBackbone(dim=8, depth=1, num_heads=2).build(SPEC)
    assert isinstance(back, SequenceModule)
    front = FrontendModule()
    model = MaskedTokens(front, back, Masking(), 8000).train()
    model.classify(*ids(30, 12)).logits[:, 0].sum().backward()
    used = {name for name, p in model.named_parameters() if p.grad is not None}
    assert used == {name for name, _ in model.named_parameters()}
