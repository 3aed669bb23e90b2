// The C interface of the B-spline layer. Every function returns 0, or 1 when memory is short.
#include "linear.hpp"

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
