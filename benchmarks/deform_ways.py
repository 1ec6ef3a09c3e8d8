"""Names of the ways to compute a deformable layer on a GPU, as records have them."""

OURS = "fused kernel, NHWC"
IM2COL = "im2col + cuBLAS"
GRID_SAMPLE = "grid_sample"
COMPILED = "grid_sample, torch.compile"
