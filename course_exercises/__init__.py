"""What a student copy needs in order to check itself; nothing here knows an answer.

A check asks the student's code through probes and judges what comes back. Probes run where that code runs: in the
notebook, or, when a copy is graded, in a fenced process of its own, so that a check's own code is never near it.
"""

from course_exercises import probes
from course_exercises.asking import NotAttempted, Wrong, ask_here, need, number_of
from course_exercises.notebook import Checks

__all__ = ["Checks", "NotAttempted", "Wrong", "ask_here", "need", "number_of", "probes"]
