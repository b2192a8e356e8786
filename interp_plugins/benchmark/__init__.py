"""Which method is right? Tasks with known truth, methods and controls on them, and what the difference is worth.

`list_tasks()` names the tasks; docs/benchmark.md says what each is made of and how its truth is checked.
"""

from interp_plugins.benchmark import tasks as tasks  # registers them
from interp_plugins.benchmark.compare import Changed, compare
from interp_plugins.benchmark.entrants import Entrant, entrant, entrants
from interp_plugins.benchmark.leaderboard import leaderboard
from interp_plugins.benchmark.problem import Problem, TaskError
from interp_plugins.benchmark.registry import TaskInfo, list_tasks, register_task, task_info
from interp_plugins.benchmark.runs import Run, read, run
from interp_plugins.benchmark.units import Benchmark, UnitSpec, run_unit

__all__ = [
    "Changed",
    "Entrant",
    "Benchmark",
    "Problem",
    "Run",
    "TaskError",
    "TaskInfo",
    "UnitSpec",
    "compare",
    "entrant",
    "entrants",
    "leaderboard",
    "list_tasks",
    "read",
    "register_task",
    "run",
    "run_unit",
    "task_info",
]
