"""State dicts are taken apart by shape and order, whatever their layers are called."""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harken.errors import RunError
from harken.heads import Heads
from harken.legacy_weights import (
    find_prefix,
    fold_shared,
    head_weights,
    read_state,
    split_heads,
    take,
)


def head(dim: int, width: int, size: int, norm: bool = False) -> nn.Sequential:
    middle: list[nn.Module] = [nn.LayerNorm(width)] if norm else []
    return nn.Sequential(nn.Linear(dim, width), *middle, nn.ReLU(), nn.Linear(width, size))


class Model(nn.Module):
    def __init__(self, names: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, module in names.items():
            setattr(self, name, module)


def state(**modules: nn.Module) -> dict[str, Tensor]:
    return dict(Model(modules).state_dict())


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("shared", [None, 8, 6])
def test_heads_give_the_same_logits(norm: bool, shared: int | None) -> None:
    dim, sizes = 8, [2, 1, 8]
    dense = nn.Identity() if shared is None else nn.Sequential(nn.Linear(dim, shared), nn.ReLU())
    heads = nn.ModuleList(head(shared or dim, 8, size, norm) for size in sizes)
    found, parts = split_heads(state(anything=dense, clf=heads), sizes, "x")
    assert (found is None) == (shared is None)
    config = Heads(shared=shared, bottleneck=8, layer_norm=norm, dropout=0.3)
    mine = config.build(dim, [["a"] * size for size in sizes]).eval()
    weights = head_weights(found, parts)
    mine.load_state_dict({k.removeprefix("heads."): v for k, v in weights.items()})
    x = torch.randn(5, dim)
    expected = torch.cat([each(dense(x)) for each in heads], 1)
    torch.testing.assert_close(mine(x), expected)


def test_a_shared_layer_that_comes_last_is_found() -> None:
    parts = {"clf": nn.ModuleList([head(6, 4, 2), head(6, 4, 1)]), "dense": nn.Linear(9, 6)}
    shared, heads = split_heads(state(**parts), [2, 1], "x")
    assert shared is not None
    assert shared.name == "dense"
    assert [h.last.name for h in heads] == ["clf.0.2", "clf.1.2"]


def test_a_linear_shared_layer_is_folded_exactly() -> None:
    dense, clf = nn.Linear(9, 6), head(6, 4, 2, norm=True)
    shared, (parts,) = split_heads(state(dense=dense, clf=clf), [2], "x")
    assert shared is not None
    folded = fold_shared(shared, parts)
    x = torch.randn(3, 9)
    expected = clf[0](dense(x))
    torch.testing.assert_close(x @ folded.first.weight.T + folded.first.bias, expected)
    assert folded.norm is parts.norm


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ({"clf": head(6, 4, 3)}, r"no heads for 2 labels: clf.0 \(4, 6\), clf.2 \(3, 4\)"),
        ({"clf": nn.Linear(6, 2)}, "no heads"),
        ({"a": nn.Linear(6, 4), "b": nn.Linear(5, 2)}, "no heads"),
        ({"clf": head(6, 4, 2), "x": nn.Conv1d(1, 1, 3)}, "no place: x.weight"),
        ({"clf": head(6, 4, 2), "x": nn.Linear(3, 3, bias=False)}, "no place: x.weight"),
        ({"clf": head(6, 4, 2), "x": nn.BatchNorm1d(3)}, "no place: x.weight"),
        ({"x": nn.Identity()}, "none"),
    ],
)
def test_what_is_no_head_is_refused(modules: dict[str, nn.Module], said: str) -> None:
    with pytest.raises(RunError, match=said):
        split_heads(state(**modules), [2], "x")


def test_the_prefix_is_found() -> None:
    known = ["conv.weight", "conv.bias", "bn.weight"]
    weights = {f"model.net.{key}": torch.zeros(1) for key in known}
    weights |= {"other.conv.weight": torch.zeros(1)}
    assert find_prefix(weights, known, "x") == "model.net."
    assert find_prefix({key: torch.zeros(1) for key in known}, known, "x") == ""
    with pytest.raises(RunError, match="of its 3 weights 1 are there"):
        find_prefix({"a.conv.weight": torch.zeros(1)}, known, "x")
    with pytest.raises(RunError, match="of its 3 weights 0 are there"):
        find_prefix({"xconv.weight": torch.zeros(1)}, known, "x")


def test_taking_names_what_is_missing_or_has_another_shape() -> None:
    weights = {"m.a": torch.zeros(2), "m.b": torch.zeros(3), "rest": torch.zeros(1)}
    assert take(dict(weights), "m.", {"a": torch.Size([2])}, "x").keys() == {"a"}
    with pytest.raises(RunError, match=r"m.c is missing; m.b is \(3,\), not \(4,\)"):
        take(weights, "m.", {"a": torch.Size([2]), "b": torch.Size([4]), "c": torch.Size([1])}, "x")


def test_reading(tmp_path: Path) -> None:
    weights: dict[str, Any] = OrderedDict(a=torch.ones(2), pos_weight_g=torch.ones(1))
    weights |= {"conv.weight_g": torch.ones(1), "conv.weight_v": torch.zeros(1)}
    for zipped in (True, False):
        torch.save(weights, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
        found = read_state(tmp_path / "m.pt")
        assert list(found) == [
            "a", "pos_weight_g", "conv.parametrizations.weight.original0",
            "conv.parametrizations.weight.original1",
        ]  # fmt: skip
    for wrong in ([1, 2], {"a": 3}, torch.ones(2), {}):
        torch.save(wrong, tmp_path / "m.pt")
        with pytest.raises(RunError, match="no state dict"):
            read_state(tmp_path / "m.pt")


def test_what_is_no_weights_is_said_without_torch_s_advice(tmp_path: Path) -> None:
    path = tmp_path / "args.pkl"
    cases = {"it asks for argparse.Namespace →": lambda: torch.save({"a": arguments}, path)}
    cases["damaged, or no file of torch.save →"] = lambda: path.write_bytes(
        pickle.dumps(arguments, protocol=4)
    )
    arguments = argparse.Namespace(layer=3)
    for said, write in cases.items():
        write()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(RunError, match=said) as caught:
                read_state(path)
        assert "weights_only" not in str(caught.value)
