"""The operations that pruning follows, each with its rule. What is not here fixes the channels that it touches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from deblur_deploy.compress import follow_products as products
from deblur_deploy.compress import follow_rules as rules
from deblur_deploy.compress import follow_statistics as statistics
from deblur_deploy.compress.follow import Rule, Rules, Statistic


def outputs_of(result: Any) -> list[Tensor]:
    """The pictures of a pass, whether it gives one, a list of them, or a mapping."""
    if isinstance(result, Tensor):
        return [result]
    return list(result.values() if isinstance(result, Mapping) else result)


_LABELS: dict[Rule, str] = {
    rules.pointwise: "pointwise where copy complex polar _prelu_kernel prelu masked_fill lerp hardswish "
    "rrelu_with_noise",
    rules.unknown: "unknown",
    rules.nothing: "_local_scalar_dense is_nonzero equal sym_size item argmax argmin",
    rules.made: "zeros ones empty full new_zeros new_ones new_empty new_full arange linspace rand randn "
    "scalar_tensor eye empty_strided new_empty_strided",
    rules.like: "zeros_like ones_like empty_like full_like rand_like randn_like",
    rules.kept: "clone detach alias contiguous lift_fresh lift _to_copy to native_dropout dropout bernoulli "
    "log_sigmoid_forward _softmax _log_softmax softmax log_softmax _conj conj resolve_conj resolve_neg",
    rules.broadcast: "expand repeat",
    rules.moved: "permute transpose t flip index_select index pixel_shuffle pixel_unshuffle "
    "channel_shuffle unfold diagonal movedim tril triu",
    rules.reshaped: "view _unsafe_view reshape _reshape_alias unflatten flatten unsqueeze squeeze",
    rules.parted: "split split_with_sizes chunk split_with_sizes_copy",
    rules.gated: "glu",
    rules.sliced: "slice",
    rules.selected: "select unbind",
    rules.rolled: "roll",
    rules.joined: "cat stack",
    rules.padded: "constant_pad_nd",
    rules.spatial: "avg_pool2d max_pool2d_with_indices adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d "
    "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_nearest_exact2d _upsample_bilinear2d_aa "
    "_upsample_bicubic2d_aa reflection_pad2d replication_pad2d grid_sampler_2d",
    rules.reduced: "sum mean amax amin max min var std var_mean std_mean norm linalg_vector_norm prod any all "
    "logsumexp",
    rules.normalised: "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
    "_batch_norm_no_update _batch_norm_with_update batch_norm",
    rules.group_normalised: "native_group_norm",
    rules.layer_normalised: "native_layer_norm",
    rules.unfolded: "im2col",
    rules.folded: "col2im",
    rules.transformed: "_fft_r2c _fft_c2r _fft_c2c",
    rules.paired: "view_as_real view_as_complex",
    products.convolved: "convolution _convolution conv2d",
    products.deformed: "deform_conv2d",
    products.multiplied: "mm bmm mv addmm baddbmm",
    products.attended: "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention scaled_dot_product_attention",
}

_STATISTICS: dict[Statistic, str] = {
    statistics.reduced: "mean amax amin max min var std var_mean std_mean logsumexp prod",
    statistics.softmax: "_softmax _log_softmax softmax log_softmax",
    statistics.layer_norm: "native_layer_norm",
    statistics.group_norm: "native_group_norm",
}

RULES = Rules(
    {name: rule for rule, names in _LABELS.items() for name in names.split()},
    {name: statistic for statistic, names in _STATISTICS.items() for name in names.split()},
)
