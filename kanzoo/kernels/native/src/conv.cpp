// The C interface of the convolution of B-splines. Every function returns 0, or 1 when memory is short.
#include "conv.hpp"

// sizes: B, C, H, W, O per group, groups, KH, KW, SH, SW, DH, DW, G, T, knot vectors, extrapolation,
// threads, PH, PW. A padded pixel is x = 0 with residual 0; residual may be null. Writes y.
static Conv conv_of(const index_t* n) {
    const index_t H = n[2] + 2 * n[17], W = n[3] + 2 * n[18];
    return {n[0],  n[1],  H,     W,     n[4],       n[5],      n[6], n[7], n[8], n[9],
            n[10], n[11], n[17], n[18], (int)n[13], (int)n[16]};
}

extern "C" index_t kanzoo_conv_forward(const real* x, const real* w, const real* residual, const real* knots, real* y,
                                   const index_t* n) {
    const Prepared p(knots, n[14], (int)n[12], (int)n[15], (int)n[16]);
    const auto run = residual ? conv_forward<1> : conv_forward<0>;
    return p.memory.p ? run(p.spline, conv_of(n), x, w, residual, y) : 1;
}

// gx, gw or gr may be null, gr only together with gx.
extern "C" index_t kanzoo_conv_backward(const real* gy, const real* x, const real* w, const real* residual,
                                    const real* knots, real* gx, real* gw, real* gr, const index_t* n) {
    const Prepared p(knots, n[14], (int)n[12], (int)n[15], (int)n[16]);
    const auto run = residual ? conv_backward<1> : conv_backward<0>;
    return p.memory.p ? run(p.spline, conv_of(n), gy, x, w, residual, gx, gw, gr) : 1;
}
