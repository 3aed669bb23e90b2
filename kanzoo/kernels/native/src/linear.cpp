// The C interface of the B-spline layer. Every function returns 0, or 1 when memory is short.
#include "linear.hpp"

// sizes: N, I, O, G, T, knot vectors, extrapolation, threads, branch.
static Shape shape_of(const index_t* sizes) {
    return {sizes[0], sizes[1], sizes[2], (int)sizes[4], (int)sizes[7], (int)sizes[8]};
}

// Numbers that `Order` keeps, as many for every grid; 0 for a grid too fine for that.
extern "C" index_t kanzoo_linear_order(const index_t* sizes) {
    const Shape s = shape_of(sizes);
    const index_t most = s.rows() / 8;  // cells
    return sizes[3] > most ? 0 : s.N * s.I + ceil_div(s.N, s.rows()) * s.I * Sorted::order_size(0, (int)most);
}

// Writes y. `bias` may be null, and `order`, memory for those numbers; the weight row of a branch is the
// last one.
extern "C" index_t kanzoo_linear_forward(const real* x, const real* w, const real* bias, const real* knots, real* y,
                                     row_t* order, const index_t* sizes) {
    const Shape s = shape_of(sizes);
    const Prepared p(knots, sizes[5], (int)sizes[3], (int)sizes[6], s.threads);
    if (!p.memory.p) return 1;
    return (s.branch == RESIDUAL_NONE ? linear_forward<0> : linear_forward<1>)(p.spline, s, x, w, bias, y, order);
}

// Writes gx and gw, each unless null; of gw the rows of splines and of a branch.
extern "C" index_t kanzoo_linear_backward(const real* gy, const real* x, const real* w, const real* knots, real* gx,
                                      real* gw, row_t* order, const index_t* sizes) {
    const Shape s = shape_of(sizes);
    const Prepared p(knots, sizes[5], (int)sizes[3], (int)sizes[6], s.threads);
    if (!p.memory.p) return 1;
    return (s.branch == RESIDUAL_NONE ? linear_backward<0> : linear_backward<1>)(p.spline, s, gy, x, w, gx, gw, order);
}
