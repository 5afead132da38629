"""How long one rank of a world takes, and how much memory here: it should not grow with the world.

python -m benchmarks.speed.world 8 1024         a decoder of the size of Llama 3.1 8B under FSDP2, two steps
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = """
import os, torch, torch.distributed as dist, torch.nn.functional as F
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.n1, self.n2 = nn.RMSNorm(4096), nn.RMSNorm(4096)
        self.q, self.k, self.v, self.o = (nn.Linear(4096, n, bias=False) for n in (4096, 1024, 1024, 4096))
        self.up, self.gate, self.down = (nn.Linear(a, b, bias=False) for a, b in
                                         ((4096, 14336), (4096, 14336), (14336, 4096)))

    def forward(self, x):
        batch, length, _ = x.shape
        h = self.n1(x)
        q, k, v = (p(h).view(batch, length, -1, 128).transpose(1, 2) for p in (self.q, self.k, self.v))
        k, v = k.repeat_interleave(4, dim=1), v.repeat_interleave(4, dim=1)
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape))
        h = self.n2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))

dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
with torch.device("meta"):
    model = nn.Sequential(nn.Embedding(128256, 4096), *[checkpoint_wrapper(Block()) for _ in range(32)],
                          nn.RMSNorm(4096), nn.Linear(4096, 128256, bias=False))
policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
for block in model[1:-2]:
    fully_shard(block, mp_policy=policy)
fully_shard(model, mp_policy=policy)
model.to_empty(device="cuda")
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(2):
    tokens = torch.randint(0, 128256, (2, 8192), device="cuda")
    F.cross_entropy(model(tokens).flatten(0, 1).float(), tokens.flatten()).backward()
    optimizer.step()
    optimizer.zero_grad()
"""


def main() -> None:
    for world in sys.argv[1:] or ("8", "1024"):
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder, "train.py")
            script.write_text(SCRIPT)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, "-m", "memgraph", "run", "--world", world, "--gpu", "h100", "--format", "none"]
            subprocess.run([*command, str(script)], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds, most = after.ru_utime - before.ru_utime, after.ru_maxrss / 2**20
        print(f"world {world}: {seconds:.1f} s of user time, {most:.2f} GiB at most so far")


if __name__ == "__main__":
    main()
