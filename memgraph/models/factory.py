"""`package.module:factory`: a user's own model, made by a function of theirs.

The function may take `batch`, `seq` and any setting as parameters, and returns a pair `(model, batch)`, where the batch
is a mapping, a sequence or a tensor that the model is called with; or a callable that does one whole training step.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from memgraph.errors import UsageError, unknown_name
from memgraph.models.job import Batch, Job, OwnStep
from memgraph.models.settings import parse_value

Factory = Callable[..., object]


def run_factory(target: str, settings: Mapping[str, str], batch: int | None, seq: int | None) -> Job | OwnStep:
    """Import `package.module:factory`, call it, and take what it returns. The call may build a model, so it belongs
    inside the device or fake mode that the model is to be built under.

    Raises:
        UsageError: no such module or function, a setting that it does not take, or a result that cannot be run.
    """
    factory = load_factory(target)
    arguments = _arguments(target, factory, settings, {"batch": batch, "seq": seq})
    return _as_job(target, factory(**arguments), {"model": target, **_plain(arguments)})


def load_factory(target: str) -> Factory:
    """The function that `package.module:factory` names; modules are also looked for in the working folder.

    Raises:
        UsageError: it cannot be imported, or is not there.
    """
    module_name, _, path = target.partition(":")
    if not module_name or not path:
        raise UsageError(f"{target!r} names no function: write package.module:factory")
    module = _import(module_name)
    try:
        found = functools.reduce(getattr, path.split("."), module)
    except AttributeError:
        raise unknown_name(f"function of {module_name}", path, _functions(module)) from None
    if not callable(found):
        raise UsageError(f"{target} is a {type(found).__name__}: name a function that returns (model, batch)")
    return found


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:  # a console script's path starts at its own folder, not the user's
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise UsageError(f"no module named {error.name!r}: run where it lies, or install it") from None
        raise UsageError(f"importing {name} failed: it needs {error.name!r}, which is not installed") from error
    except (Exception, SystemExit) as error:  # user code runs here, and anything may come out of it
        reason = " ".join(str(error).split())
        raise UsageError(f"importing {name} failed: {type(error).__name__}: {reason}") from error


def _functions(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]


def _arguments(
    target: str, factory: Factory, settings: Mapping[str, str], sizes: Mapping[str, int | None]
) -> dict[str, object]:
    """What to call the factory with: the sizes that were given, and the settings, in the types it declares."""
    parameters = _parameters(factory)
    known = [name for name in parameters if name not in sizes]
    given = {name: size for name, size in sizes.items() if size is not None}
    for name in settings:
        if name not in known:
            raise unknown_name(f"setting of {target}", name, known or ["none"])
    for name in given:
        if name not in parameters:
            raise UsageError(f"{target} takes no {name}: leave it out, or give the function a parameter named {name}")
    values = {name: parse_value(name, text, _kind(parameters[name])) for name, text in settings.items()}
    _check_complete(target, parameters, values | given)
    return values | given


def _parameters(factory: Factory) -> dict[str, inspect.Parameter]:
    """The parameters that can be passed by name."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    try:
        signature = inspect.signature(factory, eval_str=True)
    except (NameError, TypeError, ValueError):  # annotations that only a type checker can follow, or a builtin
        signature = inspect.signature(factory)
    return {name: parameter for name, parameter in signature.parameters.items() if parameter.kind in by_name}


def _kind(parameter: inspect.Parameter) -> Any:
    """The type of a parameter: as annotated, or else that of its default, or else text."""
    if parameter.annotation is not parameter.empty:
        return parameter.annotation
    return str if parameter.default in (parameter.empty, None) else type(parameter.default)


def _check_complete(target: str, parameters: Mapping[str, inspect.Parameter], given: Mapping[str, object]) -> None:
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in given:
            option = f"--{name} N" if name in ("batch", "seq") else f"--set {name}=…"
            raise UsageError(f"{target} needs {name}: give {option}")


def _as_job(target: str, result: object, settings: Mapping[str, Any]) -> Job | OwnStep:
    match result:
        case (nn.Module() as model, Mapping() | Tensor() | Sequence() as batch):
            return _model_job(target, model, batch, settings)
        case nn.Module():
            raise UsageError(f"{target} returns a model without a batch: return (model, batch)")
        case _ if callable(result):
            return OwnStep(result, settings)
    raise UsageError(f"{target} returns a {type(result).__name__}: return (model, batch), or a step to call")


def _model_job(
    target: str, model: nn.Module, batch: Batch | Tensor | Sequence[Any], settings: Mapping[str, Any]
) -> Job:
    """The model is called with the batch: by name for a mapping, in order for a sequence, alone for a tensor."""
    if isinstance(batch, Mapping):
        return Job(lambda: model, lambda: batch, lambda m, b: split_loss(target, m(**b)), settings)
    values = [batch] if isinstance(batch, Tensor) else batch
    inputs = {str(index): value for index, value in enumerate(values)}
    return Job(lambda: model, lambda: inputs, lambda m, b: split_loss(target, m(*b.values())), settings)


def split_loss(target: str, output: Any) -> tuple[Any, Tensor]:
    """What a model returned, and the loss in it: the output itself, its `loss`, or its only scalar.

    Raises:
        UsageError: there is no loss, or more than one tensor that could be it.
    """
    named = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    parts = [named] if named is not None else output if isinstance(output, Sequence) else [output]
    scalars = [
        part for part in parts if isinstance(part, Tensor) and (part.dim() == 0 or part.numel() == len(parts) == 1)
    ]
    if len(scalars) != 1:
        raise UsageError(f"the model of {target} must return its loss as one scalar: alone, in a tuple, or as .loss")
    return output, scalars[0]


def _plain(arguments: Mapping[str, object]) -> dict[str, object]:
    """The arguments as JSON values."""
    return {name: value if isinstance(value, int | float | None) else str(value) for name, value in arguments.items()}
