"""Convolutions, forward and backward, as `record.py` runs them."""

import itertools

import torch

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_SHAPES = {  # N, C, H, K, kernel, stride, padding, groups
    "vit224_n1": (1, 3, 224, 768, 16, 16, 0, 1), "vit224_n8": (8, 3, 224, 768, 16, 16, 0, 1),
    "vit224_n12": (12, 3, 224, 768, 16, 16, 0, 1), "vit224_n16": (16, 3, 224, 768, 16, 16, 0, 1),
    "vit384_n8": (8, 3, 384, 768, 16, 16, 0, 1), "vit512_n4": (4, 3, 512, 768, 16, 16, 0, 1),
    "stem_n8": (8, 3, 224, 64, 7, 2, 3, 1), "stem_n32": (32, 3, 224, 64, 7, 2, 3, 1),
    "cifar_n64": (64, 3, 32, 64, 3, 1, 1, 1), "res3x3_64": (32, 64, 56, 64, 3, 1, 1, 1),
    "res3x3_128s2": (32, 128, 56, 128, 3, 2, 1, 1), "res3x3_256": (32, 256, 14, 256, 3, 1, 1, 1),
    "res3x3_512": (16, 512, 7, 512, 3, 1, 1, 1), "res1x1_64_256": (32, 64, 56, 256, 1, 1, 0, 1),
    "res1x1_s2": (32, 256, 56, 512, 1, 2, 0, 1), "unet3x3": (4, 320, 64, 320, 3, 1, 1, 1),
    "odd": (5, 13, 33, 27, 3, 1, 1, 1), "group32": (8, 128, 28, 128, 3, 1, 1, 32),
    "depthwise": (32, 96, 56, 96, 3, 1, 1, 96), "depthwise7": (32, 96, 56, 96, 7, 1, 3, 96),
}  # fmt: skip


def _prepare(shape, dtype, channels_last, backward):
    n, c, h, k, size, stride, padding, groups = shape

    def prepare():
        layout = torch.channels_last if channels_last else torch.contiguous_format
        x = torch.randn(n, c, h, h, device="cuda", dtype=dtype).to(memory_format=layout)
        w = torch.randn(k, c // groups, size, size, device="cuda", dtype=dtype).to(memory_format=layout)
        b = torch.randn(k, device="cuda", dtype=dtype)
        forward = (x, w, b, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups)
        if not backward:
            return lambda: torch.ops.aten.convolution(*forward)
        grad = torch.randn_like(torch.ops.aten.convolution(*forward))
        return lambda: torch.ops.aten.convolution_backward(
            grad, x, w, [k], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, [c > 3, True, True]
        )

    return prepare


def cases():
    for (name, shape), (kind, dtype), last, backward in itertools.product(
        _SHAPES.items(), _DTYPES.items(), (False, True), (False, True)
    ):
        label = f"conv {name} {kind} {'nhwc' if last else 'nchw'} {'backward' if backward else 'forward'}"
        yield label, _prepare(shape, dtype, last, backward)
