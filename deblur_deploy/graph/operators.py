"""Operators by what they do, for all code that reads a graph."""

from __future__ import annotations

from deblur_deploy.kernels.aot_plugin import NAME, NAMESPACE

DOMAIN, OP_TYPE = NAMESPACE, NAME
"""The deformable convolution that the plugin runs, ``deblur::DeformConv2d``."""

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "DeformConv", OP_TYPE})
PRODUCTS = frozenset({"Gemm", "MatMul"})

WEIGHTED = CONVOLUTIONS | PRODUCTS
"""Layers with weights: operators whose second input is multiplied with the first."""
