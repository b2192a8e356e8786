"""The planned forward: a model's private, faster, equal view, for the loops that run it many times.

    forward, wrt = planned(forward, inputs, rows=50, chunk=8, wrt=layers, backward=True)

Batch normalisation is folded into the layer before it, image networks run in the channels-last layout, 3 x 3
convolutions with fewer multiplications where that pays, and (for a straight path, `behind_first_layer`) the first
linear layer leaves the loop. A plan is made from one watched forward pass of the first actual sample and compared on it
with the plain model, outputs and, for methods that go backward, gradients. One that does not agree is dropped, part by
part, until the plain model runs; there is nothing to configure, and the meter tells what came of it. `engine.switch`
switches it off. The few rows of the comparison are not counted as passes of the method.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from interp_plugins.core.batching import makes_tokens
from interp_plugins.core.caches import call_cache
from interp_plugins.core.errors import InputError
from interp_plugins.core.forward import Forward
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.core.guard import modules_of
from interp_plugins.core.layers import AtLayer, Layer
from interp_plugins.core.tensors import is_float
from interp_plugins.engine.meter import dropped, ran_out, reason, used
from interp_plugins.engine.plan.agreement import Trial
from interp_plugins.engine.plan.candidates import Loop, Plan, candidates, replaying
from interp_plugins.engine.plan.compiled import NO_LAYERS, compiling, through_compiler
from interp_plugins.engine.plan.first_layer import BehindFirstLayer
from interp_plugins.engine.plan.fold import LINEAR, NORMS
from interp_plugins.engine.plan.lower import NOTHING_FASTER, lower_dtype
from interp_plugins.engine.plan.lowered import Lowered, LowerGradients, in_both, lowered
from interp_plugins.engine.plan.view import AGREE, NoView
from interp_plugins.engine.switch import asked_precision, enabled, kernels_enabled

MIN_ROWS = 12  # from which a plan pays: the comparison runs two rows each way, and a few more where a plan fails
TRIAL_ROWS = 3  # what a plan of a network of tokens has to save, which is its first layer alone
MIN_ROWS_CUDA = 2000  # there a pass is short, and making a plan takes as long as it does on a CPU
MIN_ELEMENTS = 1 << 20  # of all rows: making a plan takes longer than it saves below (resnet18: at 64 x 64, not at 96)
_NAME = "planned"
_NOTHING = "the model has nothing to change for the better"


@dataclass(frozen=True)
class _Outcome:
    """What came of planning: a plan or none, and what was dropped on the way."""

    plan: Plan | None
    dropped: tuple[str, ...] = ()
    last: bool = True  # whether it would be the same another time
    lowered: Lowered | None = None  # passes in lower precision, where it was asked for


def planned(
    forward: Forward,
    inputs: Sequence[Tensor],
    *,
    rows: int,
    chunk: int,
    wrt: Sequence[Layer] | None = None,
    backward: bool = False,
    states: bool = False,
) -> tuple[Forward, Sequence[Layer] | None]:
    """The planned forward (or the given one), and the layers to read in it.

    Args:
        forward: a model call inside `frozen`.
        inputs: the inputs of the batch.
        rows: rows that are going to be sent through; few rows are not worth a plan.
        chunk: rows that go through at a time.
        wrt: layers that the caller reads.
        backward: whether the caller takes gradients, which then have to agree as well.
        states: whether it states what gradients in lower precision cost (`lower_of`); else they are float32.
    """
    if compiling() and wrt is not None:
        raise InputError(NO_LAYERS)
    outcome = _planned(Loop(forward, inputs, rows, chunk, wrt, backward=backward, lower=states or not backward))
    plan = outcome.plan
    if plan is not None:
        used(_NAME, ", ".join(plan.changes))
    if compiling():
        return through_compiler(forward, plan.func if plan is not None else None), None
    if outcome.lowered is not None:
        return in_both(forward, outcome.lowered), wrt
    if plan is None:
        return forward, wrt
    args = (*forward.args, torch.arange(forward.n)) if plan.replaying else forward.args
    func = plan.func if plan.lower is None else LowerGradients(plan.func, plan.lower.begin())
    return replace(forward, func=func, args=args), None if wrt is None else [plan.view.layer(layer) for layer in wrt]


def behind_first_layer(
    forward: Forward, inputs: Sequence[Tensor], *, rows: int, chunk: int
) -> tuple[Forward, BehindFirstLayer] | None:
    """The planned forward as a function of its first linear layer's output, if it has one that reads the one input.

    For methods that go backward; arguments as of `planned`.
    """
    plan = _plan(Loop(forward, inputs, rows, chunk, None, first=True, backward=True))
    if plan is None or plan.behind is None:
        return None
    plan.behind.lower = None if plan.lower is None else plan.lower.begin()
    used(_NAME, ", ".join((*plan.changes, "first layer out of the loop")))
    behind = through_compiler(forward, plan.behind) if compiling() else replace(forward, func=plan.behind)
    return behind, plan.behind


def _plan(loop: Loop) -> Plan | None:
    """The plan for a loop, if there is one."""
    return _planned(loop).plan


def _planned(loop: Loop) -> _Outcome:
    """The plan for a loop, made or remembered, if there is one; the meter is told why there is none."""
    why = _refused_at_once(loop.forward, loop.inputs, loop.rows) or _nothing_to_gain(loop)
    if why is not None:
        dropped(_NAME, why)
    outcome = _Outcome(None) if why is not None else _outcome(loop)
    for text in outcome.dropped:
        dropped(_NAME, text)
    if asked_precision() != "float32" and outcome.lowered is None and (not outcome.plan or not outcome.plan.lower):
        dropped(asked_precision(), _why_not_lower(loop, why))
    return outcome


def _why_not_lower(loop: Loop, why: str | None) -> str:
    """Why a loop runs in float32 though another precision was asked for; `why` no plan was made."""
    x = loop.inputs[0]
    if not loop.lower:
        return "this method's gradients are taken in float32"
    if lower_dtype(x.device) is None:
        return NOTHING_FASTER
    if why is not None:
        return f"no plan is made ({why})"
    if x.dtype != torch.float32:
        return f"inputs are {str(x.dtype).removeprefix('torch.')}"
    if compiling():
        return "compiled code runs in float32"
    return "no layer of the model can run in it, or the model does not agree with a view that does"


def _refused_at_once(forward: Forward, inputs: Sequence[Tensor], rows: int) -> str | None:
    """Why no plan is made, seen without looking at the model."""
    device = inputs[0].device.type
    fewest = MIN_ROWS_CUDA if device == "cuda" else MIN_ROWS
    if not enabled():
        return "switched off"
    if rows < fewest:
        return f"{rows} rows, and {fewest} are the fewest that pay"
    row = sum(x.shape[1:].numel() for x in inputs)
    if rows * row < MIN_ELEMENTS:
        row += sum(a.shape[1:].numel() for a in forward.args if isinstance(a, Tensor) and a.shape[:1] == (forward.n,))
        if rows * row < MIN_ELEMENTS:
            return f"{rows} rows of {row} numbers, too few to pay"
    for x in inputs:
        if not is_float(x) or x.dtype not in AGREE:
            return f"inputs are {str(x.dtype).removeprefix('torch.')}"
    return "autocast" if torch.is_autocast_enabled(device) else forward.rows_apart()


def _nothing_to_gain(loop: Loop) -> str | None:
    """Why a plan of this model could not pay, seen without running it."""
    func = loop.forward.func
    if not isinstance(func, nn.Module) and not inspect.ismethod(func) and not hasattr(func, "wrapped_callables"):
        return _NOTHING
    if isinstance(func, AtLayer):
        return None  # what lies before the layer
    modules = [m for root in modules_of(func) for m in root.modules()]
    lower = lower_dtype(loop.inputs[0].device) is not None
    if not lower and makes_tokens(func, loop.inputs) and not any(isinstance(m, NORMS) for m in modules):
        sizes = [m.weight.numel() for m in modules if isinstance(m, LINEAR)]  # all see each token: their shares of work
        saved = loop.rows * sizes[0] / sum(sizes) if loop.first else 0.0
        return None if saved >= TRIAL_ROWS else f"{loop.rows} rows of a network of tokens, too few to pay"
    if loop.first and len(loop.inputs) == 1 and any(isinstance(m, LINEAR) for m in modules):
        return None  # the first of them
    kinds = LINEAR if lower else (nn.Conv2d,)
    return None if any(isinstance(m, (*NORMS, *kinds)) for m in modules) else _NOTHING


def _outcome(loop: Loop) -> _Outcome:
    """What was remembered of a loop like this while the model is frozen, or comes of it now."""
    forward, memory = loop.forward, call_cache()
    func = forward.func
    weights = tuple((id(p), p._version) for root in modules_of(func) for p in root.parameters() if not p.is_inference())
    layers = tuple((id(layer.module), layer.io, layer.call) for layer in loop.wrt or ())
    shapes = tuple((x.shape[1:], x.dtype, x.device) for x in loop.inputs)
    switches = compiling(), kernels_enabled(), lower_dtype(loop.inputs[0].device) if loop.lower else None
    key = ("plan", id(func), weights, layers, shapes, len(forward.args), tuple(forward.kwargs), switches)
    asked = (loop.first, loop.backward)
    for known in (asked, *(_SERVES[asked] if switches[2] is None else ())):
        if (*key, known) in memory:
            outcome: _Outcome = memory[(*key, known)][1]
            if known == asked or outcome.plan is None or outcome.plan.behind is None:
                return outcome
    outcome = _made(loop)
    if outcome.last:
        memory[(*key, asked)] = (func, outcome)  # with func, so that its identity stays its own
    return outcome


# (first, backward) of a loop, and those of others whose outcome serves it as well, unless the first layer has left.
_SERVES = {
    (True, True): (),
    (True, False): ((True, True),),
    (False, True): ((True, True),),
    (False, False): ((False, True), (True, True)),
}


def _made(loop: Loop) -> _Outcome:
    with preserved_rng():
        try:
            trial = Trial(loop.forward, loop.inputs, loop.wrt, loop.backward)
        except Exception as error:  # the model's own: it is raised where the rows are really run
            why = f"the model, on one row, raised {reason(error, _NAME, (Exception,))}"
            return _Outcome(None, (why,), last=not ran_out(error))
        found = _first_that_agrees(loop, trial)
        return found if loop.backward or compiling() else _with_lower(loop, trial, found)


def _with_lower(loop: Loop, trial: Trial, found: _Outcome) -> _Outcome:
    """What came of planning, with the same passes in lower precision beside it, where that was asked for."""
    if found.plan is not None and found.plan.replaying:
        return found
    try:
        made = lowered(loop, trial, loop.forward.func if found.plan is None else found.plan.func)
        why = None if made is None else trial.far_off(made)
    except NoView as error:
        made, why = None, f"no private view: {error}"
    except Exception as error:
        made, why = None, f"raised {reason(error, _NAME)}"
    if why is not None:
        return replace(found, dropped=(*found.dropped, f"lower precision: {why}"))
    return replace(found, lowered=made)


def _first_that_agrees(loop: Loop, trial: Trial) -> _Outcome:
    refused: list[str] = []
    makers = [lambda: candidates(loop, trial.tracer, trial.x, trial.own_backward)]
    at = loop.forward.func
    if isinstance(at, AtLayer) and not trial.own_backward:
        makers.insert(0, lambda: replaying(loop, trial.tracer, at))
    for maker in makers:
        try:
            for plan in maker():
                for stand_in in plan.packed:
                    stand_in.direction.trust(loop.backward)
                why = _disagreement(trial, plan)
                if why is None:
                    for stand_in in plan.packed:
                        stand_in.enable_small_batches()
                    return _Outcome(plan, tuple(refused))
                refused.append(f"{_listed(plan)}: {why}")
        except NoView as why_not:
            refused.append(f"no private view: {why_not}")
        except Exception as error:
            refused.append(f"no private view: {reason(error, _NAME)}")
            if ran_out(error):
                return _Outcome(None, tuple(refused), last=False)
    return _Outcome(None, tuple(dict.fromkeys(refused)) or (_NOTHING,))


def _disagreement(trial: Trial, plan: Plan) -> str | None:
    try:
        return trial.disagreement(plan)
    except Exception as error:  # a view that the model's code cannot live with
        if ran_out(error):
            raise
        return f"raised {reason(error, _NAME)}"


def _listed(plan: Plan) -> str:
    first = ("first layer out of the loop",) if plan.behind is not None else ()
    return ", ".join((*plan.changes, *first)) or "a view"
