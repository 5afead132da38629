"""The catalogue of GPUs: memory, compute capability, and what kernels and rooflines depend on.

Memory is what `torch.cuda.get_device_properties().total_memory` reports, which is less than the nominal figure. The
H200's and H100's were measured; the others are the "total capacity" that torch's out-of-memory messages print for
these cards, to two decimals of a GiB, or what logs of training on Linux print of `total_memory` (Ultralytics' banner:
an RTX 4060 Laptop GPU has 7806 MiB, an RTX 4070 Ti SUPER 16069, an RTX 4070 Ti 12007, a 4080 SUPER 15944, a 4060 Ti
of 8 GB 7806, a 5060 Ti of 16 GB 15848, a TITAN RTX 24220; an RTX 3050 Laptop GPU 3953393664 bytes, an RTX 4060
8318222336), those of slices NVIDIA's MIG User Guide's. Newer drivers keep more for themselves: an RTX 3080 Ti was
seen with 12054 and with 11911 MiB. Where neither was found it is what the nearest card of the same size has
(`from_nearest`): a machine's own figure is better, see `card_file.py`. Rates are the makers' dense figures with fp32
accumulation.
"""

from __future__ import annotations

import dataclasses
import re

from memgraph.errors import UsageError, unknown_name
from memgraph.gpu.card_file import is_file, read
from memgraph.gpu.spec import GIB, MIB, GpuSpec

__all__ = ["GIB", "MIB", "GpuSpec", "all_gpus", "find"]


def _card(
    name: str,
    title: str,
    gib: float,
    capability: tuple[int, int],
    sms: int,
    l2_mib: int,
    gb_s: float,
    half: float,
    single: float,
    nearest: bool = False,
) -> GpuSpec:
    return GpuSpec(
        name, f"NVIDIA {title}", int(gib * GIB), capability, sms, l2_mib * MIB, gb_s * 1e9, half * 1e12, single * 1e12,
        nearest,
    )  # fmt: skip


def _slice(whole: str, part: str, gib: float, sms: int, share: float) -> GpuSpec:
    """A MIG slice: its own memory and multiprocessors, a share of the rest."""
    card = next(card for card in _WHOLE if card.name == whole)
    return dataclasses.replace(
        card, name=f"{whole}-{part}", title=f"{card.title} MIG {part}", memory=int(gib * GIB), sms=sms,
        l2=int(card.l2 * share), bandwidth=card.bandwidth * share, half_rate=card.half_rate * sms / card.sms,
        float_rate=card.float_rate * sms / card.sms,
    )  # fmt: skip


