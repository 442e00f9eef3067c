"""A timm student's weights from a file that others made: told apart, renamed and resampled where that is certain."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn

from dhox.console import say
from dhox.data.dataset import shorten
from dhox.distill.weights_file import check_finite, reason_of
from dhox.errors import DhoxError
from dhox.system.regular_file import regular

State = dict[str, torch.Tensor]
WRAPPED = r"^(?:module\.|_orig_mod\.)+"  # DistributedDataParallel, averaged models and torch.compile
AVERAGE = r"(?:^|[._])ema(?:[._]|$)"
MOST = 3  # tensors that a message names


class Fit(NamedTuple):
    """Tensors under the student's own names; where they lay in the file (`model_ema.`), and a note for people."""

    place: str
    state: State
    note: str = ""


def load_backbone_weights(backbone: nn.Module, name: str, path: Path) -> None:
    """Load a file's weights into the backbone of the timm model `name`, ignoring a classifier in it.

    Taken below any wrapper or prefix (`state_dict`, `module.`, ...), the moving average where there are several; under
    other names where timm translates them, or where all tensors fit in their order. Position embeddings of another
    image size are resampled by timm. What was more than taking off prefixes is said. Raises DhoxError, with what the
    file holds, where none or several sets of tensors fit.
    """
    own = backbone.state_dict()
    sets = dict(tensor_sets(_read(path)))
    fits = list(by_name(sets, own)) or list(by_timm(sets, backbone))
    if not fits and path.suffix != ".safetensors":  # which keeps no order
        fits = list(by_position(sets, own))
    if not fits:
        raise DhoxError(_what_it_holds(path, sets, name, own), f"Pass a state dict of timm's {name}.")
    fit = choose(fits, path)
    state = (_misshapen(fit.state, own) and by_filter(backbone, fit.state)) or fit.state
    if wrong := _misshapen(state, own):
        raise DhoxError(
            f"{path} has {len(wrong)} of the {len(own)} tensors of {name} in other shapes: "
            f"{_described(fit.state, wrong)}; the student's: {_described(own, wrong)}.",
            f"Pass the weights of {name}, or name the student that these are of.",
        )
    check_finite({key: state[key] for key in own}, str(path))
    resampled = shorten([key for key in own if state[key].shape != fit.state[key].shape], MOST)
    size = "" if resampled == "none" else f"of another image size, resampled by timm: {resampled}"
    for note in filter(None, (fit.note, size)):
        say(f"{path.name}: {note}.")
    backbone.load_state_dict({key: state[key] for key in own})


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(regular(path))
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm's checkpoints hold their arguments
            return torch.load(regular(path), map_location="cpu", weights_only=True)
    except Exception as err:
        raise DhoxError(
            f"The student weights {path} could not be loaded ({reason_of(err)}).",
            "Pass a .safetensors or .pth state dict.",
        ) from err


def tensor_sets(content: Any, place: str = "") -> Iterator[tuple[str, State]]:
    """(place, tensors by name) of every dictionary in a checkpoint that holds tensors; places as `model_ema.`"""
    if isinstance(content, Mapping):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
        if tensors:
            yield place, tensors
        for key, value in content.items():
            yield from tensor_sets(value, f"{place}{key}.")


def by_name(sets: Mapping[str, State], own: State) -> Iterator[Fit]:
    """The sets with all of the student's names, under whatever prefix."""
    first = next(iter(own))
    for place, tensors in sets.items():
        for prefix in [key[: -len(first)] for key in tensors if key.endswith(first)]:
            if all(prefix + key in tensors for key in own):
                yield Fit(place + prefix, {key: tensors[prefix + key] for key in own})


def by_timm(sets: Mapping[str, State], backbone: nn.Module) -> Iterator[Fit]:
    """The sets whose names timm translates to the student's: those of the same model's authors, and of older timm."""
    own = backbone.state_dict()
    for place, tensors in sets.items():
        state = by_filter(backbone, {re.sub(WRAPPED, "", key): tensor for key, tensor in tensors.items()})
        if state is not None:
            names = shorten([key for key in tensors if key not in own], MOST)
            yield Fit(place, state, f"names of another code, translated by timm: {names}")


def by_filter(backbone: nn.Module, tensors: State) -> State | None:
    """What timm makes of a checkpoint of this kind of model, translated and resampled to the backbone; None where that
    is not the backbone's tensors. The size of its patches is the model's own, and never resampled."""
    own = backbone.state_dict()
    make = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    try:
        state = make(dict(tensors), backbone) if make else {}
    except Exception:  # names and shapes of any kind, in code that expects its own
        return None
    patches = [key for key in own if key.endswith("patch_embed.proj.weight") and key in tensors]
    if not own.keys() <= state.keys() or any(tensors[key].shape != own[key].shape for key in patches):
        return None
    return {key: state[key] for key in own}


def by_position(sets: Mapping[str, State], own: State) -> Iterator[Fit]:
    """The sets whose tensors are the student's one by one: same shape, kind of number and last part of the name
    (`weight`, `running_mean` ...), with nothing behind them but one layer of a classifier."""
    for place, tensors in sets.items():
        names = list(tensors)
        behind = [_last(key) for key in names[len(own) :]]
        pairs = zip(own.items(), tensors.items(), strict=False)
        if len(names) >= len(own) and behind in ([], ["weight"], ["weight", "bias"]) and all(map(_same, pairs)):
            note = f"names of another code ({shorten(names, MOST)}), taken by position: all {len(own)} shapes fit"
            yield Fit(place, dict(zip(own, tensors.values(), strict=False)), note)


def choose(fits: list[Fit], path: Path) -> Fit:
    """The one fit, or of several the one moving average. Raises DhoxError where that is not one."""
    averages = [fit for fit in fits if re.search(AVERAGE, fit.place)]
    if len(fits) == 1:
        return fits[0]
    places = shorten([fit.place.removesuffix(".") or "its top" for fit in fits])
    if len(averages) != 1:
        raise DhoxError(
            f"{path} holds the weights of {len(fits)} such students, and dhox cannot tell which are meant: {places}.",
            "Save one of them to a file of its own.",
        )
    note = f"holds {places}; taken: {averages[0].place.removesuffix('.')}, the moving average"
    return averages[0]._replace(note="; ".join(filter(None, [note, averages[0].note])))


def _same(pair: tuple[tuple[str, torch.Tensor], tuple[str, torch.Tensor]]) -> bool:
    (name, a), (other, b) = pair
    return _last(name) == _last(other) and a.shape == b.shape and a.is_floating_point() == b.is_floating_point()


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _misshapen(state: State, own: State) -> list[str]:
    return [key for key, tensor in own.items() if state[key].shape != tensor.shape]


def _described(tensors: State, names: Iterable[str]) -> str:
    """`conv.weight [8, 3, 3, 3], ... and 5 more`."""
    return shorten([f"{key} {list(tensors[key].shape)}" for key in names], MOST)


def _what_it_holds(path: Path, sets: Mapping[str, State], name: str, own: State) -> str:
    """What a file that fits nowhere holds, beside what the student needs."""
    if not sets:
        return f"{path} holds no tensors."
    place, tensors = max(sets.items(), key=lambda each: len(each[1]))
    lacking = [key for key in own if key not in tensors]
    return (
        f"{path} lacks {len(lacking)} of the {len(own)} tensors of {name}: {_described(own, lacking)}. "
        f"It holds {len(tensors)}{f' in {place[:-1]}' if place else ''}: {_described(tensors, tensors)}."
    )
