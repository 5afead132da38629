"""Ops that are made of others and of nothing else."""

COMPOSED = frozenset((
    "_batch_norm_impl_index", "_convolution_mode", "_scaled_dot_product_attention_math", "absolute",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "alpha_dropout",
    "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "argsort", "argwhere", "avg_pool1d",
    "batch_norm", "bilinear", "cartesian_prod", "cdist", "chain_matmul", "clip", "column_stack", "combinations",
    "concat", "concatenate", "contiguous", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "corrcoef", "cosine_embedding_loss", "cosine_similarity", "cov", "cross", "cross_entropy_loss",
    "ctc_loss", "cumulative_trapezoid", "det", "diff", "divide", "dropout", "dstack", "einsum", "embedding_bag",
    "feature_alpha_dropout", "feature_dropout", "fft_fft", "fft_fft2", "fft_fftn", "fft_fftshift", "fft_hfft",
    "fft_ifft", "fft_ifft2", "fft_ifftn", "fft_ifftshift", "fft_ihfft", "fft_irfft", "fft_irfft2", "fft_irfftn",
    "fft_rfft", "fft_rfft2", "fft_rfftn", "fix", "flatten", "fliplr", "flipud", "float_power", "frobenius_norm", "ger",
    "gradient", "greater", "greater_equal", "grid_sampler", "group_norm", "gru", "gru_cell", "hinge_embedding_loss",
    "hstack", "inner", "instance_norm", "inverse", "isclose", "isfinite", "isreal", "istft", "kl_div", "kron",
    "l1_loss", "layer_norm", "less", "less_equal", "linalg_cholesky", "linalg_cond", "linalg_det", "linalg_eigh",
    "linalg_eigvals", "linalg_eigvalsh", "linalg_inv", "linalg_lu_factor", "linalg_matmul", "linalg_matrix_norm",
    "linalg_matrix_power", "linalg_matrix_rank", "linalg_multi_dot", "linalg_norm", "linalg_slogdet", "linalg_solve",
    "linalg_solve_ex", "linalg_svd", "linalg_svdvals", "linalg_tensorinv", "linalg_tensorsolve", "linalg_vander",
    "linalg_vecdot", "linear", "log_sigmoid", "log_softmax", "logdet", "lstm", "lstm_cell", "margin_ranking_loss",
    "matmul", "matrix_exp", "matrix_power", "max_pool1d", "max_pool2d", "max_pool3d", "meshgrid",
    "multilabel_margin_loss", "multiply", "nanmean", "nanquantile", "negative", "nll_loss", "nll_loss2d", "nll_loss_nd",
    "norm_except_dim", "not_equal", "nuclear_norm", "one_hot", "outer", "pad", "pairwise_distance", "pdist", "pinverse",
    "poisson_nll_loss", "prelu", "qr", "quantile", "ravel", "relu6", "reshape", "reshape_as", "rms_norm", "rnn_relu",
    "rnn_relu_cell", "rnn_tanh", "rnn_tanh_cell", "row_stack", "rrelu", "scaled_dot_product_attention", "selu",
    "softmax", "square", "stft", "subtract", "sum_to_size", "svd", "take_along_dim", "tensordot", "thnn_conv2d", "tile",
    "to", "trapezoid", "trapz", "triplet_margin_loss", "true_divide", "type_as", "vander", "vstack",
))  # fmt: skip
"""By `CompositeImplicitAutograd` in all forms but those with `out` (aten/src/ATen/native/native_functions.yaml), those
that may allocate. A dispatch mode sees what they call, and not them."""
