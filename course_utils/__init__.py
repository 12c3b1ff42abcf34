"""The shared code of the course "One Change at a Time".

The core reads in an evening, in this order: `settings` (the three scales), `data` (images in memory),
`evaluation` (what a network says about them), `training` (the loop), `networks` (what the chapters built),
`summary` (where parameters and computation are), `records` (what was measured), `plots` (one style).

The rest are shelves to take from: `pictures` (files to pixels), `checks` (wrong arguments, told in a sentence),
`checkpoints` (runs that go on), `optimizers` (and schedules), `comparison` (which differences are more than luck),
`race` (chapter 5's recipes), `survey` (the survey's networks), `charts` (TensorBoard), `processes` and `train`
(several processes), `versions` (libraries that are too old).
"""

import course_utils.versions  # noqa: F401 - first of all: it says what is too old
from course_utils import networks, plots, processes, records, survey
from course_utils.checkpoints import CheckpointError
from course_utils.data import DataError, ImageData, load_data, load_folder, make_shapes
from course_utils.evaluation import evaluate, predict
from course_utils.optimizers import muon
from course_utils.records import load_records, save_record, scoreboard
from course_utils.settings import Settings, choose_scale
from course_utils.summary import count, summarize
from course_utils.training import fit

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
