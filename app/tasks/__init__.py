"""The tasks of the service. A new task is one module with a `TASK`, and one line in `TASKS`."""

from typing import Any

from app.tasks import denoise, superres
from app.tasks.base import Task
from app.tasks.inpaint import task as inpaint
from app.tasks.segment import task as segment
from app.tasks.stylize import task as stylize

TASKS: tuple[Task[Any], ...] = (
    denoise.TASK,
    superres.TASK,
    segment.TASK,
    inpaint.TASK,
    stylize.TASK,
)
