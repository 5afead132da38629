"""torchao: weights in int8, and activations in int8 as they come."""

import copy

import torch
from torch import nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

net = nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024)).to("cuda", torch.bfloat16)
rows = torch.randn(16, 1024, device="cuda", dtype=torch.bfloat16)
for config in (Int8WeightOnlyConfig(), Int8DynamicActivationInt8WeightConfig()):
    before = torch.cuda.memory_allocated()
    model = copy.deepcopy(net)
    quantize_(model, config)
    with torch.no_grad():
        print(type(config).__name__, model(rows).shape, torch.cuda.memory_allocated() - before)
