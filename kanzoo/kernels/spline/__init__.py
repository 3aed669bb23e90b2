"""B-splines: their definition and the kernels that compute only what is not zero."""
