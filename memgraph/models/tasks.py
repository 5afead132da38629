"""What transformers' models are trained for: which class of a model, and what one batch of it holds. No torch."""

from __future__ import annotations

from typing import NamedTuple


class Task(NamedTuple):
    """A way to train a model."""

    mapping: str
    """Where transformers lists the classes for it: a name in `transformers.models.auto.modeling_auto`."""
    reads: tuple[str, ...]
    """Kinds of input, of `text`, `image` and `sound`, in the order in which they are moved to the device."""
    labels: str
    """`tokens`: one a position of the text. `sample`: one a sample. `pixels`: one a pixel. `span`: where an answer
    begins and ends. `transcript`: a text for a sound. `pairs`: none, for samples are told from each other."""


TASKS = {
    "image-text-to-text": Task("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", ("text", "image"), "tokens"),
    "causal-lm": Task("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", ("text",), "tokens"),
    "speech-seq2seq": Task("MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES", ("sound",), "transcript"),
    "seq2seq-lm": Task("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", ("text",), "tokens"),
    "masked-lm": Task("MODEL_FOR_MASKED_LM_MAPPING_NAMES", ("text",), "tokens"),
    "contrastive": Task("MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES", ("text", "image"), "pairs"),
    "image-classification": Task("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES", ("image",), "sample"),
    "semantic-segmentation": Task("MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES", ("image",), "pixels"),
    "ctc": Task("MODEL_FOR_CTC_MAPPING_NAMES", ("sound",), "transcript"),
    "audio-classification": Task("MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES", ("sound",), "sample"),
    "sequence-classification": Task("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", ("text",), "sample"),
    "token-classification": Task("MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES", ("text",), "tokens"),
    "question-answering": Task("MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES", ("text",), "span"),
}
"""By name. Where a configuration names no class, the first of these that transformers has one for is taken."""
