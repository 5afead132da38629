"""A model on a mesh by its options, against the script that somebody would write for `memgraph run --world`: the same
bytes at every event."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import memgraph
from memgraph import Mesh, Options, Trace
from memgraph.errors import DoesNotFit, UsageError
from memgraph.study.ranks import Script, run_ranks
from memgraph.study.run import run
from memgraph.trace import Category

transformers = pytest.importorskip("transformers")

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 160,
    "max_position_embeddings": 256,
}  # fmt: skip
BATCH, SEQ = 2, 64
BF16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


@pytest.fixture
def llama(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return f"transformers:{tmp_path}"


def predicted(model: str, mesh: Mesh, **more: Any) -> Trace:
    options = Options(**{"model": model, "batch": BATCH, "seq": SEQ, "gpu": "h100", "mesh": mesh, **more})
    trace = memgraph.predict(options)
    trace.self_check()
    return trace


def scripted(
    names: dict[str, int], spread: Callable[[nn.Module, DeviceMesh], nn.Module], *, autocast: bool = True,
    around: Callable[[DeviceMesh, dict[str, Any]], Any] = lambda _mesh, _inputs: contextlib.nullcontext(),
    wanted: tuple[str, ...] = ("input_ids", "attention_mask", "labels"),
) -> Trace:  # fmt: skip
    """The same training as somebody writes it: no line of memgraph's in it."""
    world = torch.Size(names.values()).numel()
    with memgraph.virtual_gpu("h100", world=world) as gpu:
        torch.cuda.set_device(0)
        dist.init_process_group("nccl", device_id=torch.device("cuda", 0))
        mesh = init_device_mesh("cuda", tuple(names.values()), mesh_dim_names=tuple(names))
        with torch.device("meta"):
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
        model.config.use_cache = False
        train(spread(model.train(), mesh), mesh, autocast, around, wanted)
    return gpu.trace


def train(
    model: nn.Module, mesh: DeviceMesh | None, autocast: bool = True,
    around: Callable[..., Any] = lambda _mesh, _inputs: contextlib.nullcontext(),
    wanted: tuple[str, ...] = ("input_ids", "attention_mask", "labels"),
) -> None:  # fmt: skip
    """Two steps."""
    parts = [p for p in model.parameters() if isinstance(p, DTensor)]
    others = [p for p in model.parameters() if not isinstance(p, DTensor)]
    optimizer = torch.optim.AdamW([{"params": group} for group in (parts, others) if group])
    inputs: dict[str, Any] = {}
    for _ in range(2):
        tokens = torch.arange(BATCH * SEQ).remainder(160).view(BATCH, SEQ)
        made = {"attention_mask": torch.ones_like(tokens), "position_ids": torch.arange(SEQ).repeat(BATCH, 1)}
        for name in wanted:
            inputs[name] = made.get(name, tokens).to("cuda")
        optimizer.zero_grad()
        with around(mesh, inputs):
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
                outputs = model(**inputs)
                loss = outputs.loss
            loss.backward()
        optimizer.step()


def ddp(model: nn.Module, _: DeviceMesh) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model.to_empty(device="cuda"), device_ids=[0])


def fsdp(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh["dp"], mp_policy=BF16)
    fully_shard(model, mesh=mesh["dp"], mp_policy=BF16)
    return model.to_empty(device="cuda")


