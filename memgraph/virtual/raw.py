"""torch's own, as it is where scripts are given something else."""

from __future__ import annotations

import torch

make_subclass = torch.Tensor._make_subclass
storage_of = torch._C.TensorBase.untyped_storage
"""As `Tensor.untyped_storage`, without finding out where the storage is."""
