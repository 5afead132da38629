"""Parts of a model of transformers: what it says of itself for tensor and pipeline parallelism, and one stage of it.

Its `base_model_tp_plan` and `base_model_pp_plan` are joined with those of its head when it is built
(`PreTrainedModel.post_init`): `_tp_plan` and `_pp_plan`, by paths from the whole model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from memgraph.errors import UsageError

_WAY_OUT = "leave {name} out, or write a script and use memgraph run --world"
_TENSOR_PARALLEL = "transformers.distributed.tensor_parallel"
_SPLIT = ("colwise", "rowwise")


def tensor_plan(model: nn.Module, name: str, tp: int) -> Mapping[str, str]:
    """How each of its layers is cut, by path with `*` for numbers.

    Raises:
        UsageError: it has no plan, or its heads do not divide.
    """
    plan = getattr(model, "_tp_plan", None)
    if not plan:
        raise UsageError(f"{name} has no tp plan: {_WAY_OUT.format(name='tp')}")
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    for field, words in (
        ("num_attention_heads", "attention heads"),
        ("num_key_value_heads", "key-value heads"),
        ("intermediate_size", "features of the MLP"),
    ):
        count = getattr(config, field, None)
        if isinstance(count, int) and count % tp and set(plan.values()) & set(_SPLIT):
            raise UsageError(f"tp={tp} does not divide the {count} {words} of {name}")
    return dict(plan)


def own_words() -> frozenset[str]:
    """Of a tensor plan, those that transformers follows itself, by DTensors. None in a release that has no such
    module."""
    try:
        return frozenset(import_module(_TENSOR_PARALLEL).ALL_PARALLEL_STYLES)
    except ImportError:
        return frozenset()


def cut_itself(model: nn.Module, over: Any, name: str, words: Sequence[str]) -> None:
    """Tensor parallel by transformers' own hands, as `from_pretrained(tp_plan="auto")` does it on a model without
    storage: for plans with words that torch has no style for, such as those for experts.

    Args:
        over: the mesh, of one dimension.
        words: those of the plan that torch does not know.

    Raises:
        UsageError: this transformers cannot.
    """
    if unknown := sorted(set(words) - own_words()):
        raise UsageError(
            f"the tp plan of {name} has {', '.join(unknown)}, which neither torch nor this transformers has a style "
            f"for: {_WAY_OUT.format(name='tp')}"
        )
    apply = import_module(_TENSOR_PARALLEL).apply_tensor_parallelism
    elsewhere = {path for path, module in model.named_modules() if isinstance(module, Passing)}
    plan = {path: word for path, word in model._tp_plan.items() if path not in elsewhere}  # type: ignore[operator, union-attr]
    model._tp_plan = plan  # type: ignore[assignment]
    expanded = () if len(signature(apply).parameters) == 2 else (model._expand_parallel_plan(plan),)  # type: ignore[operator]
    apply(model, over, *expanded)  # transformers 5.17 takes the model's own plan


def shifted(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A causal language model's batch whose tokens may be cut along the sequence (context parallel): each token has its
    position and its label with it, as transformers' Trainer prepares it, and no mask."""
    tokens, labels = batch["input_ids"], batch["labels"]
    positions = torch.arange(tokens.shape[1]).expand(len(tokens), -1).contiguous()
    later = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:].contiguous()
    return {"input_ids": tokens, "labels": labels, "shift_labels": later, "position_ids": positions}


def attend_causally(model: nn.Module) -> None:
    """Its attention takes no mask: each token sees those before it, wherever they are. Positions of a cut sequence have
    gaps, which a model takes for several samples in a row; accelerate's context parallel does the same
    (`big_modeling.py`, `_attach_context_parallel_hooks`)."""

    def without_mask(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "attention_mask": None, "is_causal": True}

    for module in model.modules():
        if getattr(module, "is_causal", False):
            module.register_forward_pre_hook(without_mask, with_kwargs=True)


class Passing(nn.Module):
    """In the place of a module that another stage has: the first that it is given goes on."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The first argument."""
        return args[0] if args else next(iter(kwargs.values()))


class Stage(nn.Module):
    """One stage of a pipeline: tokens in at the first, hidden states between, logits out at the last.

    Args:
        model: the whole, of which the other stages' modules are taken out.
        index: which stage, from 0.
        count: of how many; they have as many layers each.

    Raises:
        UsageError: the model has no plan, or its layers do not divide.
    """

    def __init__(self, model: nn.Module, index: int, count: int, name: str) -> None:
        super().__init__()
        plan = list(_stage_plan(model, name))
        self.whole = model
        self.first, self.last = index == 0, index == count - 1
        lists = [path for path in plan if isinstance(_at(model, path), nn.ModuleList)]
        if len(lists) != 1:
            raise UsageError(f"the pp plan of {name} names no list of layers: {_WAY_OUT.format(name='pp')}")
        layers = _at(model, lists[0])
        if len(layers) % count:
            raise UsageError(f"pp={count} does not divide the {len(layers)} layers of {name}")
        each = len(layers) // count
        for number in range(len(layers)):
            if number // each != index:
                layers[number] = Passing()
        order = [path for path, _ in model.named_modules() if path in plan]
        for path in order:
            here = self.first if order.index(path) < order.index(lists[0]) else self.last
            if path != lists[0] and not here:
                _put(model, path, Passing())

    def forward(self, given: Tensor, **more: Any) -> Any:
        """Tokens [samples, length] or hidden states [samples, length, width]; logits or hidden states."""
        inputs = {"input_ids" if self.first else "inputs_embeds": given, **more}
        if self.last:
            return self.whole(**inputs).logits
        return self.whole.base_model(**inputs).last_hidden_state  # type: ignore[operator]

    def loss(self, logits: Tensor, labels: Tensor, **more: Any) -> Any:
        """The model's own, of a micro-batch."""
        return self.whole.loss_function(logits=logits, labels=labels, vocab_size=self.words, **more)  # type: ignore[operator]

    def loss_of_shifted(self, logits: Tensor, labels: Tensor) -> Any:
        """The same, of labels that stand with the tokens before them."""
        return self.loss(logits, labels, shift_labels=labels)

    @property
    def width(self) -> int:
        """Of its hidden states."""
        return int(self.whole.config.get_text_config().hidden_size)  # type: ignore[union-attr, operator]

    @property
    def words(self) -> int:
        """Of its vocabulary."""
        return int(self.whole.config.get_text_config().vocab_size)  # type: ignore[union-attr, operator]


def _stage_plan(model: nn.Module, name: str) -> Mapping[str, Any]:
    plan = getattr(model, "_pp_plan", None)
    if not plan:
        raise UsageError(f"{name} has no pp plan: {_WAY_OUT.format(name='pp')}")
    return dict(plan)


def _at(model: nn.Module, path: str) -> Any:
    return model.get_submodule(path)


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, module)
