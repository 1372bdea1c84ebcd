from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from harken.backbones import LstmBackbone
from harken.backbones.lstm import LstmModule
from harken.frontends.frontend import FeatureSpec

SPEC = FeatureSpec("tokens", 9, 100.0, None)


def build(config: LstmBackbone) -> LstmModule:
    torch.manual_seed(0)
    module = config.build(SPEC)
    assert isinstance(module, LstmModule)
    return module.eval()


def test_the_class_state_is_the_last_of_both_readings() -> None:
    module = build(LstmBackbone(dim=4, hidden=3))
    ids = torch.tensor([[1, 2, 3, 4, 0, 0], [5, 6, 7, 8, 1, 2]])
    hidden = module(ids, torch.tensor([4, 6]))
    assert hidden.cls is not None
    for clip, last in enumerate((3, 5)):
        forward, backward = hidden.states[clip, last, :3], hidden.states[clip, 0, 3:]
        torch.testing.assert_close(hidden.cls[clip], torch.cat((forward, backward)))


def test_it_equals_torchs_packed_network() -> None:
    module = build(LstmBackbone(dim=4, hidden=3, num_layers=2))
    own = nn.LSTM(4, 3, num_layers=2, batch_first=True, bidirectional=True)
    theirs = {}
    for number in range(2):
        for layers, suffix in ((module.ahead, ""), (module.back, "_reverse")):
            for name, value in layers[number].state_dict().items():
                theirs[f"{name.removesuffix('_l0')}_l{number}{suffix}"] = value
    own.load_state_dict(theirs)
    ids, lengths = (
        torch.tensor([[1, 2, 3, 4, 5, 0, 0], [8, 7, 6, 5, 4, 3, 2]]),
        torch.tensor([5, 7]),
    )
    embedded = module.reads.embedding(ids)
    packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
    out, (last, _) = own(packed)
    states, _ = pad_packed_sequence(out, batch_first=True)
    hidden = module(ids, lengths)
    got = hidden.states.masked_fill(~hidden.mask[..., None], 0)
    torch.testing.assert_close(got, states)
    torch.testing.assert_close(hidden.cls, torch.cat((last[-2], last[-1]), dim=1))


def test_every_option_changes_the_states() -> None:
    ids, lengths = torch.tensor([[1, 2, 3, 4, 5, 6]]), torch.tensor([6])
    plain = build(LstmBackbone(dim=4, hidden=3))
    for over in ({"num_layers": 2}, {"bidirectional": False}, {"activation": "relu"}, {"dim": 5}):
        other = build(LstmBackbone(**{"dim": 4, "hidden": 3, **over}))
        one, two = plain(ids, lengths).states, other(ids, lengths).states
        assert one.shape != two.shape or not torch.allclose(one, two), over
    relu = build(LstmBackbone(dim=4, hidden=3, activation="relu"))(ids, lengths)
    assert relu.states.min() >= 0
    assert relu.cls is not None
    assert relu.cls.min() >= 0
    dropping = build(LstmBackbone(dim=4, hidden=3, dropout=0.5)).train()
    assert not torch.equal(dropping(ids, lengths).states, dropping(ids, lengths).states)
    assert build(LstmBackbone(stride=4))(ids, lengths).states.shape[1] == 2
