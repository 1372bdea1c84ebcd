from __future__ import annotations

import pytest

from harken.errors import DataError, HarkenError, MissingExtraError, import_extra


def test_the_text_says_where_what_and_how_to_mend() -> None:
    error = DataError("no label", where="clips.csv:7", fix="fill it in")
    assert str(error) == "clips.csv:7: no label → fill it in"
    assert str(HarkenError("only this")) == "only this"


def test_a_missing_extra_is_one_line_that_says_what_to_install() -> None:
    with pytest.raises(MissingExtraError) as caught:
        import_extra("no_such_package_at_all.part", "hf")
    assert "pip install 'harken[hf]'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_package_that_is_there_is_imported() -> None:
    assert import_extra("json", "any").dumps({}) == "{}"


def test_an_import_error_inside_the_package_is_not_hidden(
    tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_pkg.py").write_text("import no_such_dependency_of_it\n")  # type: ignore[operator]
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency_of_it"):
        import_extra("broken_pkg", "any")


def test_errors_cross_processes_whole() -> None:
    """By way of copyreg's protocol, which process pools use."""
    import copy

    error = DataError("no label", where="clips.csv:7", fix="fill it in")
    again = copy.copy(error)
    assert type(again) is DataError
    assert str(again) == str(error)
