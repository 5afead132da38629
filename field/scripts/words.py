"""A tokenizer and texts made here: nothing is downloaded."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "saw",
    "ran",
    "to",
    "from",
    "house",
    "river",
    "and",
    "then",
    "it",
    "was",
    "small",
    "big",
    "red",
    "blue",
    "slowly",
    "home",
]
TEMPLATE = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} </s> {% endfor %}"


def tokenizer() -> PreTrainedTokenizerFast:
    """One number for each word, and the special ones."""
    names = ["<pad>", "<s>", "</s>", "<unk>", "user", "assistant", ":", *WORDS]
    inner = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        chat_template=TEMPLATE,
    )  # fmt: skip


def sentence(number: int, length: int = 24) -> str:
    """The same words for the same number."""
    return " ".join(WORDS[(number * 7 + place * (number % 5 + 1)) % len(WORDS)] for place in range(length))
