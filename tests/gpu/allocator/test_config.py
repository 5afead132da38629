"""PYTORCH_CUDA_ALLOC_CONF, read as torch reads it (asked of torch 2.13 and 2.15: what they answer is noted beside)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memgraph.errors import UsageError
from memgraph.gpu.allocator.config import AllocatorConfig
from tests.fuzzing import seeded

MIB = 2**20
parse = AllocatorConfig.parse


def test_an_empty_text_is_the_defaults() -> None:
    assert parse("") == AllocatorConfig()
    config = AllocatorConfig()
    assert config.max_split_size is None
    assert config.max_non_split_rounding == config.large_segment_size == 20 * MIB
    assert (config.garbage_collection_threshold, config.per_process_memory_fraction) == (0.0, 1.0)
    assert config.roundup_power2_divisions == ()
    assert not config.expandable_segments


def test_settings_are_separated_by_commas_and_may_have_spaces() -> None:
    config = parse("max_split_size_mb : 128 , expandable_segments:True,garbage_collection_threshold:0.8,")
    assert config == AllocatorConfig(
        max_split_size=128 * MIB, expandable_segments=True, garbage_collection_threshold=0.8
    )


def test_settings_of_other_things_have_no_effect() -> None:
    text = (
        "backend:native,pinned_num_register_threads:8,pinned_use_background_threads:True,throw_on_cudamalloc_oom:True"
    )
    assert parse(text) == AllocatorConfig()


def test_a_larger_segment_is_also_how_much_may_be_rounded_unless_that_is_said() -> None:
    assert parse("large_segment_size_mb:30").max_non_split_rounding == 30 * MIB
    for text in (
        "large_segment_size_mb:30,max_non_split_rounding_mb:40",
        "max_non_split_rounding_mb:40,large_segment_size_mb:30",
    ):
        assert parse(text).max_non_split_rounding == 40 * MIB


def test_one_number_of_divisions_is_for_all_sizes() -> None:
    config = parse("roundup_power2_divisions:4")
    assert {config.divisions_of(size) for size in (1000, MIB, 300 * MIB, 2**40)} == {4}
    assert AllocatorConfig().divisions_of(MIB) == 0


@pytest.mark.parametrize(
    ("text", "mib", "divisions"),
    [
        # An entry is for sizes from its own up to the next power of two, the first one for all below it too.
        *(("[256:1,512:2,>:8]", mib, 1) for mib in (0, 1, 255, 256, 300, 511)),
        *(("[256:1,512:2,>:8]", mib, 2) for mib in (512, 600, 1023)),
        *(("[256:1,512:2,>:8]", mib, 8) for mib in (1024, 3000, 65536, 200000)),
        # What no entry names is not divided.
        *(("[64:2,256:4]", mib, 2) for mib in (0, 63, 64, 127)),
        *(("[64:2,256:4]", mib, 0) for mib in (128, 200, 255, 512, 65536)),
        *(("[64:2,256:4]", mib, 4) for mib in (256, 511)),
        # In the order in which they are written.
        *(("[512:2,256:4]", mib, 2) for mib in (1, 255, 512, 1023)),
        *(("[512:2,256:4]", mib, 4) for mib in (256, 511)),
        *(("[512:2,256:4]", mib, 0) for mib in (1024, 65536)),
        # `>` alone leaves the first interval out.
        ("[>:8]", 1, 0),
        ("[>:8]", 2, 8),
        # 32 GiB and all above are one interval; 0 is for none.
        ("[32768:2]", 200000, 2),
        ("[1:0,>:2]", 1, 0),
    ],
)
def test_divisions_of_each_interval(text: str, mib: int, divisions: int) -> None:
    assert parse(f"roundup_power2_divisions:{text}").divisions_of(mib * MIB or 1000) == divisions


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_split_size_mb:19", "from 20 "),
        ("large_segment_size_mb:30,max_split_size_mb:29", "from 30 "),
        ("max_non_split_rounding_mb:5", "from 20 "),
        ("large_segment_size_mb:10", "from 11 "),
        ("garbage_collection_threshold:0", "above 0 and below 1"),
        ("garbage_collection_threshold:1.0", "above 0 and below 1"),
        ("per_process_memory_fraction:1.5", "from 0 to 1"),
        ("roundup_power2_divisions:3", "3 is not a power of two"),
        ("roundup_power2_divisions:0", "from 1 "),
        ("roundup_power2_divisions:[3:2]", "3 is not a power of two"),
        ("roundup_power2_divisions:[256:x]", "x is not a number"),
        ("max_split_size_mb:nan", "must be a whole one"),
        ("expandable_segments:true", "neither True nor False"),
        ("backend:cudaMallocAsync", "another allocator"),
        ("max_split_size_mb", "not a setting"),
        ("max_split_size_mb:", "not a setting"),
        ("max_split_size:128", "did you mean max_split_size_mb"),
        ("[", "not a setting"),
        ("a:[", "list without its end"),
        ("[abc", "not a setting"),
        ("max_split_size_mb:[64", "list without its end"),
        ("max_split_size_mb:[64]", "no list"),
        ("roundup_power2_divisions:[256]", "no list of divisions"),
        ("roundup_power2_divisions:[256:1:2]", "no list of divisions"),
        ("max_split_size_mb:1e3", "must be a whole one"),
        ("max_split_size_mb:99999999999999999999999", "out of range"),
        ("max_split_size_mb:64:3", "separated by commas"),
        ("max_split_size_mb:64 expandable_segments:True", "must be a whole one"),
        ("max_split_size_mb:64,,expandable_segments:True", "not a setting"),
        (",", "not a setting"),
        ("garbage_collection_threshold:nan", "is not a number"),
        ("pinned_use_background_threads:yes", "neither True nor False"),
    ],
)
def test_what_torch_refuses_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse(text)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_size_below_large_segments_is_fine_once_these_are_smaller() -> None:
    assert parse("large_segment_size_mb:16,max_split_size_mb:17").max_split_size == 17 * MIB


# Against torch's own parser, which every build has: `torch._C._accelerator_setAllocatorSettings`. What reads the keys
# of CUDA alone is not in a CPU-only build, which passes over them.

PIECES = st.sampled_from(
    [*",:[]", " ", "max_split_size_mb", "expandable_segments", "roundup_power2_divisions", "max_split_size_mb:64",
     "garbage_collection_threshold", "large_segment_size_mb:16", "True", "False", "64", "256:1", "[256:1,512:2]", ">:8",
     "0.5", "1e3", "-1", "nan", "x", "3", "pinned_use_background_threads", "per_process_memory_fraction:0.5"]
)  # fmt: skip


@pytest.fixture
def torchs_parser() -> Iterator[Callable[[str], None]]:
    parse_settings = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    if parse_settings is None:
        pytest.skip(f"torch {torch.__version__} does not show its parser")
    yield parse_settings
    parse_settings("large_segment_size_mb:20,expandable_segments:False,pinned_use_background_threads:False")
    parse_settings("")


@seeded(2000)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_what_is_taken_here_torch_takes_too(torchs_parser: Callable[[str], None], text: str) -> None:
    torchs_parser("large_segment_size_mb:20")
    try:
        parse(text)
    except UsageError:
        return
    torchs_parser(text)


@pytest.mark.parametrize(
    "text",
    ["max_split_size_mb : 6 4", "roundup_power2_divisions:[]", "roundup_power2_divisions:[256:1,]",
     "max_split_size_mb:64,",
     "roundup_power2_divisions:[>:8,256:1]", "garbage_collection_threshold:.5", "per_process_memory_fraction:0"],
)  # fmt: skip
def test_what_is_odd_and_right_is_taken(torchs_parser: Callable[[str], None], text: str) -> None:
    torchs_parser(text)
    parse(text)


def test_what_is_left_out_takes_nothing_away() -> None:
    assert parse("max_split_size_mb : 6 4").max_split_size == 64 * MIB
    assert set(parse("roundup_power2_divisions:[]").roundup_power2_divisions) == {0}
