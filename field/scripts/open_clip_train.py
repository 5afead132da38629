"""open_clip: a small CLIP and its contrastive loss."""

import open_clip
import torch
from figures import size, states, told
from open_clip.loss import ClipLoss
from open_clip.model import CLIP

model = CLIP(
    64, {"image_size": 64, "layers": 2, "width": 128, "patch_size": 16},
    {"context_length": 16, "vocab_size": 1000, "width": 64, "heads": 4, "layers": 2},
).cuda()  # fmt: skip
optimizer, judge = torch.optim.AdamW(model.parameters(), 1e-3), ClipLoss()
for _ in range(2):
    images, texts = torch.randn(8, 3, 64, 64, device="cuda"), torch.randint(1, 1000, (8, 16), device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        loss = judge(*model(images, texts))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, 4.6052)
print(loss.item(), open_clip.__version__)
told(parameters=size(model.parameters()), optimizer_state=states(optimizer))