def tp(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return cut(model, mesh).to_empty(device="cuda")


def causal(model: nn.Module) -> nn.Module:
    """As accelerate does for context parallel."""

    def hook(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "attention_mask": None, "is_causal": True}

    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(hook, with_kwargs=True)
    return model


def in_parts(mesh: DeviceMesh, inputs: dict[str, Any]) -> Any:
    values = list(inputs.values())
    return context_parallel(mesh, buffers=values, buffer_seq_dims=[1] * 4, no_restore_buffers=set(values))


def cut(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """As the model's own plan says."""
    column, row = ColwiseParallel, RowwiseParallel
    plan = {f"self_attn.{name}_proj": column() for name in "qkv"} | {"self_attn.o_proj": row()}
    plan |= {"mlp.gate_proj": column(), "mlp.up_proj": column(), "mlp.down_proj": row()}
    for layer in model.model.layers:
        parallelize_module(layer, mesh["tp"], plan)
    around = {"lm_head": column(output_layouts=Replicate())}
    if "model.embed_tokens" in model._tp_plan:  # type: ignore[operator]  # from transformers 5.24 on, not in 5.17
        around["model.embed_tokens"] = row(input_layouts=Replicate())
    return parallelize_module(model, mesh["tp"], around)


def happened(trace: Trace) -> list[tuple[object, int]]:
    """What the allocator did from the first forward to the last optimizer, with its bytes."""
    start = next(phase.start for phase in trace.phases if phase.name == "forward")
    stop = max(phase.stop for phase in trace.phases if phase.name == "optimizer")
    return [(event.action, event.size) for event in trace.events[start:stop]]


@pytest.mark.parametrize(
    ("mesh", "script"),
    [
        (Mesh(dp=4), lambda: scripted({"dp": 4}, ddp)),
        (Mesh(dp=4, fsdp="blocks", reduce_dtype="fp32"), lambda: scripted({"dp": 4}, fsdp, autocast=False)),
        (Mesh(tp=2), lambda: scripted({"tp": 2}, tp)),
        (Mesh(dp=2, tp=2, fsdp="blocks", reduce_dtype="fp32"),
         lambda: scripted({"dp": 2, "tp": 2}, lambda model, mesh: fsdp(cut(model, mesh), mesh), autocast=False)),
        (Mesh(cp=2), lambda: scripted(
            {"cp": 2}, lambda model, mesh: ddp(causal(model), mesh), around=in_parts,
            wanted=("input_ids", "labels", "shift_labels", "position_ids"))),
    ],
    ids=["dp", "fsdp", "tp", "fsdp and tp", "cp"],
)  # fmt: skip
def test_it_is_what_a_script_does(mesh: Mesh, script: Callable[[], Trace], llama: str) -> None:
    ours, theirs = predicted(llama, mesh), script()
    assert ours.peak[:3] == theirs.peak[:3]
    assert happened(ours) == happened(theirs)


MIXTRAL = LLAMA | {
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2,
}  # fmt: skip
QWEN = LLAMA | {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "head_dim": 16,
}  # fmt: skip


@pytest.mark.parametrize("config", [MIXTRAL, QWEN], ids=["mixtral", "qwen3 moe"])
def test_experts_are_cut_as_from_pretrained_cuts_them(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their plan has words that torch has no style for; transformers' own hands follow it, in both."""
    from transformers.distributed import DistributedConfig

    # from_pretrained wants accelerate there, and does not use it
    monkeypatch.setattr("transformers.integrations.accelerate.is_accelerate_available", lambda: True)
    (tmp_path / "config.json").write_text(json.dumps(config))
    made = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(tmp_path))
    made.save_pretrained(tmp_path / "weights")
    ours = predicted(f"transformers:{tmp_path}", Mesh(tp=2))
    with memgraph.virtual_gpu("h100", world=2) as gpu:
        torch.cuda.set_device(0)
        dist.init_process_group("nccl", device_id=torch.device("cuda", 0))
        model = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "weights", distributed_config=DistributedConfig(tp_size=2), use_cache=False
        )
        train(model.train(), None)
    assert happened(ours) == happened(gpu.trace)


PIPELINE = """
import json, os, sys, torch, torch.distributed as dist, transformers
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

class Part(torch.nn.Module):
    def __init__(self, whole, first):
        super().__init__()
        self.whole, self.first = whole, first
        whole.model.layers = whole.model.layers[:1] if first else whole.model.layers[1:]
        if first:
            whole.lm_head, whole.model.norm = None, torch.nn.Identity()
        else:
            whole.model.embed_tokens = None
    def forward(self, given):
        if self.first:
            return self.whole.model(input_ids=given).last_hidden_state
        return self.whole(inputs_embeds=given).logits

dist.init_process_group("nccl")
rank = dist.get_rank()
torch.cuda.set_device(rank)
mesh = init_device_mesh("cuda", (2,), mesh_dim_names=("pp",))
config = transformers.LlamaConfig(**json.loads(sys.argv[1]))
config.use_cache = False
with torch.device("meta"):
    whole = transformers.LlamaForCausalLM(config)
part = Part(whole, rank == 0).train().to_empty(device="cuda")
optimizer = torch.optim.AdamW(part.parameters())
stage = PipelineStage(part, rank, 2, torch.device("cuda", rank), group=mesh["pp"].get_group())
loss = lambda logits, labels: whole.loss_function(logits=logits, labels=labels, vocab_size=160)
schedule = Schedule1F1B(stage, 2, loss)
for _ in range(2):
    tokens = torch.arange(128).remainder(160).view(2, 64).repeat(2, 1)
    inputs, mask, labels = tokens.to("cuda"), torch.ones_like(tokens).to("cuda"), tokens.clone().to("cuda")
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        schedule.step(*([inputs] if rank == 0 else []), **({"target": labels} if rank else {}), return_outputs=False)
    optimizer.step()
"""


def test_a_stage_is_what_it_is_beside_the_others(llama: str, tmp_path: Path) -> None:
    """The stages of the script tell each other their shapes by messages, in two processes; here each is alone, and the
    shapes are given. So the first step differs, and the second does not."""
    script = tmp_path / "pipeline.py"
    script.write_text(PIPELINE)
    arguments = (json.dumps(LLAMA),)
    what = Script(str(script), arguments, False, "h100", None, None, None, 1.0, world=2, per_node=2)
    theirs = run_ranks(what, (0, 1))
    for rank, one in enumerate(theirs):
        ours = predicted(llama, Mesh(pp=2, rank=rank))
        assert ours.peak.requested == one.trace.peak.requested
        assert ours.peak.allocated == one.trace.peak.allocated


@pytest.mark.parametrize(
    ("mesh", "more", "message"),
    [
        ({"tp": 4}, {}, "tp=4 does not divide the 2 key-value heads"),
        ({"pp": 3}, {}, "pp=3 does not divide the 2 layers"),
        ({"cp": 3}, {}, "cp=3 does not divide seq 64 into twice as many parts"),
        ({"tp": 2}, {"model": "nanovlm-222m"}, "nanovlm-222m has no tp plan: leave tp out, or write a script"),
        ({"pp": 2}, {"model": "nanovlm-222m"}, "nanovlm-222m has no pp plan"),
        ({"cp": 2}, {"model": "nanovlm-222m"}, "nanovlm-222m is no causal language model"),
    ],
)
def test_what_does_not_divide_or_has_no_plan_is_a_line(
    mesh: dict[str, int], more: dict[str, Any], message: str, llama: str
) -> None:
    with pytest.raises(UsageError, match=message):
        predicted(more.get("model", llama), Mesh(**mesh))


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    """The embedding and the head are one parameter, of which each rank has half the rows: 80 x 64 numbers, twice kept
    by AdamW."""
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "tie_word_embeddings": True}))
    for mesh in (Mesh(tp=2), Mesh(dp=2), Mesh(dp=2, fsdp="blocks"), Mesh(dp=2, tp=2, fsdp="blocks")):
        trace = predicted(f"transformers:{tmp_path}", mesh)
        names = {buffer.name for buffer in trace.buffers if buffer.category is Category.OPTIMIZER}
        assert any(name.endswith("model.embed_tokens.weight") for name in names)
        assert not any("lm_head" in name for name in names)


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(256, 256, bias=False) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[1](self.layers[0](x)).square().mean()


