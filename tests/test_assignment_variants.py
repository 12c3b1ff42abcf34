"""Variants of the exercises: ten of each pass their own solutions and refuse their own wrong answers."""

import contextlib
import io

import pytest
import torch
from helpers import ROOT

from course_exercises.trying import attempt
from course_tools import assignments

pytestmark = [pytest.mark.sensitive, pytest.mark.slow]
NAMES = assignments.assignment_names(ROOT)
SEEDS = [f"the seed number {number}" for number in range(10)]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def quietly(*arguments, **options):
    with contextlib.redirect_stdout(io.StringIO()):
        return attempt(*arguments, **options)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_variants_pass_their_solutions_and_refuse_their_wrong_answers(name, seed):
    assignment = assignments.load(ROOT, name, seed)
    for task in assignment.tasks:
        assert not [part for part in quietly(assignment, task, task.solution) if part.said], task.name
        for called, (code, message) in task.wrong.items():
            said = [part.said for part in quietly(assignment, task, code, to_the_end=False) if part.said]
            assert said and message in said[0], (task.name, called)
