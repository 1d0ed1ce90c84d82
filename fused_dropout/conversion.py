"""Conversion of existing models: every dropout module of a known type becomes ours, in place, and back."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from . import modules
from .rng import probability

UPSCALE = {"mode": "upscale_in_train"}


@dataclass(frozen=True)
class Known:
    """A type of another library, and what it is here."""

    theirs: str  # its public name
    paths: tuple[str, ...]  # the modules that its versions define it in
    ours: type[nn.Module]
    attributes: dict[str, str]  # our attribute: theirs, of the same meaning
    fixed: dict[str, Any] = field(default_factory=dict)  # our attribute: what theirs does, which has no word for it
    absent: dict[str, Any] = field(default_factory=dict)  # our attribute: what their versions without theirs do
    unless: dict[str, Any] = field(default_factory=dict)  # their attribute: a value that ours has no counterpart of

    def options(self, module: nn.Module) -> dict[str, Any]:
        """Our attributes of a module of theirs."""
        here = {ours: getattr(module, theirs) for ours, theirs in self.attributes.items() if hasattr(module, theirs)}
        return {**self.absent, **here, **self.fixed}


TORCH, TIMM = ("torch.nn.modules.dropout",), ("timm.layers.drop", "timm.models.layers.drop")
P_INPLACE = {"p": "p", "inplace": "inplace"}
KNOWN = [
    Known("torch.nn.Dropout", TORCH, modules.Dropout, P_INPLACE, {"noise_shape": None, **UPSCALE}),
    Known("torch.nn.Dropout1d", TORCH, modules.Dropout1d, P_INPLACE, UPSCALE),
    Known("torch.nn.Dropout2d", TORCH, modules.Dropout2d, P_INPLACE, UPSCALE),
    Known("torch.nn.Dropout3d", TORCH, modules.Dropout3d, P_INPLACE, UPSCALE),
    # Their forward does not look at `inplace`.
    Known("torch.nn.AlphaDropout", TORCH, modules.AlphaDropout, {"p": "p"}, {"inplace": False}),
    Known("torch.nn.FeatureAlphaDropout", TORCH, modules.FeatureAlphaDropout, {"p": "p"}, {"inplace": False}),
    Known(
        "timm.layers.DropPath",
        TIMM,
        modules.DropPath,
        {"p": "drop_prob", "scale_by_keep": "scale_by_keep"},
        {"per": "row", "inplace": False, **UPSCALE},
        absent={"scale_by_keep": True},
    ),
    Known(
        "timm.layers.DropBlock2d",
        TIMM,
        modules.DropBlock2d,
        {
            "p": "drop_prob",
            **{name: name for name in ("block_size", "gamma_scale", "with_noise", "inplace")},
            **{name: name for name in ("couple_channels", "scale_by_keep")},
        },
        {"clip": True},
        absent={"couple_channels": False, "scale_by_keep": True},
        unless={"batchwise": True},
    ),
    Known(
        "torchvision.ops.StochasticDepth",
        ("torchvision.ops.stochastic_depth",),
        modules.DropPath,
        {"p": "p", "per": "mode"},
        {"scale_by_keep": True, "inplace": False, **UPSCALE},
    ),
    Known(
        "torchvision.ops.DropBlock2d",
        ("torchvision.ops.drop_block",),
        modules.DropBlock2d,
        {"block_size": "block_size", **P_INPLACE},
        {"gamma_scale": 1.0, "couple_channels": False, "clip": False, "with_noise": False, "scale_by_keep": True},
    ),
]
BY_TYPE = {(path, known.theirs.rpartition(".")[2]): known for known in KNOWN for path in known.paths}
# An attribute of a converted module: where its type is, and the attributes it did not have or had other values of.
ORIGIN = "_converted_from"
NAME = re.compile(r"drop_?(out|path|block|connect|layer)|layer_?drop|stochastic_?depth|zone_?out", re.IGNORECASE)


@dataclass(frozen=True)
class Report:
    """What :func:`convert` or :func:`revert` did: by the module's qualified name, "" being the model itself."""

    converted: dict[str, str]  # "torch.nn.Dropout -> fused_dropout.Dropout", and the module's other names
    left: dict[str, str]  # the reason

    def __str__(self) -> str:
        lines = []
        for title, entries in (("converted", self.converted), ("left as they are", self.left)):
            lines.append(f"{len(entries)} {title}")
            lines += [f"  {name or '(the model itself)'}: {entry}" for name, entry in entries.items()]
        return "\n".join(lines)


def convert(model: nn.Module) -> Report:
    r"""Makes every dropout module in a model ours, in place.

    Each module of exactly a known type gets our class of the same meaning and stays the object it is: a root, a module
    that is shared, hooked or referred to from elsewhere, an optimizer's parameters, names, state dicts, p, in-place and
    training flags are what they were; but of AlphaDropout and FeatureAlphaDropout, which torch never runs in place,
    the in-place flag becomes False. Known are torch.nn's Dropout, Dropout1d, 2d, 3d, AlphaDropout and
    FeatureAlphaDropout, timm's DropPath and DropBlock2d, and torchvision's StochasticDepth and DropBlock2d, whose
    ``eps`` has no counterpart: our scale is exact. Neither library is imported.

    Attributes that other code may read, such as timm's ``drop_prob``, stay; but ``p`` is what counts from now on.
    The one that changes is StochasticDepth's ``mode``, which is ``per`` here.

    Args:
        model: any module; a second call changes nothing.

    Returns:
        What was converted, and what was left and why: subclasses of the known types, whose forward may differ; modules
        of unknown types named after dropout; dropout that a module holds as a number, as nn.MultiheadAttention and
        nn.LSTM do; scripted modules; modules whose ``forward`` was replaced. Code that only reads a module's ``p`` and
        calls torch.nn.functional.dropout itself, as the attention of transformers 5 does, keeps native dropout there,
        and cannot be seen from outside.

    Raises:
        TypeError: the model is not a torch.nn.Module.

    Equivalent to, for nn.Dropout alone::

        for module in model.modules():
            if type(module) is torch.nn.Dropout:
                module.__class__ = fused_dropout.Dropout
    """
    return _each(model, "convert", _convert)


