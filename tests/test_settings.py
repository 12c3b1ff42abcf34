"""The three scales."""

import pytest

from course_utils import choose_scale

TABLE = {"epochs": (5, 3, 1), "image_size": (128, 96, 32), "data": ("imagenette", "imagenette", "shapes")}


@pytest.mark.parametrize(
    ("scale", "numbers"),
    [
        ("source", {"epochs": 5, "image_size": 128, "data": "imagenette"}),
        ("page", {"epochs": 3, "image_size": 96, "data": "imagenette"}),
        ("smoke", {"epochs": 1, "image_size": 32, "data": "shapes"}),
    ],
)
def test_each_scale_takes_its_own_column(scale, numbers):
    settings = choose_scale(scale, TABLE)
    assert settings.scale == scale
    assert settings.as_dict() == numbers
    assert {name: getattr(settings, name) for name in TABLE} == numbers


@pytest.mark.parametrize("gpu_is_there", [True, False])
def test_auto_is_what_the_page_shows_on_every_device(monkeypatch, gpu_is_there):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu_is_there)
    assert choose_scale("auto", TABLE).scale == "page"


@pytest.mark.parametrize(("old", "new"), [("cpu", "page"), ("gpu", "source")])
def test_old_names_are_understood_with_a_hint(capsys, old, new):
    settings = choose_scale(old, TABLE)
    assert settings.scale == new and f"{new} (this run)" in settings.table.columns
    assert capsys.readouterr().out == f"The scale '{old}' is called '{new}' now.\n"


def test_table_shows_three_columns_and_marks_the_chosen_one():
    table = choose_scale("page", TABLE).table
    assert list(table.columns) == ["source", "page (this run)", "smoke"]
    assert list(table.index) == ["epochs", "image_size", "data"]
    assert list(table.loc["image_size"]) == ["128", "96", "32"]


def test_table_cannot_change_the_settings():
    settings = choose_scale("smoke", TABLE)
    settings.as_dict()["epochs"] = 7
    assert settings.epochs == 1


def test_unknown_scale_names_it_and_the_choices():
    with pytest.raises(ValueError, match="unknown scale 'tpu': choose auto, source, page, smoke"):
        choose_scale("tpu", TABLE)


@pytest.mark.parametrize("row", [(1, 2), (1, 2, 3, 4), (), 7, "abc"])
def test_row_of_another_length_is_named(row):
    with pytest.raises(ValueError, match="setting 'batch_size' needs three values, for source, page, smoke"):
        choose_scale("page", TABLE | {"batch_size": row})


def test_unknown_setting_names_those_that_there_are():
    settings = choose_scale("smoke", TABLE)
    with pytest.raises(AttributeError, match="no setting 'epoch'; there are epochs, image_size, data"):
        _ = settings.epoch
