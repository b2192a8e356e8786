"""Tasks of the smallest size, each built once."""

import functools

from interp_plugins.benchmark import Problem, task_info


@functools.cache
def tiny(name: str) -> Problem:
    return task_info(name).build(0, "tiny")
