"""nanoVLM: its parameters, its ATen calls, its numbers, its lifetimes."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from memgraph.errors import MemgraphError, UsageError
from memgraph.models.nanovlm import Projector, build, make_inputs, make_job
from memgraph.models.nanovlm_config import NANOVLM_222M, NANOVLM_460M, PRESETS, NanoVLMConfig
from memgraph.models.nanovlm_language import Rotary, additive_mask, causal_mask
from memgraph.models.nanovlm_vision import split_heads
from tests import DATA

TINY = NanoVLMConfig(
    vit_hidden_dim=24, vit_inter_dim=32, vit_patch_size=4, vit_img_size=16, vit_n_heads=2, vit_n_blocks=2,
    lm_hidden_dim=24, lm_inter_dim=40, lm_n_heads=6, lm_n_kv_heads=2, lm_n_blocks=2, lm_base_vocab_size=50,
    lm_max_length=12, mp_pixel_shuffle_factor=2,
)  # fmt: skip
"""4 × 4 patches make 2 × 2 image tokens of a sequence of 12."""

TINY_MANY = replace(TINY, image_placement="mask", images_per_sample=2)

RECORDING = DATA / "nanovlm_222m_one_block_h200.txt"

SHORT = {"float32": "f32", "bfloat16": "bf16", "int64": "i64", "int32": "i32", "bool": "bool"}


class Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down ATen calls as the recording does, and knows which storages died before which call."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows: list[str] = []
        self.deaths: dict[str, list[int]] = {}
        self._watched: list[weakref.ref[Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not str(func).startswith("prim."):
            self._write(func, args, kwargs)
        if func is torch.ops.aten._local_scalar_dense.default:
            return False  # asked once, by the rotary embedding: is the sequence longer than the limit?
        return func(*args, **(kwargs or {}))

    def watch(self, name: str, tensor: Tensor) -> None:
        """Note at which call the storage of `tensor` has died, under `name`."""
        dead = self.deaths.setdefault(name, [])
        self._watched.append(weakref.ref(tensor.untyped_storage(), lambda _: dead.append(len(self.rows))))

    def _write(self, func: Any, args: Any, kwargs: Any) -> None:
        tensors = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        self.rows.append(" ".join([str(func), *map(_spec, tensors)]))


def _spec(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) + ":" + SHORT[str(tensor.dtype).removeprefix("torch.")]


def _refuses_mask_with_causal() -> bool:
    """Whether this torch raises for a mask together with `is_causal`: since 2.15 for every kernel (PyTorch 187801)."""
    q = torch.ones(1, 1, 2, 2)
    try:
        F.scaled_dot_product_attention(q, q, q, attn_mask=torch.zeros(1, 1, 1, 2), is_causal=True)
    except RuntimeError:
        return True
    return False


REFUSES = _refuses_mask_with_causal()


def call_the_kernel(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False
) -> Tensor:
    """What torch does below the entry point that refuses: autocast, last argument first, then the CPU's kernel."""
    if torch.is_autocast_enabled("cpu"):
        cast = torch.bfloat16
        mask = attn_mask if attn_mask is None else attn_mask.to(cast)
        v, k, q, attn_mask = v.to(cast), k.to(cast), q.to(cast), mask
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    result: Tensor = kernel(q, k, v, dropout_p, is_causal, attn_mask=attn_mask)[0]
    return result


@pytest.fixture
def attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets nanoVLM's attention run on a torch that refuses it."""
    if REFUSES:
        monkeypatch.setattr(F, "scaled_dot_product_attention", call_the_kernel)


