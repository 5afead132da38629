"""The graph of the layers: what passes between them, what they keep, and whose backward frees it."""

from __future__ import annotations

from memgraph.analyze.module_graph import OUTSIDE, module_graph
from memgraph.render.dot_modules import modules
from memgraph.trace import Category, TensorSpec, Trace
from tests.conftest import Tape
from tests.render.drawn import run


def by_hand() -> Trace:
    """Layers a.0 and a.1, each keeping 1,024 bytes that its own backward frees; a loss that keeps 512, freed in the
    backward of a.1, and 256 that stay."""
    tape = Tape()
    half = TensorSpec((2, 128), "bfloat16")  # 512 bytes
    tape.phase("forward", 1)
    kept = []
    for layer in range(2):
        tape.op("aten.mm.default", module=f"a.{layer}.linear")
        tape.ops[-1] = tape.ops[-1]._replace(outputs=(half,), reads=(layer - 1,) if layer else ())
        if not layer:
            tape.segment(8192)
        kept.append(tape.alloc(1024, Category.ACTIVATION))
    tape.op("aten.loss.default")
    tape.ops[-1] = tape.ops[-1]._replace(reads=(1, 1))
    loss, stays = tape.alloc(512, Category.ACTIVATION), tape.alloc(256, Category.ACTIVATION)
    tape.free(tape.alloc(2048, Category.TEMPORARY))
    tape.phase("backward", 1)
    for layer in (1, 0):
        tape.op("aten.mm.default", module=f"a.{layer}.linear", forward=layer)
        if layer:
            tape.free(loss)
        tape.free(kept[layer])
    assert stays == 3
    return tape.trace()


def test_by_hand() -> None:
    graph = module_graph(by_hand())
    assert [(layer.name, layer.kept, layer.buffers) for layer in graph.layers] == [
        ("a.0 … 1", 2048, 2), (OUTSIDE, 768, 2),
    ]  # fmt: skip
    assert graph.layers[0].modules == ("a.0", "a.1")
    assert graph.passes == ((0, 1, 512),)  # read twice by the loss, passed once; a.0 to a.1 is inside the layer
    assert graph.needs == ((0, 0, 2048), (1, 0, 512))
    assert graph.left == 256


def test_nothing_is_lost_on_nanovlm() -> None:
    """What the layers keep is what the forward left: freed in somebody's backward, or left over."""
    trace = run()
    graph = module_graph(trace)
    assert sum(layer.kept for layer in graph.layers) == sum(link.bytes for link in graph.needs) + graph.left
    forward = next(phase for phase in trace.phases if (phase.name, phase.step) == ("forward", graph.step))
    before, after = trace.live_at(forward.start - 1), trace.live_at(forward.stop - 1)
    made = sum(trace.buffers[index].size for index in set(after) - set(before) if trace.buffers[index].role == "output")
    assert sum(layer.kept for layer in graph.layers) == made
    names = [layer.name for layer in graph.layers]
    assert "decoder.blocks.0 … 1" in names and "decoder.head" in names


def test_what_passes_between_blocks_is_the_stream() -> None:
    """[2, 128, 576] in fp32 from the blocks to the last norm."""
    graph = module_graph(run())
    place = {layer.name: index for index, layer in enumerate(graph.layers)}
    passed = {(link.start, link.stop): link.bytes for link in graph.passes}
    assert passed[place["decoder.blocks.0 … 1"], place["decoder.norm"]] == 2 * 128 * 576 * 4


def test_a_run_without_a_backward_has_no_graph(tape: Tape) -> None:
    tape.phase("forward", 1)
    tape.op("aten.mm.default", module="a")
    tape.segment(2048)
    tape.alloc(512, Category.ACTIVATION)
    assert module_graph(tape.trace()).layers == ()


def test_the_picture_has_every_layer_twice_and_every_link_once() -> None:
    graph = module_graph(run())
    source = modules(graph).source
    assert source.count('id="layer-') + source.count("id=layer-") + source.count('id="backward-') == 2 * len(
        graph.layers
    )
    assert source.count('id="passes-') == len(graph.passes) and source.count('id="keeps-') == len(graph.needs)
