"""Names, settings as text, and a user's own factory."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from memgraph.errors import UsageError
from memgraph.models.job import Job, OwnStep, feed
from memgraph.models.nanovlm_config import NANOVLM_222M
from memgraph.models.registry import resolve
from memgraph.models.settings import apply_settings
from tests import ROOT

FACTORIES = """
    from __future__ import annotations
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.layer = nn.Linear(width, 1)
        def forward(self, x, scale=1.0):
            y = self.layer(x)
            return y, (y * scale).sum()

    def pair(batch: int = 2, width: int = 3, scale: float = 1.0):
        return Model(width), {"x": torch.ones(batch, width), "scale": scale}

    def in_order(seq):
        return Model(seq), [torch.ones(1, seq)]

    def alone():
        return nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), torch.ones(1, 3)

    def step():
        return lambda: print("stepped")

    def no_batch(): return Model(3)
    def no_loss(): return nn.Linear(3, 3), torch.ones(2, 3)
    def nothing(): return None
    constant = 7
"""


@pytest.fixture(autouse=True)
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module `theirs` in the working folder, as a user has it."""
    (tmp_path / "theirs.py").write_text(textwrap.dedent(FACTORIES))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("theirs", None)


def own(target: str, batch: int | None = None, seq: int | None = None, **settings: str) -> Job | OwnStep:
    return resolve(target).build(settings, batch, seq)


def own_job(target: str, batch: int | None = None, seq: int | None = None, **settings: str) -> Job:
    job = own(target, batch, seq, **settings)
    assert isinstance(job, Job)
    return job


def refusal(target: str, batch: int | None = None, seq: int | None = None, **settings: str) -> str:
    with pytest.raises(UsageError) as error:
        own(target, batch, seq, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_preset_by_name() -> None:
    entry = resolve("nanovlm-222m")
    assert (entry.name, entry.default_seq) == ("nanovlm-222m", 512)
    assert resolve("nanovlm-460m").default_seq == 4096


def test_a_mistyped_preset() -> None:
    with pytest.raises(UsageError, match="unknown model 'nanovlm-220m': did you mean nanovlm-222m"):
        resolve("nanovlm-220m")


def test_what_was_chosen_is_plain_data() -> None:
    job = own_job("nanovlm-222m", vit_img_size="256", vit_attention="manual")
    chosen = json.loads(json.dumps(job.settings))
    assert (chosen["model"], chosen["batch"], chosen["seq"]) == ("nanovlm-222m", 8, 512)
    assert (chosen["vit_img_size"], chosen["vit_attention"], chosen["lm_attention"]) == (256, "manual", None)


def test_seq_is_the_longest_sample() -> None:
    assert own_job("nanovlm-222m", seq=128).settings["lm_max_length"] == 128
    assert own_job("nanovlm-222m", lm_max_length="128").settings["seq"] == 128
    assert (
        refusal("nanovlm-222m", seq=128, lm_max_length="256")
        == "seq 128 contradicts lm_max_length=256: give one of them"
    )


def test_sizes_of_zero_are_refused() -> None:
    assert refusal("nanovlm-222m", batch=0).startswith("a batch of 0")
    assert refusal("nanovlm-222m", seq=0).startswith("lm_max_length=0 is too small")


def test_settings_take_the_type_of_their_field() -> None:
    text = {"vit_img_size": "256", "lm_dropout": "0.1", "lm_tie_weights": "false", "vit_attention": "manual"}
    config = apply_settings(NANOVLM_222M, text)
    assert (config.vit_img_size, config.lm_dropout, config.lm_tie_weights) == (256, 0.1, False)
    assert config.vit_attention == "manual"
    assert apply_settings(config, {"vit_attention": "none"}).vit_attention is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("vit_image_size", "256", "unknown setting 'vit_image_size': did you mean vit_img_size"),
        ("vit_img_size", "big", "vit_img_size=big is not a whole number"),
        ("vit_img_size", "2.5", "vit_img_size=2.5 is not a whole number"),
        ("lm_dropout", "some", "lm_dropout=some is not a number"),
        ("lm_tie_weights", "maybe", "lm_tie_weights=maybe is neither true nor false"),
        ("attention", "sdp", "unknown value of attention 'sdp': did you mean sdpa?"),
        ("lm_attention", "manuel", "unknown value of lm_attention 'manuel': did you mean manual?"),
    ],
)
def test_settings_that_make_no_sense(name: str, text: str, message: str) -> None:
    assert refusal("nanovlm-222m", None, None, **{name: text}).startswith(message)


