// The C interface of basis functions other than B-splines. All return 0, or 1 when memory is short.
#include "functions.hpp"
#include "rational.hpp"

// sizes: rows, channels, ldx, plane, row, K, family, squash, activation, table per channel, threads,
// inner, owners. See `apply`.
extern "C" index_t kanzoo_functions(const real* x, const real* table, const real* constants, real* out, const real* back,
                                real* gx, real* gp, const index_t* n) {
    const Functions f = {n[0],  n[1],  n[2],  n[3], n[4], n[5], (int)n[7], (int)n[8], n[9] != 0,
                         table, constants, (int)n[10], n[11], n[12]};
    static constexpr decltype(&apply<Recurrence>) families[] = {
        apply<Recurrence>, apply<Bernstein>, apply<Gaussian>, apply<Switch>, apply<Harmonics>, apply<Waves>,
        apply<Wavelet<MexicanHat>>, apply<Wavelet<Sloped>>, apply<Wavelet<Morlet>>, apply<Ramps>, apply<SplineGaussian>};
    return families[n[6]](f, x, out, back, gx, gp);
}

// sizes: outer, channels, inner, groups, threads. Axes as in rational.hpp.
static Rational rational_of(const real* a, const real* b, const int64_t* group_of, const index_t* n) {
    return {n[0], n[1], n[2], n[3], group_of, a, b, (int)n[4]};
}

extern "C" index_t kanzoo_rational_forward(const real* x, const real* a, const real* b, const int64_t* group_of, real* y,
                                       const index_t* n) {
    return rational_forward(rational_of(a, b, group_of, n), x, y);
}

// Writes the gradients of x (unless null) and of both kinds of coefficients.
extern "C" index_t kanzoo_rational_backward(const real* gy, const real* x, const real* a, const real* b,
                                        const int64_t* group_of, real* gx, real* ga, real* gb, const index_t* n) {
    return rational_backward(rational_of(a, b, group_of, n), gy, x, gx, ga, gb);
}
