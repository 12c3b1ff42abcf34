"""What is stored was made by the code as it is: outputs and records of each chapter."""

from course_tools.chapters import records_of
from course_tools.staleness import check_published

FIELDS = {
    "chapter", "run", "label", "scale", "seed", "data", "settings", "parameters", "macs", "history", "val_accuracy",
    "val_loss", "seconds", "code", "commit", "versions", "processor", "threads", "device", "precision",
    "date",
}  # fmt: skip


def test_published_run_is_current(root, chapter):
    assert check_published(root, chapter) == []


def test_records_are_whole(root, chapter):
    records = records_of(root / "results", chapter)
    assert records
    for name, record in records.items():
        assert FIELDS <= set(record), f"{name} lacks {FIELDS - set(record)}"
        assert name == f"{record['scale']}-{record['run']}-seed{record['seed']}"
        assert record["chapter"] == chapter
        last = record["history"][-1]
        assert (last["val_accuracy"], last["val_loss"]) == (record["val_accuracy"], record["val_loss"])
        assert [row["epoch"] for row in record["history"]] == list(range(1, len(record["history"]) + 1))
