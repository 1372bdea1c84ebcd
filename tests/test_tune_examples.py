"""The example of a search, on a UID tree with two classifiers and a tiny wav2vec 2.0."""

from __future__ import annotations

from pathlib import Path

from harken.recipe import read_recipe
from harken.verbs.tune import tune
from tiny_checkpoints import tiny_checkpoint
from uid_trees import write_uid_tree

EXAMPLE = Path(__file__).parents[1] / "examples" / "uid_wav2vec2_search.yaml"


def test_combinations_of_the_clinical_example(tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path / "tree", takes=1)
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", "wav2vec2")
    words = [
        *(f"data.source.path={tree.audio}", f"data.source.table={tree.splits}"),
        *(f"data.target.label_file={tree.label_file}", f"backbone.checkpoint={checkpoint}"),
        *("train.epochs=1", "evaluate.num_resamples=0", "audio.clip_seconds=0.5"),
        *("search.parameters.heads.shared.choices=[8, 16]", "search.sampler=random"),
        *("search.parameters.heads.bottleneck.choices=[8, 16]",),
        *("search.parameters.backbone.layer.high=2", "search.parameters.backbone.layer.step=1"),
    ]
    recipe = read_recipe([EXAMPLE], words)
    tuned = tune(recipe, tmp_path / "s", trials=4)
    assert tuned.metric == "roc_auc"
    assert [trial.state for trial in tuned.trials] == ["complete"] * 4
    values = [trial.values for trial in tuned.trials]
    assert {v["backbone.weighted"] for v in values} == {"none", "softmax"}
    assert all(("backbone.layer" in v) == (v["backbone.weighted"] == "none") for v in values)
    assert all(v["heads.bottleneck"] <= v["heads.shared"] for v in values)
