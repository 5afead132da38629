"""How a model is spread over the ranks of a world: a mesh with named dimensions, and what goes along each. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from memgraph.errors import UsageError, unknown_name

NAMES = ("pp", "replicate", "dp", "cp", "tp")
"""From the outermost: neighbours in `tp` are neighbours in rank, as in torchtitan's `parallel_dims.py`."""
FSDP = ("none", "blocks")
REDUCE_DTYPES = ("fp32", "bf16")
TP_STYLES = (
    "colwise", "rowwise", "colwise_gather_output", "colwise_rep", "rowwise_split_input", "rowwise_rep",
    "embedding_rowwise", "embedding_colwise", "sequence_parallel", "replicate", "replicated_with_grad_allreduce",
)  # fmt: skip
"""Words of a tensor plan, as transformers' `distributed/tensor_parallel.py` registers them, that torch has a style for:
see `memgraph/world/spread.py`."""
MOST = 2**20
"""Ranks in all; what is more is a slip of the keyboard."""


@dataclass(frozen=True)
class Mesh:
    """One rank's view of it.

    Raises:
        UsageError: what is asked for does not go together, or there is no such rank.
    """

    pp: int = 1
    """Stages of a pipeline."""
    replicate: int = 1
    """Copies of what FSDP shards (HSDP)."""
    dp: int = 1
    """Ranks that each have samples of their own; with FSDP they share the states."""
    cp: int = 1
    """Parts that a sequence is cut into; with FSDP they share the states too."""
    tp: int = 1
    """Parts of each layer."""
    fsdp: str = "none"
    """`blocks`: `fully_shard` on each repeated block, then on the rest."""
    reshard: str = "yes"
    """After the forward: `yes`, `no`, or a number of ranks that the parameters stay spread over."""
    reduce_dtype: str | None = None
    """Of the gradients on their way; None for their own."""
    rank: int = 0

    def __post_init__(self) -> None:
        for name in NAMES:
            if not 1 <= getattr(self, name) <= MOST:
                raise UsageError(f"mesh {self.text}: {name} must be a whole number from 1 to {MOST:,}")
        if self.world > MOST:
            raise UsageError(f"mesh {self.text}: {self.world:,} ranks; it may be {MOST:,} at most")
        if not 0 <= self.rank < self.world:
            raise UsageError(f"there is no rank {self.rank} in a world of {self.world}: 0 to {self.world - 1}")
        if self.fsdp not in FSDP:
            raise unknown_name("--fsdp", self.fsdp, FSDP)
        if self.reduce_dtype not in (*REDUCE_DTYPES, None):
            raise unknown_name("--reduce-dtype", str(self.reduce_dtype), REDUCE_DTYPES)
        self._check_shards()

    def _check_shards(self) -> None:
        if self.fsdp == "none":
            for name, value in (("--reshard", self.reshard != "yes"), ("--reduce-dtype", self.reduce_dtype)):
                if value:
                    raise UsageError(f"{name} is of FSDP: add --fsdp blocks")
            if self.replicate > 1:
                raise UsageError("replicate is of FSDP, for copies of what dp shards: add --fsdp blocks")
            if self.shards > 1 and self.tp > 1:
                raise UsageError(f"mesh {self.text}: DDP does not take parameters that tp has cut: add --fsdp blocks")
        elif self.shards == 1:
            raise UsageError(f"mesh {self.text}: FSDP shards over dp and cp: give dp more than 1, or leave --fsdp out")
        if self.reshard.isdecimal() and (not 1 < int(self.reshard) <= self.shards or self.shards % int(self.reshard)):
            raise UsageError(
                f"--reshard {self.reshard}: a number above 1 that divides the {self.shards} ranks of dp·cp"
            )
        if self.reshard not in ("yes", "no") and not self.reshard.isdecimal():
            raise UsageError(f"--reshard {self.reshard}: write yes, no or a number of ranks")

    @property
    def world(self) -> int:
        """Ranks in all."""
        return math.prod(getattr(self, name) for name in NAMES)

    @property
    def shards(self) -> int:
        """Ranks over which FSDP shards, or DDP keeps copies: those with other tokens."""
        return self.dp * self.cp

    @property
    def copies(self) -> int:
        """Ranks that each have samples of their own."""
        return self.replicate * self.dp

    @property
    def sizes(self) -> dict[str, int]:
        """By name, those that are there: of a world of one, `dp` alone."""
        return {name: size for name in NAMES if (size := getattr(self, name)) != 1} or {"dp": 1}

    @property
    def text(self) -> str:
        """As it is given: `dp=8,tp=2`."""
        return ",".join(f"{name}={size}" for name, size in sorted(self.sizes.items(), key=_as_people_say))

    @property
    def stage(self) -> int:
        """Which stage of the pipeline the rank has."""
        return self.rank // (self.world // self.pp)

    def first_of(self, stage: int) -> int:
        """The first rank that has a stage: its shards are the largest."""
        return stage * (self.world // self.pp)

    def settings(self) -> dict[str, str | int | None]:
        """What a trace keeps: plain JSON values."""
        return {"mesh": self.text, "fsdp": self.fsdp, "reshard": self.reshard, "reduce_dtype": self.reduce_dtype}


def _as_people_say(item: tuple[str, int]) -> int:
    return ("replicate", "dp", "tp", "pp", "cp").index(item[0])


def parse_sizes(text: str) -> dict[str, int]:
    """`dp=8,tp=2` by name.

    Raises:
        UsageError: no such dimension, one given twice, or no whole number.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, equals, size = (piece.strip() for piece in part.partition("="))
        if not equals or not size.isdecimal() or not 0 < len(size) < 8:
            raise UsageError(f"--mesh {text}: write it like dp=8,tp=2")
        if name not in NAMES:
            raise unknown_name("dimension of --mesh", name, NAMES)
        if name in sizes:
            raise UsageError(f"--mesh {text}: {name} is given twice")
        sizes[name] = int(size)
    return sizes


def mesh_of(
    text: str | None, world: int | None = None, fsdp: str = "none", reshard: str = "yes",
    reduce_dtype: str | None = None, rank: int = 0,
) -> Mesh | None:  # fmt: skip
    """The mesh of what a person gives; None if it is nothing.

    Args:
        text: `dp=8,tp=2`.
        world: ranks in all: `dp` is what the others leave of it, or agrees with it.

    Raises:
        UsageError: it does not go together.
    """
    if text is None and world is None:
        if (fsdp, reshard, reduce_dtype, rank) != ("none", "yes", None, 0):
            raise UsageError("--fsdp, --reshard, --reduce-dtype and --rank are of a mesh: add --mesh dp=8")
        return None
    sizes = parse_sizes(text) if text is not None else {}
    if world is not None:
        rest = math.prod(size for name, size in sizes.items() if name != "dp") or 1
        if world < 1 or world % rest or sizes.get("dp", world // rest) * rest != world:
            given = f"mesh {text} is not of {world} ranks" if text else f"a world of {world} has no ranks"
            raise UsageError(f"{given}: its sizes must multiply to that" if text else f"{given}: use at least 1")
        sizes["dp"] = world // rest
    return Mesh(**sizes, fsdp=fsdp, reshard=reshard, reduce_dtype=reduce_dtype, rank=rank)
