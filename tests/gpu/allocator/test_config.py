"""PYTORCH_CUDA_ALLOC_CONF, read as torch reads it (asked of torch 2.13 and 2.15: what they answer is noted beside)."""

from __future__ import annotations

import pytest

from memgraph.errors import UsageError
from memgraph.gpu.allocator.config import AllocatorConfig

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
        ("max_split_size_mb:nan", "out of range"),
        ("expandable_segments:true", "neither True nor False"),
        ("backend:cudaMallocAsync", "another allocator"),
        ("max_split_size_mb", "not a setting"),
        ("max_split_size_mb:", "not a setting"),
        ("max_split_size:128", "did you mean max_split_size_mb"),
    ],
)
def test_what_torch_refuses_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse(text)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_size_below_large_segments_is_fine_once_these_are_smaller() -> None:
    assert parse("large_segment_size_mb:16,max_split_size_mb:17").max_split_size == 17 * MIB
