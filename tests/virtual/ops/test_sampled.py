"""What is drawn from distributions: as a CPU draws it, with gradients, and what it takes on the device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, distributions

import memgraph

DRAWN = {
    "gamma": lambda a: distributions.Gamma(a, a),
    "beta": lambda a: distributions.Beta(a, a),
    "dirichlet": distributions.Dirichlet,
    "student": distributions.StudentT,
    "chi2": distributions.Chi2,
    "inverse gamma": lambda a: distributions.InverseGamma(a, a),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_sample_and_its_gradient_look_as_on_a_cpu(name: str) -> None:
    def looks(device: str) -> tuple[object, ...]:
        parameter = torch.full((3, 5), 2.0, device=device, requires_grad=True)
        sample: Tensor = DRAWN[name](parameter).rsample((4,))
        sample.sum().backward()
        assert parameter.grad is not None
        return sample.shape, sample.stride(), sample.dtype, parameter.grad.shape

    with memgraph.virtual_gpu("h200") as gpu:
        there = looks("cuda")
    assert there == looks("cpu")
    assert not gpu.trace.unknown_ops


def test_counts_are_drawn_too() -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        chance = torch.rand(100, device="cuda")
        distributions.Binomial(10, chance, validate_args=False).sample()
        torch.poisson(chance)
    assert not gpu.trace.unknown_ops


def test_a_dirichlet_divides_gamma_variates_by_their_sums() -> None:
    """Recorded on an H200 of 100 x 5: the variates, then 100 sums of 4 bytes."""
    with memgraph.virtual_gpu("h200") as gpu:
        torch._sample_dirichlet(torch.rand(100, 5, device="cuda"))
    assert [buffer.size for buffer in gpu.trace.buffers] == [2000, 2000, 400]


def test_a_sample_that_is_drawn_until_it_fits_ends() -> None:
    """`VonMises` asks two questions in a loop: whether all are done, and whether some were accepted. Each is answered
    otherwise in the end, whichever line of the program they are for."""
    with memgraph.virtual_gpu("h200"):
        mean = torch.rand(7, device="cuda")
        sample = distributions.VonMises(mean, mean + 1, validate_args=False).sample()
    assert sample.shape == (7,)