_WHOLE = (
    _card("p100", "Tesla P100-PCIE-16GB", 15.90, (6, 0), 56, 4, 732, 9.3, 9.3),
    _card("gtx1060", "GeForce GTX 1060 6GB", 5.93, (6, 1), 10, 1, 192, 4.4, 4.4),
    _card("gtx1070", "GeForce GTX 1070", 7.93, (6, 1), 15, 2, 256, 6.5, 6.5),
    _card("gtx1080", "GeForce GTX 1080", 7.92, (6, 1), 20, 2, 320, 8.9, 8.9),
    _card("gtx1080ti", "GeForce GTX 1080 Ti", 10.92, (6, 1), 28, 2, 484, 11.3, 11.3),
    _card("gtx1650", "GeForce GTX 1650", 3.81, (7, 5), 14, 1, 128, 6.0, 3.0),
    _card("gtx1660ti", "GeForce GTX 1660 Ti", 5.81, (7, 5), 24, 1, 288, 10.9, 5.4),
    _card("rtx2060", "GeForce RTX 2060", 5.79, (7, 5), 30, 3, 336, 25.8, 6.5),
    _card("rtx2070", "GeForce RTX 2070", 7.79, (7, 5), 36, 4, 448, 29.9, 7.5),
    _card("rtx2080", "GeForce RTX 2080", 7.79, (7, 5), 46, 4, 448, 40.3, 10.1),
    _card("rtx2080ti", "GeForce RTX 2080 Ti", 10.76, (7, 5), 68, 5, 616, 53.8, 13.4),
    _card("titan-rtx", "TITAN RTX", 23.65, (7, 5), 72, 6, 672, 130.5, 16.3),
    _card("quadro-rtx8000", "Quadro RTX 8000", 47.46, (7, 5), 72, 6, 672, 130.5, 16.3, True),
    _card("titan-v", "TITAN V", 11.78, (7, 0), 80, 4, 653, 110.0, 14.9),
    _card("rtx3050", "GeForce RTX 3050", 7.79, (8, 6), 20, 2, 224, 18.2, 9.1, True),
    _card("rtx3050-laptop", "GeForce RTX 3050 Laptop GPU", 3.68, (8, 6), 16, 2, 192, 14.0, 7.0),
    _card("rtx3060-laptop", "GeForce RTX 3060 Laptop GPU", 5.80, (8, 6), 30, 3, 336, 21.8, 10.9),
    _card("rtx3060ti", "GeForce RTX 3060 Ti", 7.79, (8, 6), 38, 4, 448, 32.4, 16.2, True),
    _card("rtx3070-laptop", "GeForce RTX 3070 Laptop GPU", 7.79, (8, 6), 40, 4, 448, 31.9, 15.9, True),
    _card("rtx3070ti", "GeForce RTX 3070 Ti", 7.65, (8, 6), 48, 4, 608, 43.5, 21.7),
    _card("rtx3080-12gb", "GeForce RTX 3080 12GB", 11.76, (8, 6), 70, 6, 912, 61.3, 30.6, True),
    _card("rtx3080ti", "GeForce RTX 3080 Ti", 11.77, (8, 6), 80, 6, 912, 68.2, 34.1),
    _card("rtx3090ti", "GeForce RTX 3090 Ti", 23.57, (8, 6), 84, 6, 1008, 80.0, 40.0),
    _card("rtx4050-laptop", "GeForce RTX 4050 Laptop GPU", 5.80, (8, 9), 20, 12, 192, 24.0, 12.1, True),
    _card("rtx4060", "GeForce RTX 4060", 7.74, (8, 9), 24, 24, 272, 30.2, 15.1),
    _card("rtx4060-laptop", "GeForce RTX 4060 Laptop GPU", 7.62, (8, 9), 24, 32, 256, 29.0, 14.6),
    _card("rtx4060ti-8gb", "GeForce RTX 4060 Ti 8GB", 7.62, (8, 9), 34, 32, 288, 44.1, 22.1),
    _card("rtx4070-laptop", "GeForce RTX 4070 Laptop GPU", 7.62, (8, 9), 36, 32, 256, 40.0, 20.0),
    _card("rtx4070super", "GeForce RTX 4070 SUPER", 11.72, (8, 9), 56, 48, 504, 71.0, 35.5, True),
    _card("rtx4070ti", "GeForce RTX 4070 Ti", 11.72, (8, 9), 60, 48, 504, 80.2, 40.1),
    _card("rtx4070tisuper", "GeForce RTX 4070 Ti SUPER", 15.69, (8, 9), 66, 48, 672, 88.2, 44.1),
    _card("rtx4080-laptop", "GeForce RTX 4080 Laptop GPU", 11.72, (8, 9), 58, 48, 432, 66.0, 33.0, True),
    _card("rtx4080super", "GeForce RTX 4080 SUPER", 15.57, (8, 9), 80, 64, 736, 104.4, 52.2),
    _card("rtx4090-laptop", "GeForce RTX 4090 Laptop GPU", 15.70, (8, 9), 76, 64, 576, 79.0, 39.7, True),
    _card("rtx5060", "GeForce RTX 5060", 7.63, (12, 0), 30, 32, 448, 38.4, 19.2, True),
    _card("rtx5060ti", "GeForce RTX 5060 Ti", 15.47, (12, 0), 36, 32, 448, 47.4, 23.7),
    _card("rtx5070ti", "GeForce RTX 5070 Ti", 15.47, (12, 0), 70, 64, 896, 87.9, 43.9),
    _card("rtx5090-laptop", "GeForce RTX 5090 Laptop GPU", 23.64, (12, 0), 82, 64, 896, 96.0, 48.0, True),
    _card("a2", "A2", 14.58, (8, 6), 10, 2, 200, 18.0, 4.5, True),
    _card("a30", "A30", 23.53, (8, 0), 56, 24, 933, 165.0, 10.3),
    _card("rtxa4000", "RTX A4000", 15.61, (8, 6), 48, 4, 448, 76.7, 19.2),
    _card("rtxa4500", "RTX A4500", 19.60, (8, 6), 56, 6, 640, 94.6, 23.7, True),
    _card("rtxa5000", "RTX A5000", 23.69, (8, 6), 64, 6, 768, 111.1, 27.8, True),
    _card("rtxa5500", "RTX A5500", 23.69, (8, 6), 80, 6, 768, 136.4, 34.1, True),
    _card("rtx2000ada", "RTX 2000 Ada Generation", 15.61, (8, 9), 22, 12, 224, 48.0, 12.0, True),
    _card("rtx4000ada", "RTX 4000 Ada Generation", 19.54, (8, 9), 48, 48, 360, 106.8, 26.7),
    _card("rtx4500ada", "RTX 4500 Ada Generation", 23.53, (8, 9), 60, 48, 432, 158.5, 39.6, True),
    _card("rtx5000ada", "RTX 5000 Ada Generation", 31.36, (8, 9), 100, 64, 576, 261.1, 65.3, True),
    _card("rtx6000ada", "RTX 6000 Ada Generation", 44.43, (8, 9), 142, 96, 960, 364.2, 91.1),
    _card("rtxpro6000", "RTX PRO 6000 Blackwell Workstation Edition", 94.97, (12, 0), 188, 128, 1792, 503.8, 125.0),
    _card("h20", "H20", 95.00, (9, 0), 78, 60, 4000, 148.0, 44.0),
    _card("h800", "H800", 79.10, (9, 0), 132, 50, 3350, 989.0, 66.9, True),
    _card("h100-pcie", "H100 PCIe", 79.10, (9, 0), 114, 50, 2039, 756.0, 51.2),
    _card("h100-nvl", "H100 NVL", 93.10, (9, 0), 132, 50, 3938, 835.0, 60.0, True),
    _card("a800-80gb", "A800-SXM4-80GB", 79.14, (8, 0), 108, 40, 2039, 312.0, 19.5, True),
    _card("gh200", "GH200 480GB", 94.50, (9, 0), 132, 50, 4000, 989.0, 66.9, True),
    _card("gb200", "GB200", 184.00, (10, 0), 148, 126, 8000, 2500.0, 80.0, True),
    _card("b300", "B300", 267.70, (10, 3), 148, 126, 8000, 2500.0, 76.0, True),
    _card("orin-64gb", "Jetson AGX Orin 64GB", 61.40, (8, 7), 16, 4, 204, 10.6, 5.3, True),
    _card("rtx3060", "GeForce RTX 3060", 11.76, (8, 6), 28, 3, 360, 25.5, 12.7),
    _card("rtx3070", "GeForce RTX 3070", 7.79, (8, 6), 46, 4, 448, 40.6, 20.3),
    _card("rtx3080", "GeForce RTX 3080", 9.77, (8, 6), 68, 5, 760, 59.5, 29.8),
    _card("rtx3090", "GeForce RTX 3090", 23.69, (8, 6), 82, 6, 936, 71.0, 35.6),
    _card("rtx4060ti", "GeForce RTX 4060 Ti", 15.60, (8, 9), 34, 32, 288, 44.1, 22.1),
    _card("rtx4070", "GeForce RTX 4070", 11.72, (8, 9), 46, 36, 504, 58.3, 29.1),
    _card("rtx4080", "GeForce RTX 4080", 15.70, (8, 9), 76, 64, 717, 97.5, 48.7),
    _card("rtx4090", "GeForce RTX 4090", 23.64, (8, 9), 128, 72, 1008, 165.2, 82.6),
    _card("rtx5070", "GeForce RTX 5070", 11.50, (12, 0), 48, 48, 672, 61.7, 30.9),
    _card("rtx5080", "GeForce RTX 5080", 15.47, (12, 0), 84, 64, 960, 112.6, 56.3),
    _card("rtx5090", "GeForce RTX 5090", 31.36, (12, 0), 170, 96, 1792, 209.5, 104.8),
    _card("t4", "Tesla T4", 14.58, (7, 5), 40, 4, 320, 65.0, 8.1),
    _card("v100-16gb", "Tesla V100-SXM2-16GB", 15.77, (7, 0), 80, 6, 900, 125.0, 15.7),
    _card("v100-32gb", "Tesla V100-SXM2-32GB", 31.74, (7, 0), 80, 6, 900, 125.0, 15.7),
    _card("a10", "A10", 22.09, (8, 6), 72, 6, 600, 125.0, 31.2),
    _card("a10g", "A10G", 22.04, (8, 6), 80, 6, 600, 70.0, 35.0),
    _card("a40", "A40", 44.37, (8, 6), 84, 6, 696, 149.7, 37.4),
    _card("rtxa6000", "RTX A6000", 47.53, (8, 6), 84, 6, 768, 154.8, 38.7),
    _card("l4", "L4", 21.96, (8, 9), 58, 48, 300, 121.0, 30.3),
    _card("l40", "L40", 44.40, (8, 9), 142, 96, 864, 181.0, 90.5),
    _card("l40s", "L40S", 44.39, (8, 9), 142, 96, 864, 362.0, 91.6),
    _card("a100-40gb", "A100-SXM4-40GB", 39.39, (8, 0), 108, 40, 1555, 312.0, 19.5),
    _card("a100-80gb", "A100-SXM4-80GB", 79.14, (8, 0), 108, 40, 2039, 312.0, 19.5),
    _card("h100", "H100 80GB HBM3", 79.10, (9, 0), 132, 50, 3350, 989.0, 66.9),
    GpuSpec("h200", "NVIDIA H200", 150_109_880_320, (9, 0), 132, 60 * MIB, 4.8e12, 989e12, 66.9e12),
    _card("b200", "B200", 178.35, (10, 0), 148, 126, 7700, 2250.0, 75.0),
)
_SLICES = (
    _slice("a100-40gb", "1g.5gb", 4.75, 14, 1 / 8),
    _slice("a100-40gb", "2g.10gb", 9.75, 28, 2 / 8),
    _slice("a100-40gb", "3g.20gb", 19.62, 42, 4 / 8),
    _slice("a100-40gb", "4g.20gb", 19.62, 56, 4 / 8),
    _slice("a100-80gb", "1g.10gb", 9.50, 14, 1 / 8),
    _slice("a100-80gb", "2g.20gb", 19.50, 28, 2 / 8),
    _slice("a100-80gb", "3g.40gb", 39.25, 42, 4 / 8),
    _slice("a100-80gb", "4g.40gb", 39.25, 56, 4 / 8),
    _slice("h100", "1g.10gb", 9.62, 16, 1 / 8),
    _slice("h100", "2g.20gb", 19.62, 32, 2 / 8),
    _slice("h100", "3g.40gb", 39.38, 60, 4 / 8),
)
_CARDS = tuple(sorted(_WHOLE, key=lambda card: (card.capability, not card.name.startswith("gtx"))))
_CARDS += _SLICES
_AMD = re.compile(r"\bamd\b|radeon|instinct|\bmi\d{2,3}|\brx[ -]?\d{4}|\bgfx\d", re.IGNORECASE)
_BY_KEY = {re.sub(r"[^a-z0-9]", "", card.name): card for card in _CARDS} | {
    re.sub(r"[^a-z0-9]", "", card.title.lower()): card for card in _CARDS
}


def find(name: str) -> GpuSpec:
    """The card called `name`, by its short name or the driver's title; case, spaces and hyphens do not matter. Or the
    card that a file describes (`card_file.py`), by the file's path: `my-card.json`.

    Raises:
        UsageError: there is none, with the closest names, or the file describes none.
    """
    if is_file(name):
        return read(name, _known)
    card = _known(name)
    if card is not None:
        return card
    if _AMD.search(name):
        raise UsageError(
            f"{name[:40]} is AMD's: ROCm builds of torch round segments otherwise and take MIOpen's workspaces, which "
            "is not modelled; give an NVIDIA card"
        )
    raise unknown_name("GPU", name, [card.name for card in _CARDS])


def _known(name: str) -> GpuSpec | None:
    return _BY_KEY.get(re.sub(r"[^a-z0-9]", "", name.lower()))


def all_gpus() -> tuple[GpuSpec, ...]:
    """The catalogue, in its order."""
    return _CARDS
