"""Cross-entropy with contrast: the formula as a loop, both kinds of partners, what is counted."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from harken.batch import Batch
from harken.errors import ConfigError
from harken.losses import Balancing, CrossEntropy, Focal, Hybrid, Loss, LossModule
from harken.losses.hybrid import CentroidHybrid, RandomHybrid, distances
from loss_values import (
    CHILDREN,
    MULTI,
    THREE,
    batch_of,
    normal,
    one_hot,
    output_of,
    table_of,
    value,
)

CLASSES = [0, 1, 1, 0, 1, 0, 1, 0]
WORDS = ["a", "a", "a", "a", "b", "b", "b", "c"]
TARGET = one_hot(CLASSES, 2)
LOGITS, SEEN, NOW = normal(8, 2, seed=1), normal(8, 5, seed=2), normal(8, 5, seed=3)
PLAIN = value(CrossEntropy(), CHILDREN, LOGITS, TARGET)


def built(loss: Hybrid, target: object = TARGET, **columns: object) -> tuple[LossModule, Batch]:
    table, covariates = table_of(loss, torch.as_tensor(target), **columns)
    module = loss.build(CHILDREN, table)
    module.attach(5)
    return module, batch_of(target, covariates)


def remembering(loss: Hybrid, **columns: object) -> tuple[LossModule, Batch]:
    """Return a module that has seen the embeddings SEEN of all clips."""
    module, batch = built(loss, **columns)
    module.observe(output_of(LOGITS, SEEN), batch)
    module.end_step()
    module.end_epoch()
    return module, batch


def d(kind: str, a: Tensor, b: Tensor) -> float:
    a, b = a / a.norm(), b / b.norm()
    return 1 - float(a @ b) if kind == "cosine" else math.log(1 + float((a - b).norm()))


def cost(kind: str, margin: float, clip: Tensor, like: Tensor, unlike: Tensor) -> float:
    return d(kind, clip, like) ** 2 + max(0.0, margin - d(kind, clip, unlike)) ** 2


def test_distances_of_unit_vectors() -> None:
    one, two = torch.tensor([[3.0, 4.0]]), torch.tensor([[-6.0, -8.0]])
    assert float(distances("ln_euclid", one, one)) == pytest.approx(0, abs=1e-5)
    assert float(distances("ln_euclid", one, two)) == pytest.approx(math.log(3))
    assert float(distances("cosine", one, one)) == pytest.approx(0, abs=1e-6)
    assert float(distances("cosine", one, two)) == pytest.approx(2)
    same = one.clone().requires_grad_()
    distances("ln_euclid", same, one).sum().backward()
    assert torch.isfinite(same.grad).all()


@pytest.mark.parametrize("kind", ["ln_euclid", "cosine"])
@pytest.mark.parametrize("margin", [0.4, 1.0])
def test_random_partners_follow_the_formula(kind: str, margin: float) -> None:
    loss = Hybrid(by="word", distance=kind, margin=margin)
    module, batch = remembering(loss, word=WORDS)
    assert isinstance(module, RandomHybrid)
    for seed in range(5):
        torch.manual_seed(seed)
        ours = module(output_of(LOGITS, NOW), batch)
        for i in range(8):
            mates = [j for j in range(8) if j != i and WORDS[j] == WORDS[i]]
            costs = [
                cost(kind, margin, NOW[i], SEEN[j], SEEN[k])
                for j in mates
                for k in mates
                if CLASSES[j] == CLASSES[i] != CLASSES[k]
            ] or [0.0]
            possible = [0.8 * float(PLAIN[i]) + 0.2 * c for c in costs]
            assert min(abs(p - float(ours[i])) for p in possible) < 1e-5


@pytest.mark.parametrize("kind", ["ln_euclid", "cosine"])
def test_centroids_follow_the_formula(kind: str) -> None:
    loss = Hybrid(by="word", distance=kind, partners="centroids", weight=0.4)
    module, batch = remembering(loss, word=WORDS)
    assert isinstance(module, CentroidHybrid)
    ours = module(output_of(LOGITS, NOW), batch)
    for i in range(8):
        cells = {}
        for label in (0, 1):
            cell = [j for j in range(8) if WORDS[j] == WORDS[i] and CLASSES[j] == label]
            if cell:
                cells[label] = SEEN[cell].mean(0)
        contrast = 0.0
        if len(cells) == 2:
            contrast = cost(kind, 1.0, NOW[i], cells[CLASSES[i]], cells[1 - CLASSES[i]])
        expected = 0.6 * float(PLAIN[i]) + 0.4 * contrast
        assert float(ours[i]) == pytest.approx(expected, rel=1e-4)


def test_several_other_labels_count_by_their_mean() -> None:
    target, logits, seen, now = (
        one_hot([0, 1, 2], 3),
        normal(3, 3),
        normal(3, 4),
        normal(3, 4, seed=9),
    )
    loss = Hybrid(partners="centroids", weight=1, distance="cosine", margin=2)
    module = loss.build(THREE, table_of(loss, target)[0])
    module.attach(4)
    module.observe(output_of(logits, seen), batch_of(target))
    module.end_epoch()
    ours = module(output_of(logits, now), batch_of(target))
    for i in range(3):
        pushes = [(2 - d("cosine", now[i], seen[j])) ** 2 for j in range(3) if j != i]
        expected = d("cosine", now[i], seen[i]) ** 2 + sum(pushes) / 2
        assert float(ours[i]) == pytest.approx(expected, rel=1e-4)


def test_centroids_are_of_the_last_epoch_and_stay_where_it_saw_nothing() -> None:
    module, batch = remembering(Hybrid(by="word", partners="centroids"), word=WORDS)
    first = module.centroids.clone()
    half = Batch(*(getattr(batch, f)[:4] for f in vars(batch)))
    module.observe(output_of(LOGITS[:4], NOW[:4]), half)
    torch.testing.assert_close(module.centroids, first)
    module.end_epoch()
    torch.testing.assert_close(module.centroids[0, 1], NOW[[1, 2]].mean(0))
    torch.testing.assert_close(module.centroids[1:], first[1:])


@pytest.mark.parametrize("partners", ["random", "centroids"])
def test_clips_without_partners_add_nothing_and_are_counted(partners: str) -> None:
    loss = Hybrid(by="word", partners=partners)
    module, batch = built(loss, word=WORDS)
    ours = module(output_of(LOGITS, NOW), batch)
    torch.testing.assert_close(ours, 0.8 * PLAIN)
    module.observe(output_of(LOGITS, NOW), batch)
    module.end_step()
    assert module.end_epoch() == {"without_partner": 8}
    ours = module(output_of(LOGITS, NOW), batch)
    module.observe(output_of(LOGITS, NOW), batch)
    # A lone "c" has no mate at all, and the lone td of "b" has none of its label but itself.
    lonely = {7, 5} if partners == "random" else {7}
    torch.testing.assert_close(ours[[*lonely]], 0.8 * PLAIN[[*lonely]])
    assert module.end_epoch() == {"without_partner": len(lonely)}
    assert module.end_epoch() == {"without_partner": 0}


def test_a_step_s_own_clips_are_taken_up_at_its_end() -> None:
    """So that an optimiser's second pass over a step sees what its first saw."""
    module, batch = remembering(Hybrid(by="word"), word=WORDS)
    before = module.bank.clone()
    module.observe(output_of(LOGITS, NOW), batch)
    torch.testing.assert_close(module.bank, before)
    module.end_step()
    slots = module.partners.slot_of(batch.rows)
    torch.testing.assert_close(module.bank[slots], NOW)


