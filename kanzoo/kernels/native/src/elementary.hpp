// exp, tanh, logistic, sine and cosine of vectors.
//
// float: range reduction and polynomials as in Cephes (S. Moshier), a few units in the last place;
// double: the C library, lane by lane. NaN stays NaN.
#pragma once
#include <math.h>
#include "vector.hpp"

static constexpr bool SINGLE = sizeof(real) == 4;
static constexpr real FAR = SINGLE ? 2e4 : 0;  // largest argument whose sine the polynomials give

template <class F>
static inline vec lanes(vec x, F f) {
    for (int l = 0; l < L; ++l) x[l] = f(x[l]);
    return x;
}

// Horner's rule, the highest coefficient first.
static inline vec horner(vec, vec value) { return value; }
template <class... Rest>
static inline vec horner(vec x, vec value, real next, Rest... rest) {
    return horner(x, value * x + next, rest...);
}

static inline vec nearest(vec x) {  // whole number, for |x| < 2^22
    const vec magic = vec{} + (real)12582912;
    return (x + magic) - magic;
}

static inline vec exp_of(vec x) {
    if (!SINGLE) return lanes(x, [](real v) { return exp(v); });
    const vec least = vec{} - 87, most = vec{} + 88;
    const vec y = x < least ? least : x > most ? most : x;
    const vec n = nearest(y * (real)1.44269504);
    const vec r = (y - n * (real)0.693359375) + n * (real)2.12194440e-4;
    const vec p = horner(r, vec{} + (real)1.9875691500e-4, (real)1.3981999507e-3, (real)8.3334519073e-3,
                         (real)4.1665795894e-2, (real)1.6666665459e-1, (real)5.0000001201e-1, (real)1, (real)1);
    const wvec power = (__builtin_convertvector(n, wvec) + 127) << 23;
    return x < least ? vec{} : p * (vec)power;
}

static inline vec logistic_of(vec x) { return (real)1 / (exp_of(-x) + 1); }

static inline vec magnitude(vec x) { return x < 0 ? -x : x; }

static inline vec tanh_of(vec x) {
    if (!SINGLE) return lanes(x, [](real v) { return tanh(v); });
    const vec a = magnitude(x), e = exp_of(-2 * a), z = x * x;
    const vec far = ((real)1 - e) / (e + 1);
    const vec near = x + x * z * horner(z, vec{} - (real)5.70498872745e-3, (real)2.06390887954e-2, (real)-5.37397155531e-2,
                                        (real)1.33314422036e-1, (real)-3.33332819422e-1);
    return a < (real)0.625 ? near : x < 0 ? -far : far;
}

// Both at once; `far` where arguments may exceed FAR.
static inline void waves_of(vec x, bool far, vec& sine, vec& cosine) {
    if (!SINGLE || far) {
        sine = lanes(x, [](real v) { return sin(v); });
        cosine = lanes(x, [](real v) { return cos(v); });
        return;
    }
    const vec n = nearest(x * (real)0.636619772);
    const vec r = ((x - n * (real)1.5703125) - n * (real)4.837512969970703e-4) - n * (real)7.549789948768648e-8;
    const vec z = r * r;
    const vec s = r + r * z * horner(z, vec{} - (real)1.9515295891e-4, (real)8.3321608736e-3, (real)-1.6666654611e-1);
    const vec c = horner(z, vec{} + (real)2.443315711809948e-5, (real)-1.388731625493765e-3, (real)4.166664568298827e-2,
                         (real)-0.5, (real)1);
    const wvec quarter = __builtin_convertvector(n, wvec);
    const wvec odd = (quarter & 1) != 0;
    const vec first = odd ? c : s, second = odd ? s : c;
    sine = (quarter & 2) != 0 ? -first : first;
    cosine = ((quarter + 1) & 2) != 0 ? -second : second;
}
