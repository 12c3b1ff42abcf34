"""The shared code of the course "One Change at a Time". Small enough to read in an hour.

Read it in this order: `data` (images in memory), `pictures` (from files to bytes), `training` (the
loop), `networks` (what the chapters built), `summary` (where parameters and computation are),
`records` (what was measured), `plots` (one style), `settings` (the three scales), `race` (chapter 5's
recipes), `survey` (the survey's networks), `charts` (TensorBoard), `processes` and `train` (several
processes).
"""

from course_utils import networks, plots, processes, records, survey
from course_utils.data import DataError, ImageData, load_data, load_folder, make_shapes
from course_utils.records import load_records, save_record, scoreboard
from course_utils.settings import Settings, choose_scale
from course_utils.summary import count, summarize
from course_utils.training import CheckpointError, evaluate, fit, muon, predict

__all__ = [
    "CheckpointError",
    "DataError",
    "ImageData",
    "Settings",
    "choose_scale",
    "count",
    "evaluate",
    "fit",
    "load_data",
    "load_folder",
    "load_records",
    "make_shapes",
    "muon",
    "networks",
    "plots",
    "predict",
    "processes",
    "records",
    "save_record",
    "scoreboard",
    "summarize",
    "survey",
]
