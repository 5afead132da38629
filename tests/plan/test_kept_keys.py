"""A model that keeps keys and values in training is planned for without them: layers that are computed again would
keep theirs twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

from memgraph.api import predict
from memgraph.models.caches import keep_none
from memgraph.options import Options
from memgraph.plan.plan_file import Plan, parse_plan
from memgraph.render.table_checkpoint import plain_code
from memgraph.study.planner import Planner
from memgraph.trace import Category

CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 500, "hidden_size": 256,
    "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}  # fmt: skip


def llama(folder: Path, **more: object) -> Options:
    """A Llama of two layers, whose configuration has `use_cache` as transformers has it: on."""
    pytest.importorskip("transformers")
    (folder / "config.json").write_text(json.dumps({**CONFIG, **more}))
    return Options(model=f"transformers:{folder}/config.json", batch=4, seq=256, gpu="rtx3090", steps=1)


def test_a_plan_for_a_llama(tmp_path: Path) -> None:
    """Both layers can be computed again, and the plan says how they come to keep nothing."""
    found = Planner(llama(tmp_path))
    found._trace_base()
    found._find(())
    assert [candidate.name for candidate in found.found.all] == ["model.layers.0", "model.layers.1"]
    both = found._variant((("model.layers.0",), ("model.layers.1",)))
    assert both is not None
    found._base_cut = found._cut(found.base, found.found.all, frozenset())
    found.problem = found._build(list(found._modules), [both])
    assert len(found.problem.options) == 2
    plan = found._plan((0,))
    assert not plan.use_cache and "model.config.use_cache = False" in plain_code(plan)
    assert found.problem.peak(()) == found.base.peak.requested < found._as_it_is.peak.requested
    assert any("use_cache = False" in note for note in found.notes)


def test_the_step_as_it_is_keeps_them(tmp_path: Path) -> None:
    def cached(options: Options) -> bool:
        return any(buffer.category is Category.CACHE for buffer in predict(options).buffers)

    kept = llama(tmp_path)
    assert cached(kept)
    assert not cached(Options(**{**vars(kept), "checkpoint": Plan(use_cache=False).text}))
    assert not cached(Options(**{**vars(kept), "checkpoint": "blocks"}))


def test_a_plan_says_so_in_its_file() -> None:
    assert not parse_plan(Plan(use_cache=False).text).use_cache
    assert parse_plan(Plan().text) == Plan() and "use_cache" not in Plan().text


def test_what_was_set_can_be_taken_back() -> None:
    class Config:
        use_cache = True

    model = nn.Linear(1, 1)
    model.config = Config()  # type: ignore[assignment]
    undos = keep_none(model)
    assert not model.config.use_cache
    for undo in undos:
        undo()
    assert model.config.use_cache
