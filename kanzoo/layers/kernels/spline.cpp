// The C interface of the B-spline kernels. Every function returns 0, or 1 when memory is short.
#include "conv.hpp"

// The spline of one call, its tables filled.
struct Prepared {
    Spline spline;
    Buffer memory;
    Prepared(const real* knots, index_t vectors, int G, int extrapolation, int threads)
        : spline{knots, vectors, G, extrapolation, nullptr, nullptr, nullptr, nullptr, nullptr},
          memory(Spline::bytes(vectors, G)) {
        if (!memory.p) return;
        spline.place(memory.p);
        parallel(ceil_div(vectors, 8), threads, [&](index_t task) {
            for (index_t v = task * 8; v < min_of(task * 8 + 8, vectors); ++v) spline.prepare(v);
        });
    }
};

// sizes: N, I, O, G, T, knot vectors, extrapolation, threads. Adds to y.
extern "C" int kanzoo_linear_forward(const real* x, const real* w, const real* knots, real* y, const index_t* sizes) {
    const Shape s = {sizes[0], sizes[1], sizes[2], (int)sizes[4], (int)sizes[7]};
    const Prepared p(knots, sizes[5], (int)sizes[3], (int)sizes[6], s.threads);
    return p.memory.p ? linear_forward(p.spline, s, x, w, y) : 1;
}

// Writes gx and the spline rows of gw, each unless null.
extern "C" int kanzoo_linear_backward(const real* gy, const real* x, const real* w, const real* knots, real* gx,
                                      real* gw, const index_t* sizes) {
    const Shape s = {sizes[0], sizes[1], sizes[2], (int)sizes[4], (int)sizes[7]};
    const Prepared p(knots, sizes[5], (int)sizes[3], (int)sizes[6], s.threads);
    return p.memory.p ? linear_backward(p.spline, s, gy, x, w, gx, gw) : 1;
}

// sizes: B, C, H, W, O per group, groups, KH, KW, SH, SW, DH, DW, G, T, knot vectors, extrapolation,
// threads, PH, PW. A padded pixel is x = 0 with residual 0; residual may be null. Writes y.
static Conv conv_of(const index_t* n) {
    const index_t H = n[2] + 2 * n[17], W = n[3] + 2 * n[18];
    return {n[0],  n[1],  H,     W,     n[4],       n[5],      n[6], n[7], n[8], n[9],
            n[10], n[11], n[17], n[18], (int)n[13], (int)n[16]};
}

extern "C" int kanzoo_conv_forward(const real* x, const real* w, const real* residual, const real* knots, real* y,
                                   const index_t* n) {
    const Prepared p(knots, n[14], (int)n[12], (int)n[15], (int)n[16]);
    const auto run = residual ? conv_forward<1> : conv_forward<0>;
    return p.memory.p ? run(p.spline, conv_of(n), x, w, residual, y) : 1;
}

// gx, gw or gr may be null, gr only together with gx.
extern "C" int kanzoo_conv_backward(const real* gy, const real* x, const real* w, const real* residual,
                                    const real* knots, real* gx, real* gw, real* gr, const index_t* n) {
    const Prepared p(knots, n[14], (int)n[12], (int)n[15], (int)n[16]);
    const auto run = residual ? conv_backward<1> : conv_backward<0>;
    return p.memory.p ? run(p.spline, conv_of(n), gy, x, w, residual, gx, gw, gr) : 1;
}