def test_a_factory_of_ones_own() -> None:
    """Weights of 3 and a bias over 4 rows of ones, doubled: the loss is 2 × 4 × (w1 + w2 + w3 + b)."""
    job = own_job("theirs:pair", batch=4, scale="2.0")
    model, inputs = job.model(), job.inputs()
    kept, loss = job.forward(model, inputs)
    assert inputs["x"].shape == (4, 3)
    assert loss.item() == pytest.approx(8 * sum(p.sum().item() for p in model.parameters()), rel=1e-5)
    assert kept[0].shape == (4, 1)
    assert job.settings == {"model": "theirs:pair", "scale": 2.0, "batch": 4}


def test_a_factory_may_hand_over_a_sequence_or_a_tensor() -> None:
    job = own_job("theirs:in_order", seq=5)
    assert job.forward(job.model(), job.inputs())[1].shape == ()
    job = own_job("theirs:alone")
    assert job.forward(job.model(), job.inputs())[1].numel() == 1


def test_a_factory_may_hand_over_its_own_step(capsys: pytest.CaptureFixture[str]) -> None:
    job = own("theirs:step")
    assert isinstance(job, OwnStep)
    job.step()
    assert capsys.readouterr().out == "stepped\n"


def test_a_model_is_built_where_the_caller_says() -> None:
    with torch.device("meta"):
        job = own_job("theirs:pair")
    assert next(job.model().parameters()).device.type == "meta"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("theirs:", "'theirs:' names no function: write package.module:factory"),
        ("theirz:pair", "no module named 'theirz': run where it lies, or install it"),
        ("theirs.more:pair", "no module named 'theirs.more'"),
        ("theirs:pear", "unknown function of theirs 'pear': did you mean pair"),
        ("theirs:constant", "theirs:constant is a int: name a function"),
        ("theirs:no_batch", "theirs:no_batch returns a model without a batch: return (model, batch)"),
        ("theirs:nothing", "theirs:nothing returns a NoneType: return (model, batch), or a step to call"),
        ("theirs:in_order", "theirs:in_order needs seq: give --seq N"),
    ],
)
def test_factories_that_cannot_be_used(target: str, message: str) -> None:
    assert refusal(target).startswith(message)


def test_a_factory_is_only_given_what_it_takes() -> None:
    assert refusal("theirs:pair", seq=5).startswith("theirs:pair takes no seq: leave it out, or give the function")
    assert refusal("theirs:pair", widht="5").startswith("unknown setting of theirs:pair 'widht': did you mean width")
    assert refusal("theirs:pair", width="wide").startswith("width=wide is not a whole number")


def test_a_model_without_a_loss() -> None:
    job = own_job("theirs:no_loss")
    with pytest.raises(UsageError, match="must return its loss as one scalar"):
        job.forward(job.model(), job.inputs())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_library", "importing broken failed: it needs 'no_such_library', which is not installed"),
        ("raise ValueError('two\\nlines')", "importing broken failed: ValueError: two lines"),
        ("def f(:", "importing broken failed: SyntaxError"),
        ("raise SystemExit('usage')", "importing broken failed: SystemExit: usage"),
    ],
)
def test_a_module_that_does_not_import_gives_one_line(user_module: Path, source: str, message: str) -> None:
    (user_module / "broken.py").write_text(source)
    assert refusal("broken:f").startswith(message)


def test_inputs_replace_each_other_one_at_a_time() -> None:
    """Tensors move to the device; what is not a tensor goes to the model as it is."""
    batch: dict[str, object] = {}
    feed(batch, {"x": torch.ones(2), "images": [[torch.ones(1)]]}, "meta")
    assert isinstance(batch["x"], torch.Tensor) and batch["x"].device.type == "meta"
    assert batch["images"] == [[torch.ones(1)]]


def test_naming_a_model_does_not_import_torch() -> None:
    code = "import memgraph.models.registry as r, sys; r.resolve('nanovlm-222m'); print('torch' in sys.modules)"
    root = ROOT
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
