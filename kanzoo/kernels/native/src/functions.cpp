// The C interface of basis functions other than B-splines. All return 0, or 1 when memory is short.
// Names such as FAMILY_WAVES come from enumerations.py.
#include "functions.hpp"
#include "rational.hpp"

// sizes: rows, channels, ldx, plane, row, K, family, squash, residual, table per channel, threads,
// inner, num_owners. See `apply`.
extern "C" index_t kanzoo_functions(const real* x, const real* table, const real* constants, real* out, const real* back,
                                real* gx, real* gp, const index_t* n) {
    const Functions f = {n[0],  n[1],  n[2],  n[3], n[4], n[5], (int)n[7], (int)n[8], n[9] != 0,
                         table, constants, (int)n[10], n[11], n[12]};
    const auto run = [&](auto family) { return apply<decltype(family)>(f, x, out, back, gx, gp); };
    switch (n[6]) {
        case FAMILY_RECURRENCE: return run(Recurrence());
        case FAMILY_BERNSTEIN: return run(Bernstein());
        case FAMILY_GAUSSIAN: return run(Gaussian());
        case FAMILY_SWITCH: return run(Switch());
        case FAMILY_HARMONICS: return run(Harmonics());
        case FAMILY_WAVES: return run(Waves());
        case FAMILY_MEXICAN_HAT: return run(Wavelet<MexicanHat>());
        case FAMILY_GAUSSIAN_DERIVATIVE: return run(Wavelet<Sloped>());
        case FAMILY_MORLET: return run(Wavelet<Morlet>());
        case FAMILY_RAMPS: return run(Ramps());
        case FAMILY_SPLINE_GAUSSIAN: return run(SplineGaussian());
    }
    return 1;
}

// sizes: outer, channels, inner, groups, threads. Axes as in rational.hpp.
static Rational rational_of(const real* a, const real* b, const int64_t* group_of, const index_t* n) {
    return {n[0], n[1], n[2], n[3], group_of, a, b, (int)n[4]};
}

// Whether all channels are in a group; else both functions return 2.
static bool is_valid(const int64_t* group_of, const index_t* n) {
    bool valid = true;
    for (index_t c = 0; c < n[1]; ++c) valid = valid && group_of[c] >= 0 && group_of[c] < n[3];
    return valid;
}

extern "C" index_t kanzoo_rational_forward(const real* x, const real* a, const real* b, const int64_t* group_of, real* y,
                                       const index_t* n) {
    if (!is_valid(group_of, n)) return 2;
    return rational_forward(rational_of(a, b, group_of, n), x, y);
}

// Writes the gradients of x (unless null) and of both kinds of coefficients.
extern "C" index_t kanzoo_rational_backward(const real* gy, const real* x, const real* a, const real* b,
                                        const int64_t* group_of, real* gx, real* ga, real* gb, const index_t* n) {
    if (!is_valid(group_of, n)) return 2;
    return rational_backward(rational_of(a, b, group_of, n), gy, x, gx, ga, gb);
}