def two_layers(batch: int = 8, seq: int = 1) -> tuple[nn.Module, torch.Tensor]:
    """Two parameters of 256 KiB."""
    return TwoLayers(), torch.zeros(batch, 256)


def test_a_factory_has_no_plan_and_takes_ddp_and_fsdp() -> None:
    """Of the 2 parameters a quarter each; DDP has all of both, and as many gradients in its bucket."""
    meshes = Mesh(dp=4, fsdp="blocks"), Mesh(dp=4)
    shards, whole = (predicted(f"{__name__}:two_layers", mesh).after_load.requested for mesh in meshes)
    assert shards == 2 * 256 * 256 * 4 // 4
    assert whole == 2 * 2 * 256 * 256 * 4
    with pytest.raises(UsageError, match="two_layers has no tp plan"):
        predicted(f"{__name__}:two_layers", Mesh(tp=2))


def test_buffers_keep_what_they_say(tmp_path: Path) -> None:
    """Bert reads its positions off a buffer: what they are is known as on one GPU, and each is a row of the table. Its
    batch is no text that context parallel can cut."""
    bert = {
        "architectures": ["BertForMaskedLM"], "model_type": "bert", "hidden_size": 64, "intermediate_size": 96,
        "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 160,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(bert))
    assert predicted(f"transformers:{tmp_path}", Mesh(dp=2, fsdp="blocks")).unknown_ops == ()
    with pytest.raises(UsageError, match="is no causal language model, which cp can cut"):
        predicted(f"transformers:{tmp_path}", Mesh(cp=2))


def test_a_stage_that_is_refused_memory_ends_there(llama: str) -> None:
    """Its first product asks for cuBLAS's 32 MiB; torch's stage makes an error of its own of what stops it."""
    options = Options(model=llama, batch=BATCH, seq=SEQ, gpu="h100", mesh=Mesh(pp=2), memory=20 * 2**20)
    with pytest.raises(DoesNotFit, match="out of memory in the forward of step 1"):
        run(options, until_refused=True)
