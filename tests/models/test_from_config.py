"""`transformers:CONFIG`: models of the library from a configuration alone, with inputs that their forward takes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import memgraph
from memgraph.errors import MemgraphError, UsageError
from memgraph.models.registry import resolve
from memgraph.models.tasks import TASKS
from memgraph.options import TASKS as OPTION_TASKS
from memgraph.options import Options

pytest.importorskip("transformers", reason="the extra is not installed")

TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 500}
VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
LLAMA = {"model_type": "llama", "num_key_value_heads": 1, "pad_token_id": 0, **TEXT}
LLAVA = {
    "model_type": "llava", "image_token_index": 499, "text_config": LLAMA,
    "vision_config": {"model_type": "clip_vision_model", **VISION},
}  # fmt: skip
QWEN = {
    "model_type": "qwen2_vl", "image_token_id": 499,
    "text_config": {"model_type": "qwen2_vl_text", "num_key_value_heads": 2, **TEXT,
                    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}},
    "vision_config": {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 32},
}  # fmt: skip
SMOL = {
    "model_type": "smolvlm", "image_token_id": 499, "scale_factor": 2, "text_config": LLAMA,
    "vision_config": {"model_type": "smolvlm_vision", **VISION},
}  # fmt: skip
BERT = {"model_type": "bert", **TEXT}
BART = {
    "model_type": "bart", "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 500,
}  # fmt: skip
WHISPER = {**BART, "model_type": "whisper", "vocab_size": 51865, "max_source_positions": 20}
SOUND = {"model_type": "wav2vec2", "conv_dim": [16] * 7, **TEXT}
CLIP = {
    "model_type": "clip", "architectures": ["CLIPModel"], "text_config": {**TEXT, "vocab_size": 49408},
    "vision_config": VISION,
}  # fmt: skip

CASES: list[tuple[dict[str, Any], str | None, str, dict[str, tuple[int, ...]]]] = [
    (LLAMA, None, "causal-lm", {"input_ids": (2, 64), "attention_mask": (2, 64), "labels": (2, 64)}),
    (LLAMA, "sequence-classification", "sequence-classification", {"input_ids": (2, 64), "labels": (2,)}),
    (BERT, None, "masked-lm", {"input_ids": (2, 64), "labels": (2, 64)}),
    (BERT, "token-classification", "token-classification", {"labels": (2, 64)}),
    (BERT, "question-answering", "question-answering", {"start_positions": (2,), "end_positions": (2,)}),
    (BART, None, "seq2seq-lm", {"input_ids": (2, 64), "labels": (2, 64)}),
    ({"model_type": "vit", **VISION}, None, "image-classification", {"pixel_values": (2, 3, 28, 28), "labels": (2,)}),
    ({"model_type": "segformer", "architectures": ["SegformerForSemanticSegmentation"], "image_size": 64}, None,
     "semantic-segmentation", {"pixel_values": (2, 3, 64, 64), "labels": (2, 64, 64)}),
    (CLIP, None, "contrastive", {"input_ids": (2, 64), "pixel_values": (2, 3, 28, 28)}),
    # (28 / 14)² = 4 patches, all of them tokens; or a square of 4 shuffled into 1.
    (LLAVA, None, "image-text-to-text", {"input_ids": (2, 64), "pixel_values": (2, 3, 28, 28)}),
    (SMOL, None, "image-text-to-text", {"pixel_values": (2, 1, 3, 28, 28), "pixel_attention_mask": (2, 1, 28, 28)}),
    (WHISPER, None, "speech-seq2seq", {"input_features": (2, 80, 64), "labels": (2, 64)}),
    (SOUND, "ctc", "ctc", {"input_values": (2, 64), "labels": (2, 64)}),
    (SOUND, "audio-classification", "audio-classification", {"input_values": (2, 64), "labels": (2,)}),
]  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """A configuration as a folder; its target."""

    def write(config: dict[str, Any]) -> str:
        (tmp_path / "config.json").write_text(json.dumps(config))
        return f"transformers:{tmp_path}"

    return write


def predict(target: str, task: str | None = None, **more: Any) -> memgraph.Trace:
    return memgraph.predict(Options(model=target, task=task, batch=2, gpu="h100", **more))


@pytest.mark.parametrize(("config", "task", "found", "shapes"), CASES)
def test_inputs_are_what_the_task_takes(
    config: dict[str, Any], task: str | None, found: str, shapes: dict[str, tuple[int, ...]], write: Any
) -> None:
    job = resolve(write(config), task).build({}, 2, 64)
    assert job.settings["task"] == found
    made = job.inputs()  # type: ignore[union-attr]
    assert {name: tuple(made[name].shape) for name in shapes} == shapes


@pytest.mark.parametrize(
    ("config", "task", "seq"),
    [
        (LLAMA, None, 64), (LLAMA, "sequence-classification", 64), (BERT, None, 64), (BART, None, 64),
        (LLAVA, None, 64), (SMOL, None, 64), (CLIP, None, 64), (QWEN, None, 300), (SOUND, "ctc", 4000),
        (WHISPER, None, 40),
        ({"model_type": "vit", **VISION}, None, None),
    ],
)  # fmt: skip
def test_it_trains(config: dict[str, Any], task: str | None, seq: int | None, write: Any) -> None:
    trace = predict(write(config), task, seq=seq)
    trace.self_check()
    assert [op for op in trace.unknown_ops if "index_put" not in op] == []  # through a mask that is not counted
    assert [
        text for text in trace.assumptions if "cuDNN" not in text and "masking" not in text and "vlm" not in text
    ] == []
    assert {phase.name for phase in trace.phases} >= {"forward", "backward", "optimizer"}


@pytest.mark.parametrize(("config", "tokens"), [(LLAVA, 4), (SMOL, 1), (QWEN, 256)])
def test_as_many_tokens_stand_for_an_image_as_the_model_makes_of_it(
    config: dict[str, Any], tokens: int, write: Any
) -> None:
    ids = resolve(write(config)).build({}, 2, 300).inputs()["input_ids"]  # type: ignore[union-attr]
    assert (ids == 499).sum(1).tolist() == [tokens, tokens]


def test_a_classes_weights_are_fp32_whatever_the_configuration_says(write: Any) -> None:
    """The embedding is 500 x 32, 4 bytes each."""
    trace = predict(write({**LLAMA, "dtype": "bfloat16"}), seq=64)
    sizes = {buffer.name: buffer.size for buffer in trace.buffers}
    assert sizes["model.embed_tokens.weight"] == 500 * 32 * 4


def test_fields_are_set_and_the_trace_keeps_the_task(write: Any) -> None:
    few, more = predict(write(LLAMA), seq=64), predict(write(LLAMA), seq=64, set={"num_hidden_layers": "3"})
    assert more.settings["task"] == "causal-lm" and more.settings["seq"] == 64
    assert len(more.ops) > len(few.ops)
    inner = predict(write(LLAVA), seq=64, set={"text_config.num_hidden_layers": "1", "image_size": "28"})
    assert inner.settings["set"] == {"text_config.num_hidden_layers": "1", "image_size": "28"}


def test_its_length_is_512_or_what_it_can_take(write: Any) -> None:
    assert resolve(write(LLAMA)).default_seq == 512
    assert resolve(write({**LLAMA, "max_position_embeddings": 77})).default_seq == 77
    assert resolve(write({"model_type": "vit", **VISION})).default_seq is None


def refusal(target: str, task: str | None = None, **settings: str) -> str:
    with pytest.raises(MemgraphError) as error:
        resolve(target, task).build(settings, 2, 64)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_wrong_is_said_in_one_line(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no nowhere: name a folder with a config.json" in refusal("transformers:nowhere")
    assert "names no model_type" in refusal(write({"hidden_size": 3}))
    assert "did you mean llama" in refusal(write({"model_type": "lama"}))
    assert "has no class NoSuchModel" in refusal(write({**LLAMA, "architectures": ["NoSuchModel"]}))
    assert "transformers has no llama for ctc: use --task causal-lm or" in refusal(write(LLAMA), "ctc")
    assert "unknown field of llama 'num_hidden_layer': did you mean num_hidden_layers" in refusal(
        write(LLAMA), num_hidden_layer="3"
    )
    assert "num_hidden_layers=x is not a whole number" in refusal(write(LLAMA), num_hidden_layers="x")
    assert "--task is for --model transformers:" in refusal("nanovlm-222m", "causal-lm")
    (tmp_path / "config.json").write_text("{")
    assert "cannot be read as JSON" in refusal(f"transformers:{tmp_path}")
    write(LLAMA)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert "pip install 'memgraph[transformers]'" in refusal(f"transformers:{tmp_path / 'config.json'}")


def test_an_image_that_does_not_fit_into_the_text(write: Any) -> None:
    with pytest.raises(UsageError, match="seq 64 has no room for 256 image tokens"):
        resolve(write(QWEN)).build({}, 2, 64).inputs()  # type: ignore[union-attr]


def test_a_task_is_known_before_anything_is_loaded() -> None:
    assert sorted(TASKS) == sorted(OPTION_TASKS)
    with pytest.raises(UsageError, match="unknown task 'causal': did you mean causal-lm"):
        Options(task="causal")


def test_the_context_leaves_nothing_behind(write: Any) -> None:
    predict(write(LLAVA), seq=64)
    assert torch._C._len_torch_dispatch_stack() == 0
