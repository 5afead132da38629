"""Ops known to take nothing but their outputs, by name without the trailing underscore of the in-place form.

Read in aten/src/ATen/native: they run through TensorIterator, fill, copy, or are views. Element-wise ops that torch
tags as such are known by their tag and need not be here. An op that is neither here nor ruled is reported as unknown.
"""

from __future__ import annotations

_MADE = """
_new_zeros_with_same_feature_meta
arange empty empty_like empty_permuted empty_strided eye fill full full_like lift lift_fresh linspace logspace
new_empty new_empty_strided new_full new_ones new_zeros ones ones_like rand rand_like randint randint_like randn
randn_like range scalar_tensor tril_indices triu_indices zero zeros zeros_like bernoulli cauchy exponential geometric
log_normal normal normal_functional random uniform _cudnn_init_dropout_state bartlett_window hamming_window hann_window
"""

_VIEWS = """
_coalesced _conj _indices _neg_view _reshape_alias _sparse_coo_tensor_with_dims_and_tensors _unsafe_view _values alias
as_strided chunk detach diagonal expand imag narrow permute real record_stream resize select set slice split
split_with_sizes squeeze t transpose unbind unfold unsafe_split unsafe_split_with_sizes unsqueeze view view_as
view_as_complex view_as_real
"""

_COPIES = """
_stack addr alias_copy as_strided_copy as_strided_scatter batch_norm_backward_elemt
batch_norm_elemt batch_norm_gather_stats_with_counts block_diag cat
channel_shuffle clone constant_pad_nd copy detach_copy diag_embed diagonal_backward diagonal_copy diagonal_scatter
expand_copy flip gather index_add index_copy index_fill index_select linalg_cross masked_fill narrow_copy permute_copy
pixel_shuffle pixel_unshuffle repeat rot90 scatter scatter_add select_backward select_copy select_scatter
slice_backward slice_copy slice_scatter split_copy split_with_sizes_copy squeeze_copy stack t_copy take transpose_copy
tril triu unbind_copy unfold_copy unsqueeze_copy value_selecting_reduction_backward view_copy where
"""

_ELEMENTWISE = """
_conj_physical _fused_dropout _prelu_kernel _prelu_kernel_backward binary_cross_entropy_backward celu complex
conj_physical copysign elu elu_backward eq floor_divide gcd ge gelu gelu_backward glu glu_backward gt hardshrink
hardshrink_backward hardsigmoid hardsigmoid_backward hardswish hardswish_backward hardtanh hardtanh_backward heaviside
huber_loss_backward lcm le leaky_relu leaky_relu_backward log_sigmoid_backward log_sigmoid_forward lt mish
mish_backward mse_loss_backward multi_margin_loss_backward multilabel_margin_loss_backward native_dropout_backward ne
polar rrelu_with_noise_backward rsub silu silu_backward
smooth_l1_loss_backward softplus softplus_backward softshrink softshrink_backward threshold threshold_backward xlogy
"""

_OPTIMIZERS = """
_amp_foreach_non_finite_check_and_unscale _amp_update_scale _fused_adagrad _fused_adam _fused_adamw _fused_sgd
"""

_DISTRIBUTIONS = "_dirichlet_grad _standard_gamma _standard_gamma_grad binomial poisson"
"""Distributions.cpp in aten/src/ATen/native/cuda."""

_VECTORS = "dot vdot _scaled_mm"

_WITHOUT_STORAGE = "_efficientzerotensor"

_POOLS = """
fractional_max_pool2d fractional_max_pool2d_backward fractional_max_pool3d fractional_max_pool3d_backward
"""

_FAKE_QUANTISED = """
_fake_quantize_learnable_per_channel_affine _fake_quantize_learnable_per_tensor_affine
_fake_quantize_per_tensor_affine_cachemask_tensor_qparams fake_quantize_per_channel_affine_cachemask
fake_quantize_per_tensor_affine_cachemask
"""

_QUESTIONS = """
_assert_async _assert_scalar _assert_tensor_metadata _has_same_storage_numel
_local_scalar_dense dense_dim is_coalesced is_pinned is_same_size
is_set_to item sparse_dim
"""

_BITSANDBYTES = """
bitsandbytes::dequantize_4bit bitsandbytes::dequantize_blockwise bitsandbytes::gemv_4bit
bitsandbytes::int8_linear_matmul bitsandbytes::optimizer_update_32bit
bitsandbytes::optimizer_update_8bit_blockwise bitsandbytes::quantize_4bit
bitsandbytes::quantize_blockwise
"""
"""bitsandbytes/backends/cuda/ops.py, 0.50. Its `gemm_4bit` and `int8_vectorwise_quant` may take more."""

_LISTS = (
    _MADE, _VIEWS, _COPIES, _ELEMENTWISE, _OPTIMIZERS, _DISTRIBUTIONS, _VECTORS, _WITHOUT_STORAGE, _POOLS,
    _FAKE_QUANTISED, _QUESTIONS, _BITSANDBYTES,
)  # fmt: skip
NO_TEMPORARIES = frozenset(" ".join(_LISTS).split())
"""Names without overload."""