@pytest.mark.parametrize("partners", ["random", "centroids"])
def test_evaluation_is_the_loss_inside_and_needs_no_memory(partners: str) -> None:
    loss = Hybrid(by="word", partners=partners)
    table, covariates = table_of(loss, TARGET, word=WORDS)
    module = loss.build(CHILDREN, table).eval()
    torch.testing.assert_close(module(output_of(LOGITS, NOW), batch_of(TARGET, covariates)), PLAIN)


@pytest.mark.parametrize("partners", ["random", "centroids"])
def test_soft_missing_and_unknown_clips_have_no_partners(partners: str) -> None:
    target = torch.tensor(TARGET)
    target[0], target[1] = torch.tensor([0.5, 0.5]), torch.nan
    module, batch = built(Hybrid(by="word", partners=partners, weight=1), target, word=WORDS)
    module.observe(output_of(LOGITS, SEEN), batch)
    module.end_step()
    module.end_epoch()
    batch.covariates[2] = -1
    embedding = NOW.clone().requires_grad_()
    ours = module(output_of(LOGITS, embedding), batch)
    assert ours[:3].tolist() == [0, 0, 0]
    ours.sum().backward()
    assert torch.isfinite(embedding.grad).all()
    assert (embedding.grad[:3] == 0).all()


def test_memory_is_saved_and_counted_tables_are_not() -> None:
    module, batch = remembering(Hybrid(by="word"), word=WORDS)
    assert set(module.state_dict()) == {"lonely", "bank", "seen"}
    other, _ = built(Hybrid(by="word"), word=WORDS)
    other.load_state_dict(module.state_dict())
    values = []
    for each in (module, other):
        torch.manual_seed(3)
        values.append(each(output_of(LOGITS, NOW), batch))
    assert torch.equal(*values)


def test_every_option_changes_the_loss() -> None:
    def trained(**options: object) -> Tensor:
        module, batch = remembering(Hybrid(**{"by": "word", **options}), word=WORDS)
        torch.manual_seed(0)
        return module(output_of(LOGITS, NOW), batch)

    base = trained()
    for option in (
        {"by": None},
        {"weight": 0.5},
        {"margin": 0.3},
        {"distance": "cosine"},
        {"partners": "centroids"},
        {"of": Focal()},
    ):
        assert not torch.allclose(base, trained(**option)), option
    torch.testing.assert_close(trained(weight=0), PLAIN)


def test_it_goes_around_other_losses_and_inside_them() -> None:
    inside: Loss = Balancing(by="word", on_rare="plain")
    table, covariates = table_of(inside, TARGET, word=WORDS)
    weighted = inside.build(CHILDREN, table)(output_of(LOGITS), batch_of(TARGET, covariates))
    module, batch = built(Hybrid(by="word", of=inside), word=WORDS)
    torch.testing.assert_close(module(output_of(LOGITS, NOW), batch), 0.8 * weighted)


def test_bad_input_is_one_line() -> None:
    with pytest.raises(ValidationError, match=r"a margin of 4 can never be met.*1\.099"):
        Hybrid(margin=4)
    with pytest.raises(ValidationError, match="can never be met: cosine distances end at 2"):
        Hybrid(distance="cosine", margin=2.1)
    with pytest.raises(ConfigError, match="hybrid is a loss of single tasks"):
        Hybrid().build(MULTI, table_of(Hybrid(), one_hot([0, 1], 3))[0])
