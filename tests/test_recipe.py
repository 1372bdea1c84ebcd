from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from harken.errors import ConfigError
from harken.recipe import (
    SLOTS,
    Recipe,
    dump_recipe,
    import_plugin,
    merge,
    parse_word,
    read_recipe,
    recipe_schema,
    validate,
)

DATA = {"data": {"source": {"kind": "folder", "path": "clips"}}}


def write(path: Path, tree: object) -> Path:
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    return path


def test_changing_a_kind_drops_the_slot_s_other_keys() -> None:
    tree = merge(DATA, {"backbone": {"kind": "timm", "name": "resnet18"}})
    assert merge(tree, parse_word("backbone.kind=cnn"))["backbone"] == {"kind": "cnn"}
    assert merge(tree, {"backbone": "mlp"})["backbone"] == "mlp"
    same = merge(tree, parse_word("backbone.name=resnet50"))["backbone"]
    assert same == {"kind": "timm", "name": "resnet50"}


def test_a_word_enlarges_a_bare_kind() -> None:
    tree = merge({"pooling": "mean"}, parse_word("pooling.x=1"))
    assert tree == {"pooling": {"kind": "mean", "x": 1}}


def test_words_reach_into_lists() -> None:
    tree = {"augment": [{"kind": "gain", "p": 1.0}, {"kind": "noise"}]}
    assert merge(tree, parse_word("augment.0.p=0.5"))["augment"][0] == {"kind": "gain", "p": 0.5}
    with pytest.raises(ConfigError, match="no item 7"):
        merge(tree, parse_word("augment.7.p=0.5"))


def test_files_merge_left_to_right_and_words_come_last(tmp_path: Path) -> None:
    one = write(tmp_path / "one.yaml", DATA | {"seed": 1, "train": {"epochs": 3, "batch_size": 4}})
    two = write(tmp_path / "two.yaml", {"train": {"epochs": 5}})
    recipe = read_recipe([one, two], ["seed=9", "--train.batch_size=7"])
    assert (recipe.seed, recipe.train.epochs, recipe.train.batch_size) == (9, 5, 7)


@pytest.mark.parametrize("word", ["train.epochs", "=3", "--x"])
def test_a_word_without_a_value_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="cannot read the override"):
        parse_word(word)


def test_an_option_that_there_is_not_is_told_before_its_value_is_taken_for_a_file(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=r"'--epochs'.*key\.path=value"):
        read_recipe([write(tmp_path / "r.yaml", DATA), "5"], ["--epochs"])


def test_words_reach_into_bare_columns() -> None:
    for bare in ("label", ["label"], {"columns": ["label"]}):
        tree = {"data": {**DATA["data"], "target": bare}}
        for word in ("data.target.positive=x", "data.target={positive: x}"):
            recipe = validate(merge(tree, parse_word(word)))
            assert recipe.data.target is not None
            assert (recipe.data.target.columns, recipe.data.target.positive) == (["label"], "x")
    other = validate(
        merge(
            {"data": {**DATA["data"], "target": "label"}},
            parse_word("data.target={columns: tags, separator: ;}"),
        )
    )
    assert other.data.target is not None
    assert other.data.target.columns == ["tags"]


def test_a_value_may_hold_an_equals_sign() -> None:
    assert parse_word("data.source.path=a=b") == {"data": {"source": {"path": "a=b"}}}


def test_three_mistakes_are_all_reported(tmp_path: Path) -> None:
    tree = DATA | {
        "frontend": {"kind": "log_mel", "n_mel": 3},
        "backbone": "cnnn",
        "train": {"epochs": 0},
    }
    with pytest.raises(ConfigError) as caught:
        read_recipe([write(tmp_path / "bad.yaml", tree)])
    text = str(caught.value)
    assert "3 mistakes" in text
    assert "frontend.n_mel: unknown key, did you mean 'n_mels'?" in text
    assert "backbone: unknown kind 'cnnn'" in text
    assert "did you mean 'cnn'" in text
    assert "train.epochs" in text


def test_a_mapping_must_say_its_kind() -> None:
    with pytest.raises(ConfigError, match="optimizer: must say its kind"):
        validate(DATA | {"optimizer": {"lr": 0.1}})


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "twice.yaml", "seed: 1\nseed: 2\n")
    with pytest.raises(ConfigError, match=r"twice.yaml:2: .*'seed' is there twice"):
        read_recipe([path])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("- 1", "is a mapping"),
        (b"\xff\xfe\x00", "cannot read|not YAML"),
        ("seed: 1\a", "not YAML: unacceptable character"),
        ("seed: 2024-13-45", "not YAML: month must be"),
        ("? [a, b]\n: 1", r"bad.yaml:1: not YAML: a key must be a word"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_error(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message):
        read_recipe([path])


def test_a_missing_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such recipe"):
        read_recipe([tmp_path / "none.yaml"])


def test_the_dumped_recipe_reads_back_equal(tmp_path: Path) -> None:
    recipe = validate(DATA | {"augment": ["roll"], "mix": "mixup", "loss": "cross_entropy"})
    path = write(tmp_path / "recipe.yaml", dump_recipe(recipe))
    assert read_recipe([path]) == recipe
    assert dump_recipe(read_recipe([path])) == dump_recipe(recipe)


@pytest.mark.parametrize("slot", SLOTS.values(), ids=SLOTS)
def test_every_kind_has_a_text_and_documented_fields(slot: type) -> None:
    for kind, member in slot.kinds().items():  # type: ignore[attr-defined]
        if not member.__module__.startswith("harken."):
            continue  # another test's own
        assert member.__doc__, kind
        bare = [n for n, f in member.model_fields.items() if n != "kind" and not f.description]
        assert not bare, f"{kind}: {bare}"


def test_every_key_of_the_recipe_is_documented() -> None:
    for name, field in Recipe.model_fields.items():
        assert field.description, name


def test_the_schema_is_self_contained() -> None:
    text = json.dumps(recipe_schema())
    schema = json.loads(text)
    wanted = {part.split('"')[0] for part in text.split('"#/$defs/')[1:]}
    assert wanted <= set(schema["$defs"])
    assert "data" in schema["properties"]


def test_a_plugin_file_adds_a_kind(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from typing import Literal\n"
        "from harken.pooling import Pooling\n"
        "class Mine(Pooling):\n"
        "    '''A pooling of my own.'''\n"
        "    kind: Literal['test_recipe_mine'] = 'test_recipe_mine'\n"
        "    width: int = 3\n    '''Its width.'''\n"
    )
    tree = DATA | {"plugins": [str(plugin)], "pooling": {"kind": "test_recipe_mine", "width": 5}}
    recipe = validate(tree)
    assert recipe.pooling.model_dump() == {"kind": "test_recipe_mine", "width": 5}
    assert validate(yaml.safe_load(dump_recipe(recipe))) == recipe
    del SLOTS["poolings"]._kinds["test_recipe_mine"]


def test_a_plugin_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot import the plug-in"):
        import_plugin("no.such.module")
    with pytest.raises(ConfigError, match="cannot import the plug-in"):
        import_plugin(str(tmp_path / "none.py"))
