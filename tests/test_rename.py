"""Records and pages get the names that the scales have today, and nothing else about them changes."""

import json

from nbformat.v4 import new_output

from course_tools.__main__ import main
from course_tools.chapters import read_notebook, write_notebook
from course_utils.settings import OLD_NAMES


def test_old_names_move_by_a_command_figures_untouched(published, capsys):
    path = published / "notebooks/part/01_first.ipynb"
    notebook, folder = read_notebook(path), published / "results/part/01_first"
    before = json.loads((folder / "page-plain-seed0.json").read_text())
    old = {new: name for name, new in OLD_NAMES.items()}
    (folder / "page-plain-seed0.json").unlink()
    (folder / "cpu-plain-seed0.json").write_text(json.dumps(before | {"scale": old["page"]}))
    notebook.metadata["course"] |= {"scale": "cpu", "records": ["cpu-plain-seed0"]}
    cell = notebook.cells[3]
    cell.source += "\nsettings.table"
    text = "          gpu cpu (this run) smoke\nrate 1"
    table = {"text/html": "<th>gpu</th><th>cpu (this run)</th>", "text/plain": text}
    cell.outputs = [new_output("display_data", data=table), new_output("stream", text="a gpu and a cpu")]
    write_notebook(notebook, path)

    assert main(["rename"]) == 0
    told = capsys.readouterr().out
    assert "results/part/01_first/cpu-plain-seed0.json: page" in told and "notebooks/part/01_first.ipynb" in told
    assert json.loads((folder / "page-plain-seed0.json").read_text()) == before
    assert not list(folder.glob("cpu-*"))
    notebook = read_notebook(path)
    assert notebook.metadata["course"]["records"] == ["page-plain-seed0"]
    assert notebook.cells[3].outputs[0]["data"] == {
        "text/html": "<th>source</th><th>page (this run)</th>",
        "text/plain": "       source page (this run) smoke\nrate 1",
    }
    assert notebook.cells[3].outputs[1].text == "a gpu and a cpu"
    assert main(["rename"]) == 0 and "has its name of today" in capsys.readouterr().out