def step(config: NanoVLMConfig, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """One forward and backward on the CPU with a batch of 2. Two tokens of the second sample are masked, not its first:
    kernels do not agree on a position that may look at nothing."""
    torch.manual_seed(seed)
    job = make_job("tiny", config, 2)
    model, batch = job.model(), job.inputs()
    batch["attention_mask"][1, 2:4] = 0
    _, loss = job.forward(model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    return model, loss


@pytest.mark.parametrize(("preset", "parameters"), [("nanovlm-222m", 222_082_176), ("nanovlm-460m", 460_113_984)])
def test_presets_have_the_published_number_of_parameters(preset: str, parameters: int) -> None:
    with torch.device("meta"):
        model = build(PRESETS[preset])
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_head_is_tied_unless_told_otherwise() -> None:
    tied, untied = build(TINY), build(replace(TINY, lm_tie_weights=False))
    assert tied.decoder.head.weight is tied.decoder.token_embedding.weight
    extra = sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters())
    assert extra == 51 * 24  # (50 tokens of the language model + 1 of its own) × hidden


def test_parameters_have_the_originals_names() -> None:
    with torch.device("meta"):
        model = build(replace(NANOVLM_222M, vit_n_blocks=1, lm_n_blocks=1))
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == {
        "vision_encoder.patch_embedding.position_embedding": (1, 196, 768),
        "vision_encoder.patch_embedding.conv.weight": (768, 3, 16, 16),
        "vision_encoder.patch_embedding.conv.bias": (768,),
        "vision_encoder.blocks.0.ln1.weight": (768,),
        "vision_encoder.blocks.0.ln1.bias": (768,),
        "vision_encoder.blocks.0.attn.qkv_proj.weight": (2304, 768),
        "vision_encoder.blocks.0.attn.qkv_proj.bias": (2304,),
        "vision_encoder.blocks.0.attn.out_proj.weight": (768, 768),
        "vision_encoder.blocks.0.attn.out_proj.bias": (768,),
        "vision_encoder.blocks.0.ln2.weight": (768,),
        "vision_encoder.blocks.0.ln2.bias": (768,),
        "vision_encoder.blocks.0.mlp.fc1.weight": (3072, 768),
        "vision_encoder.blocks.0.mlp.fc1.bias": (3072,),
        "vision_encoder.blocks.0.mlp.fc2.weight": (768, 3072),
        "vision_encoder.blocks.0.mlp.fc2.bias": (768,),
        "vision_encoder.layer_norm.weight": (768,),
        "vision_encoder.layer_norm.bias": (768,),
        "decoder.token_embedding.weight": (49153, 576),
        "decoder.rotary_embd.inv_freq": (32,),
        "decoder.blocks.0.mlp.gate_proj.weight": (1536, 576),
        "decoder.blocks.0.mlp.up_proj.weight": (1536, 576),
        "decoder.blocks.0.mlp.down_proj.weight": (576, 1536),
        "decoder.blocks.0.attn.q_proj.weight": (576, 576),
        "decoder.blocks.0.attn.k_proj.weight": (192, 576),
        "decoder.blocks.0.attn.v_proj.weight": (192, 576),
        "decoder.blocks.0.attn.out_proj.weight": (576, 576),
        "decoder.blocks.0.norm1.weight": (576,),
        "decoder.blocks.0.norm2.weight": (576,),
        "decoder.norm.weight": (576,),
        "decoder.head.weight": (49153, 576),
        "MP.proj.weight": (576, 3072),
    }


def test_weights_are_the_originals_random_ones() -> None:
    """std 0.02 for matrices, 0 for biases, 1 for scales; positions uniform in [0, 1)."""
    torch.manual_seed(0)
    state = build(TINY).state_dict()
    assert state["decoder.token_embedding.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert state["vision_encoder.patch_embedding.conv.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert not state["vision_encoder.blocks.1.mlp.fc1.bias"].any()
    assert (state["decoder.blocks.1.norm2.weight"] == 1).all()
    assert state["vision_encoder.patch_embedding.position_embedding"].mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.usefixtures("attention")
def test_calls_are_those_of_the_recorded_gpu_step() -> None:
    """Every call of forward and backward, with shapes and dtypes, in order. Not compared are: the kernel of attention,
    the view that a linear layer ends with, `detach`, and that CPU autocast casts logits before log_softmax."""
    recorded = [row for row in RECORDING.read_text().splitlines() if not row.startswith("#")]
    job = make_job("one block", replace(NANOVLM_222M, vit_n_blocks=1, lm_n_blocks=1), 8)
    with FakeTensorMode():
        model, batch = job.model(), job.inputs()
        with Calls() as calls:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                _, loss = job.forward(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
    assert len(recorded) == len(calls.rows) == 522
    assert _comparable(calls.rows) == _comparable(recorded)


def _comparable(rows: list[str]) -> list[str]:
    kept = [row for row in rows if not row.startswith(("aten.detach", "aten._log_softmax"))]
    kept = [row.replace("aten._unsafe_view", "aten.view") for row in kept]
    return [row.split(" ")[0].split("_product_")[0] if "attention" in row else row for row in kept]


@pytest.mark.usefixtures("attention")
@pytest.mark.parametrize("config", [TINY, TINY_MANY], ids=["one image", "many images"])
def test_a_step_gives_every_parameter_a_gradient(config: NanoVLMConfig) -> None:
    model, loss = step(config)
    assert loss.shape == () and loss.item() == pytest.approx(3.9, abs=0.2)  # untrained: about log of 51 tokens, 3.93
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.usefixtures("attention")
def test_without_images_only_the_language_tower_learns() -> None:
    model, _ = step(replace(TINY_MANY, images_per_sample=0))
    silent = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is None}
    assert silent == {"vision_encoder", "MP"}


@pytest.mark.usefixtures("attention")
@pytest.mark.parametrize("field", ["attention", "vit_attention", "lm_attention"])
@pytest.mark.parametrize("config", [TINY, TINY_MANY], ids=["one image", "many images"])
def test_attention_by_hand_gives_the_same_numbers(config: NanoVLMConfig, field: str) -> None:
    fused, loss = step(config)
    changes: dict[str, Any] = {field: "manual"}
    manual, loss_by_hand = step(replace(config, **changes))
    torch.testing.assert_close(loss_by_hand, loss)
    for (name, one), other in zip(fused.named_parameters(), manual.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.usefixtures("attention")
@pytest.mark.parametrize(
    ("changes", "towers"),
    [
        ({}, set()),
        ({"attention": "manual"}, {"12x64x64", "24x12x12"}),
        ({"vit_attention": "manual"}, {"12x64x64"}),
        ({"lm_attention": "manual"}, {"24x12x12"}),
        ({"attention": "manual", "lm_attention": "sdpa"}, {"12x64x64"}),
    ],
)
def test_only_attention_by_hand_makes_square_matrices(changes: Mapping[str, Any], towers: set[str]) -> None:
    """4 samples: 4 × 3 vision heads of 64 patches, 4 × 6 language heads of 12 positions."""
    config = replace(TINY, vit_img_size=32, vit_n_heads=3, mp_pixel_shuffle_factor=4, **changes)
    job = make_job("tiny", config, 4)
    with Calls() as calls:
        job.forward(job.model(), job.inputs())
    softmaxes = {row.split(" ")[1] for row in calls.rows if row.startswith("aten.bmm")}
    assert {spec.split(":")[0] for spec in softmaxes if spec.split(":")[0].endswith(("x64x64", "x12x12"))} == towers


def test_squares_of_patches_become_tokens() -> None:
    """4 × 4 patches, numbered by rows, folded 2 × 2: the first token holds the upper left four."""
    folded = Projector(TINY)._fold(torch.arange(16).view(1, 16, 1))
    assert folded[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_one_image_goes_where_its_first_token_stands() -> None:
    """4 image tokens from position 0 in the first sample and from position 5 in the second."""
    model = build(TINY)
    ids = torch.zeros(2, 12, dtype=torch.int64)
    ids[0, 0:4] = ids[1, 5:9] = TINY.image_token_id
    placed = model._place(ids, torch.zeros(2, 12, 24), torch.arange(1.0, 9.0).view(2, 4, 1).expand(2, 4, 24))
    assert placed[:, :, 0].tolist() == [[1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 5, 6, 7, 8, 0, 0, 0]]


def test_many_images_go_wherever_image_tokens_are() -> None:
    """Three images of 4 tokens: two in the first sample, one of them torn apart, and one in the second."""
    model = build(TINY_MANY)
    ids = torch.zeros(2, 12, dtype=torch.int64)
    ids[0, 0:2] = ids[0, 6:12] = ids[1, 4:8] = TINY.image_token_id
    placed = model._place(ids, torch.zeros(2, 12, 24), torch.arange(1.0, 13.0).view(3, 4, 1).expand(3, 4, 24))
    assert placed[:, :, 0].tolist() == [[1, 2, 0, 0, 0, 0, 3, 4, 5, 6, 7, 8], [0, 0, 0, 0, 9, 10, 11, 12, 0, 0, 0, 0]]


def test_rotary_angles() -> None:
    """Head 4 and base 100: frequencies 1 and 100^(-2/4) = 0.1. From 2 × the limit on, all are halved."""
    config = replace(TINY, lm_re_base=100, lm_max_position_embeddings=4)
    cos, sin = Rotary(config)(torch.arange(4).unsqueeze(0))
    torch.testing.assert_close(cos[0, 3], torch.tensor([3.0, 0.3, 3.0, 0.3]).cos())
    torch.testing.assert_close(sin[0, 2], torch.tensor([2.0, 0.2, 2.0, 0.2]).sin())
    cos, _ = Rotary(config)(torch.arange(8).unsqueeze(0))
    torch.testing.assert_close(cos[0, 7], torch.tensor([3.5, 0.35, 3.5, 0.35]).cos())


def test_masks_and_heads() -> None:
    assert causal_mask(3, torch.device("cpu"))[0, 0].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    least = torch.finfo(torch.float32).min
    assert additive_mask(torch.tensor([[0, 1]]), torch.float32).tolist() == [[[[least, 0]]]]
    assert split_heads(torch.arange(8).view(1, 2, 4), 2).tolist() == [[[[0, 1], [4, 5]], [[2, 3], [6, 7]]]]


def test_without_targets_there_is_no_loss_and_no_head() -> None:
    model, batch = build(TINY), make_inputs(TINY, 2)
    hidden, loss = model(batch["input_ids"], batch["images"])
    assert hidden.shape == (2, 12, 24) and loss is None


@pytest.mark.usefixtures("attention")
def test_keys_and_values_live_until_the_forward_returns() -> None:
    """As in the original, whose decoder hands its cache back: at the loss, all blocks' rotated keys are still there."""
    job = make_job("tiny", TINY, 2)
    model, batch = job.model(), job.inputs()
    with Calls() as calls:

        def watch_keys(block: nn.Module, inputs: Any, outputs: Any) -> None:
            calls.watch("key", outputs[1]["key"])

        for block in model.get_submodule("decoder.blocks").children():
            block.register_forward_hook(watch_keys)
        job.forward(model, batch)
    assert calls.rows[-1].startswith("aten.nll_loss_forward")
    assert calls.deaths["key"] == [len(calls.rows)] * 2  # 2 blocks, after the last call


@pytest.mark.usefixtures("attention")
def test_logits_live_as_long_as_the_script_keeps_them() -> None:
    job = make_job("tiny", TINY, 2)
    with Calls() as calls:
        kept, loss = job.forward(job.model(), job.inputs())
        assert kept.shape == (2, 12, 51)
        calls.watch("logits", kept)
        loss.backward()  # type: ignore[no-untyped-call]
        assert calls.deaths["logits"] == []
        del kept
        assert calls.deaths["logits"] == [len(calls.rows)]


def test_inputs_are_those_of_the_longest_batch() -> None:
    inputs = make_inputs(TINY, 3)
    assert list(inputs) == ["images", "input_ids", "labels", "attention_mask"]  # the order in which a script moves them
    assert inputs["images"].shape == (3, 3, 16, 16) and inputs["images"].dtype == torch.float32
    assert (inputs["input_ids"][:, :4] == 50).all() and (inputs["input_ids"][:, 4:] < 50).all()
    assert inputs["labels"].shape == (3, 12) and inputs["labels"].dtype == torch.int64
    assert inputs["attention_mask"].dtype == torch.int64 and inputs["attention_mask"].all()


def test_many_images_come_as_a_list_a_sample() -> None:
    inputs = make_inputs(TINY_MANY, 3)
    assert [[tuple(image.shape) for image in sample] for sample in inputs["images"]] == [[(1, 3, 16, 16)] * 2] * 3
    assert (inputs["input_ids"] == 50).sum(dim=1).tolist() == [8, 8, 8]  # 2 images × 4 tokens


@pytest.mark.parametrize("preset", PRESETS)
def test_builds_without_memory(preset: str) -> None:
    with FakeTensorMode():
        model = build(PRESETS[preset])
        images = make_inputs(PRESETS[preset], 2)["images"]
    assert next(model.parameters()).device.type == "cpu"
    assert len(images) == 2


def test_derived_sizes() -> None:
    assert (NANOVLM_222M.lm_vocab_size, NANOVLM_222M.image_tokens) == (49_153, 49)  # (224 / 16 / 2)² = 49
    assert (NANOVLM_460M.lm_vocab_size, NANOVLM_460M.mp_image_token_length) == (49_218, 64)  # (512 / 16 / 4)² = 64
    assert NANOVLM_460M.image_tokens == 17 * 64
    assert replace(NANOVLM_222M, vit_img_size=256).image_tokens == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vit_n_heads": 10}, "vit_n_heads=10 does not divide vit_hidden_dim=768: use vit_n_heads=8 or vit_n_heads=12"),
        ({"lm_n_heads": 7}, "lm_n_heads=7 does not divide lm_hidden_dim=576: use lm_n_heads=6 or lm_n_heads=8"),
        ({"lm_n_kv_heads": 4}, "lm_n_kv_heads=4 does not divide lm_n_heads=9: use lm_n_kv_heads=3 or lm_n_kv_heads=9"),
        ({"vit_img_size": 230}, "vit_patch_size=16 does not divide vit_img_size=230"),
        ({"mp_pixel_shuffle_factor": 4}, "mp_pixel_shuffle_factor=4 does not divide vit_patches_a_side=14"),
        ({"vit_patch_size": 0}, "vit_patch_size=0 is too small: use at least 1"),
        ({"lm_n_blocks": -1}, "lm_n_blocks=-1 is too small: use at least 0"),
        ({"lm_max_length": 48}, "seq 48 has no room for 49 image tokens: use at least as many"),
        ({"images_per_sample": 2}, "images_per_sample=2 needs image_placement=mask: argmax places one image"),
        ({"lm_dropout": 1.5}, "lm_dropout=1.5 is not a probability"),
        ({"lm_n_heads": 192, "lm_n_kv_heads": 3}, "heads of 3 cannot be rotated by halves"),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        make_job("nanovlm-222m", replace(NANOVLM_222M, **changes), 8)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="a batch of 0 has nothing to train on: use at least 1"):
        make_job("nanovlm-222m", NANOVLM_222M, 0)


@pytest.mark.skipif(not REFUSES, reason="this torch takes a mask with is_causal")
def test_a_torch_that_refuses_the_attention_is_named() -> None:
    job = make_job("tiny", TINY, 2)
    with pytest.raises(
        MemgraphError, match="refuses nanoVLM's causal attention with a mask: take an older one, or --set"
    ):
        job.forward(job.model(), job.inputs())