def revert(model: nn.Module) -> Report:
    r"""Undoes :func:`convert`, for the modules that it converted, also in a copy or after unpickling.

    p and the other attributes are taken back as they are now, a tensor p as a float. A module with an option that its
    own class has no word for, such as ``mode="downscale_in_infer"``, is left as it is.

    Returns:
        What was converted back, and what was left and why.

    Raises:
        TypeError: the model is not a torch.nn.Module.

    Equivalent to, for nn.Dropout alone::

        for module in model.modules():
            if type(module) is fused_dropout.Dropout:  # and convert made it
                module.__class__ = torch.nn.Dropout
    """
    return _each(model, "revert", _revert)


def known_type(cls: type) -> Known | None:
    return BY_TYPE.get((cls.__module__, cls.__qualname__))


def is_ours(module: nn.Module) -> bool:
    return any(cls.__module__.partition(".")[0] == __name__.partition(".")[0] for cls in type(module).__mro__)


def speaks_of_dropout(module: nn.Module) -> bool:
    return NAME.search(getattr(module, "original_name", type(module).__name__)) is not None


class _Left(Exception):
    """The reason to leave a module as it is."""


def _each(model: nn.Module, name: str, change: Callable[[nn.Module], str | None]) -> Report:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name}(): argument 'model' must be a torch.nn.Module, not {type(model).__name__}")
    report = Report({}, {})
    for module, names in _named(model).items():
        also = f" (also {', '.join(names[1:])})" if names[1:] else ""
        try:
            done = change(module)
        except _Left as reason:
            report.left[names[0]] = f"{reason}{also}"
        else:
            if done is not None:
                report.converted[names[0]] = f"{done}{also}"
    return report


def _named(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Each module once, with its names: one for each place where it is registered, not for each path to that place."""
    names = {module: [name] for name, module in model.named_modules()}
    for parent, path in [(module, name) for module, (name,) in names.items()]:
        for child_name, child in parent._modules.items():
            name = f"{path}.{child_name}" if path else child_name
            if child is not None and name not in names[child]:
                names[child].append(name)
    return names


def _convert(module: nn.Module) -> str | None:
    if is_ours(module):
        return None
    known = known_type(type(module))
    if known is None:
        _explain(module)
        return None
    if "forward" in vars(module):
        raise _Left("its forward was replaced")
    for name, value in known.unless.items():
        if getattr(module, name, None) == value:
            raise _Left(f"{name}={value!r} has no counterpart")
    values = known.options(module)
    if isinstance(values["p"], Tensor):
        values["p"] = float(values["p"])
    try:
        probability(values["p"], known.theirs)
    except (TypeError, ValueError) as error:
        raise _Left(str(error)) from None
    theirs, added = known.attributes.values(), tuple(name for name in values if name not in vars(module))
    others = {name: vars(module)[name] for name in known.fixed if name in vars(module) and name not in theirs}
    vars(module)[ORIGIN] = (type(module).__module__, type(module).__qualname__, added, others)
    vars(module).update(values)
    module.__class__ = known.ours
    return f"{known.theirs} -> {_name(known.ours)}"


def _explain(module: nn.Module) -> None:
    """Raises the reason where there is dropout in a module that is of none of the known types itself."""
    if isinstance(module, torch.jit.ScriptModule):
        if speaks_of_dropout(module):
            raise _Left(f"scripted: its {module.original_name} is compiled")
        return
    base = next((known for cls in type(module).__mro__ if (known := known_type(cls)) is not None), None)
    if base is not None:
        raise _Left(f"{_name(type(module))} is a subclass of {base.theirs}: its forward may differ")
    if speaks_of_dropout(module) or isinstance(module, nn.modules.dropout._DropoutNd):
        raise _Left(f"{_name(type(module))} is of no known type")
    for name, value in vars(module).items():
        if "drop" in name and type(value) in (int, float) and 0 < value <= 1:
            raise _Left(f"{name}={value} is a number that {_name(type(module))} holds")


def _revert(module: nn.Module) -> str | None:
    if ORIGIN not in vars(module):
        return None
    path, qualname, added, others = vars(module)[ORIGIN]
    known, now = BY_TYPE[path, qualname], type(module)
    lacking = {ours: known.absent[ours] for ours, theirs in known.attributes.items() if theirs in added}
    for name, value in {**known.fixed, **lacking}.items():
        if getattr(module, name) != value:
            raise _Left(f"{name}={getattr(module, name)!r} has no counterpart in {known.theirs}")
    try:
        cls = getattr(import_module(path), qualname)
    except (ImportError, AttributeError) as error:
        raise _Left(str(error)) from None
    back = {theirs: getattr(module, ours) for ours, theirs in known.attributes.items() if theirs not in added}
    back = {theirs: float(value) if isinstance(value, Tensor) else value for theirs, value in back.items()}
    for name in (ORIGIN, *added):
        vars(module).pop(name, None)
    vars(module).update(back | others)
    module.__class__ = cls
    return f"{_name(now)} -> {known.theirs}"


def _name(cls: type) -> str:
    """A type's public name: modules of torch.nn and ours are found at the top of theirs."""
    path = re.sub(r"^(torch\.nn|fused_dropout)\.\w+.*", r"\1", cls.__module__)
    return f"{path}.{cls.__qualname__}"
