from __future__ import annotations

import pytest

from harken.legacy_names import parse_name, recipe_settings

CHECKPOINT = "wav2vec2-base-960h"


def name_of(**given: object) -> str:
    """Write a name as 001 wrote it: the form of section 2.6 of the inventory, piece by piece."""
    s = {
        "dataset": "amr", "n": 5, "optim": "adamw", "wd": 0.0001, "epochs": 10, "ckpt": CHECKPOINT,
        "heads": 1, "lr": 0.001, "bs": 8, "layer": 6, "sd": None, "ws": False, "sched": None,
        "maxlr": 0.01, "norm": False, "dropout": 0.3, "bottleneck": 150,
    } | given  # fmt: skip
    name = f"{s['dataset']}_{s['n']}_{s['optim']}{s['wd']}_epoch{s['epochs']}_{s['ckpt']}"
    name += f"_clf{s['heads']}_lr{s['lr']}_bs{s['bs']}_layer{s['layer']}"
    name += f"_sd{s['sd']}" if s["sd"] else ""
    name += "_ws" if s["ws"] else ""
    name += f"_{s['sched']}_maxlr{s['maxlr']}" if s["sched"] else ""
    name += "_layernorm" if s["norm"] else ""
    return f"{name}_dropout{s['dropout']}_clf{s['bottleneck']}"


def test_a_plain_name() -> None:
    found = parse_name(name_of())
    assert found is not None
    assert found.unread == ()
    assert found.settings == {
        "dataset": "amr",
        "num_labels": 5,
        "optim": "adamw",
        "weight_decay": 0.0001,
        "epochs": 10,
        "checkpoint": CHECKPOINT,
        "num_heads": 1,
        "learning_rate": 0.001,
        "batch_size": 8,
        "layer": 6,
        "shared_dense": False,
        "weighted": False,
        "layernorm": False,
        "final_dropout": 0.3,
        "clf_bottleneck": 150,
    }


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ({"dataset": "amr_only_v2"}, "dataset", "amr_only_v2"),
        ({"dataset": "epoch3_set_1"}, "dataset", "epoch3_set_1"),
        ({"dataset": "adam_epoch2_x"}, "epochs", 10),
        ({"ckpt": "wav2vec2_large_xlsr_53"}, "checkpoint", "wav2vec2_large_xlsr_53"),
        ({"wd": 1e-05}, "weight_decay", 1e-05),
        ({"lr": 1e-05}, "learning_rate", 1e-05),
        ({"lr": 3e-06, "wd": 1e-06}, "learning_rate", 3e-06),
        ({"sched": "onecycle", "maxlr": 1e-05}, "max_lr", 1e-05),
        ({"sched": "onecycle"}, "scheduler", "onecycle"),
        ({"sd": 300}, "sd_bottleneck", 300),
        ({"sd": 300}, "shared_dense", True),
        ({"ws": True}, "weighted", True),
        ({"norm": True}, "layernorm", True),
        ({"norm": True, "sched": "onecycle", "ws": True, "sd": 700}, "final_dropout", 0.3),
        ({"norm": True, "sched": "onecycle", "ws": True, "sd": 700}, "clf_bottleneck", 150),
        ({"heads": 5, "bottleneck": 768}, "num_heads", 5),
        ({"heads": 5, "bottleneck": 768}, "clf_bottleneck", 768),
        ({"layer": -1}, "layer", -1),
        ({"layer": "Final"}, "layer", -1),
        ({"layer": 0}, "layer", 0),
        ({"optim": "adam"}, "optim", "adam"),
    ],
)
def test_words_are_found_wherever_they_stand(
    given: dict[str, object], key: str, value: object
) -> None:
    found = parse_name(name_of(**given))
    assert found is not None
    assert found.settings[key] == value
    assert found.unread == ()


def test_words_in_another_order_and_missing_ones() -> None:
    found = parse_name(f"x_3_adam_epoch1_{CHECKPOINT}_clf1_dropout0.2_clf300_bs4_lr0.1")
    assert found is not None
    assert found.settings["batch_size"] == 4
    assert found.settings["clf_bottleneck"] == 300
    assert "weight_decay" not in found.settings
    assert "layer" not in found.settings


@pytest.mark.parametrize(
    ("end", "layer", "weighted", "shared"),
    [
        ("clf1_Final", -1, False, False),
        ("clf5_6", 6, False, False),
        ("clf1_sd_12", 12, False, True),
        ("clf1weighted", None, True, False),
        ("clf1_sdweighted", None, True, True),
    ],
)
def test_names_of_final_models(end: str, layer: int | None, weighted: bool, shared: bool) -> None:
    found = parse_name(f"amr_5_adamw_epoch10_{CHECKPOINT}_{end}")
    assert found is not None
    assert found.unread == ()
    assert found.settings.get("layer") == layer
    assert found.settings["weighted"] is weighted
    assert found.settings["shared_dense"] is shared


def test_what_is_not_understood_is_kept() -> None:
    found = parse_name(name_of() + "_again_7")
    assert found is not None
    assert found.unread == ("again", "7")
    assert found.settings["layer"] == 6


@pytest.mark.parametrize("name", ["trial-0007", "", "runs", "epoch10", "clf1_lr0.1", "a_b_c_clf2"])
def test_other_names_are_none(name: str) -> None:
    assert parse_name(name) is None


def test_settings_come_under_the_paths_of_a_recipe() -> None:
    found = parse_name(name_of(sd=300, norm=True, lr=0.0001))
    assert found is not None
    assert recipe_settings(found.settings) == {
        "optimizer.kind": "adamw",
        "optimizer.lr": 0.0001,
        "optimizer.weight_decay": 0.0001,
        "schedule.kind": "none",
        "train.epochs": 10,
        "train.batch_size": 8,
        "backbone.kind": "speech",
        "backbone.checkpoint": CHECKPOINT,
        "backbone.layer": 6,
        "backbone.weighted": "none",
        "heads.shared": 300,
        "heads.bottleneck": 150,
        "heads.layer_norm": True,
        "heads.dropout": 0.3,
        "legacy.dataset": "amr",
        "legacy.num_labels": 5,
        "legacy.num_heads": 1,
    }


def test_a_cycle_takes_its_peak_as_the_rate_and_a_weighted_sum_has_no_layer() -> None:
    found = parse_name(name_of(sched="onecycle", maxlr=0.1, lr=0.0001, ws=True, layer=6))
    assert found is not None
    settings = recipe_settings(found.settings)
    assert settings["optimizer.lr"] == 0.1
    assert settings["legacy.learning_rate"] == 0.0001
    assert settings["schedule.kind"] == "onecycle"
    assert settings["backbone.weighted"] == "raw"
    assert settings["backbone.layer"] == -1


def test_the_paths_are_those_of_recipes() -> None:
    from harken.recipe import validate

    found = parse_name(name_of(sd=300, norm=True))
    assert found is not None
    tree: dict[str, object] = {"data": {"source": {"kind": "folder", "path": "."}}}
    for path, value in recipe_settings(found.settings).items():
        *parents, last = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})  # type: ignore[assignment]
        node[last] = value
    tree.pop("legacy")
    assert validate(tree).heads.shared == 300
