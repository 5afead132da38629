"""Attention by each backend, encoder layers, grouped and scaled products."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.single_ops.registry import D, bf16, case, f16, f32, make, train

# Attention.


@case(
    "flex_attention",
    shape=((1, 4, 512, 64), (2, 8, 1000, 32)),
    dtype=(bf16, f32),
    way=("plain", "score_mod", "block_mask", "gqa", "training", "training score_mod", "training block_mask", "lse"),
)
def flex(shape, dtype, way):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    training = way.startswith("training")
    q = make(shape, dtype, training)
    heads = shape[1] // 2 if way == "gqa" else shape[1]
    k, v = (make((shape[0], heads, *shape[2:]), dtype, training) for _ in range(2))
    more = {}
    if "score_mod" in way:
        more["score_mod"] = lambda score, b, h, i, j: score + (i - j)
    if "block_mask" in way:
        more["block_mask"] = create_block_mask(lambda b, h, i, j: i >= j, None, None, shape[2], shape[2], device=D)
    if way == "gqa":
        more["enable_gqa"] = True
    if way == "lse":
        more["return_lse"] = True
    call = lambda: flex_attention(q, k, v, **more)
    return train(call, q, k, v) if training else call


@case("create_block_mask", n=(512, 1000, 4096), heads=(None, 4))
def block_mask(n, heads):
    from torch.nn.attention.flex_attention import create_block_mask

    return lambda: create_block_mask(lambda b, h, i, j: i >= j, None, heads, n, n, device=D)


ATTENTION = (
    "plain",
    "causal",
    "mask",
    "bool mask",
    "gqa",
    "dropout",
    "short keys",
    "one query",
    "odd",
    "wide",
    "value width",
)


@case(
    "attention",
    backend=("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"),
    way=ATTENTION,
    training=(False, True),
)
def attention(backend, way, training):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    b, h, s, d = 2, 8, 1000 if way == "odd" else 1024, 256 if way == "wide" else 64
    keys = {"short keys": 77, "one query": 2048}.get(way, s)
    q = make((b, h, 1 if way == "one query" else s, d), bf16, training)
    kv = 2 if way == "gqa" else h
    k = make((b, kv, keys, d), bf16, training)
    v = make((b, kv, keys, 128 if way == "value width" else d), bf16, training)
    more = {"mask": {"attn_mask": make((b, 1, q.shape[2], keys), bf16)}, "bool mask": {"attn_mask": torch.ones(q.shape[2], keys, dtype=torch.bool, device=D)},
            "causal": {"is_causal": True}, "gqa": {"enable_gqa": True}, "dropout": {"dropout_p": 0.125}}.get(way, {})  # fmt: skip

    def call():
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return F.scaled_dot_product_attention(q, k, v, **more)

    return train(call, q, k, v) if training else call


@case(
    "encoder layer in evaluation",
    mask=(None, "padding", "causal"),
    nested=(True, False),
    dtype=(f32, f16),
    norm_first=(False, True),
)
def encoder(mask, nested, dtype, norm_first):
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=norm_first, device=D, dtype=dtype)
    net = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested).eval()
    x = make((4, 32, 64), dtype)
    padding = torch.zeros(4, 32, dtype=torch.bool, device=D)
    padding[:, 20:] = True
    more = {
        "padding": {"src_key_padding_mask": padding},
        "causal": {"mask": torch.nn.Transformer.generate_square_subsequent_mask(32, device=D, dtype=dtype)},
    }

    def call():
        with torch.no_grad():
            return net(x, **more.get(mask, {}))

    return call


# Products.


@case("grouped_mm", dims=("2d 3d", "3d 3d", "2d 2d", "3d 2d"), dtype=(bf16, f16, f32), groups=(4, 8))
def grouped_mm(dims, dtype, groups):
    rows, inner, columns = 1024, 256, 512
    ends = torch.arange(1, groups + 1, device=D, dtype=torch.int32) * (rows // groups)
    if dims == "2d 3d":
        a, b = make((rows, inner), dtype), make((groups, inner, columns), dtype)
    elif dims == "3d 3d":
        a, b, ends = make((groups, rows, inner), dtype), make((groups, inner, columns), dtype), None
    elif dims == "2d 2d":
        a, b = make((inner, rows), dtype), make((rows, columns), dtype)
    else:
        a, b = make((groups, columns, inner), dtype), make((inner, rows), dtype)
    return lambda: torch._grouped_mm(a, b, offs=ends)


@case("grouped_mm of columns", dtype=(bf16,))
def grouped_columns(dtype):
    a = make((1024, 256), dtype, True)
    b = make((8, 512, 256), dtype).transpose(-2, -1).requires_grad_()
    ends = torch.arange(1, 9, device=D, dtype=torch.int32) * 128
    return train(lambda: torch._grouped_mm(a, b, offs=ends), a, b)


@case(
    "scaled_mm",
    shape=((1024, 256, 512), (16, 64, 32), (4096, 4096, 4096)),
    scales=("tensor", "rows"),
    out=(bf16, f32),
    bias=(False, True),
)
def scaled_mm(shape, scales, out, bias):
    m, k, n = shape
    a = make((m, k)).to(torch.float8_e4m3fn)
    b = make((n, k)).to(torch.float8_e4m3fn).t()
    sa, sb = (torch.ones(s, device=D) for s in (((), ()) if scales == "tensor" else ((m, 1), (1, n))))
    c = torch.ones(n, device=D, dtype=bf16) if bias else None
    return lambda: torch._scaled_mm(a, b, sa, sb, bias=c, out_dtype=out)


@case("scaled_grouped_mm", groups=(4, 8))
def scaled_grouped_mm(groups):
    a = make((1024, 256)).to(torch.float8_e4m3fn)
    b = make((groups, 512, 256)).to(torch.float8_e4m3fn).transpose(-2, -1)
    ends = torch.arange(1, groups + 1, device=D, dtype=torch.int32) * (1024 // groups)
    sa, sb = torch.ones(1024, device=D), torch.ones(groups, 512, device=D)
    return lambda: torch._scaled_grouped_mm(a, b, sa, sb, offs=ends, out_dtype=bf16)
