// Families of basis functions: values, slopes and derivatives by trained table rows in one pass.
//
// `p(j, k)` is row j of the table for function k, `constant` numbers that all share, `far` whether
// arguments of waves may be large, `scratch` memory for K + 1 vectors. A family calls
// f(k, value, slope, by_first, by_second), the last two the derivatives by rows 0 and 1.
#pragma once
#include "elementary.hpp"

struct Setting {
    int K;
    const real* constant;
    bool far;
    vec* scratch;
};

// p_(k+1) = (a_k x + b_k) p_k - c_k p_(k-1)
struct Recurrence {
    static constexpr bool trained = false;
    template <class T, class F>
    static inline void each(vec x, const Setting& s, const T& p, F f) {
        vec v = vec{} + 1, d = {}, old = {}, steep = {};
        f(0, v, d, vec{}, vec{});
        for (int k = 0; k + 1 < s.K; ++k) {
            const vec a = p(0, k), c = p(2, k), factor = a * x + p(1, k);
            const vec next = factor * v - c * old, slope = a * v + factor * d - c * steep;
            old = v, steep = d, v = next, d = slope;
            f(k + 1, v, d, vec{}, vec{});
        }
    }
};

// binom(n, k) x^k (1 - x)^(n - k), n = K - 1
struct Bernstein {
    static constexpr bool trained = false;
    template <class T, class F>
    static inline void each(vec x, const Setting& s, const T& p, F f) {
        const int n = s.K - 1;
        const vec rest = (real)1 - x;
        vec* falling = s.scratch;
        falling[0] = vec{} + 1;
        for (int k = 0; k < n; ++k) falling[k + 1] = falling[k] * rest;
        vec rising = vec{} + 1, before = {};
        for (int k = 0; k <= n; ++k) {
            const vec binomial = p(0, k), down = k < n ? (real)(n - k) * falling[n - k - 1] : vec{};
            const vec slope = (real)k * before * falling[n - k] - rising * down;
            f(k, binomial * rising * falling[n - k], binomial * slope, vec{}, vec{});
            before = rising, rising *= x;
        }
    }
};

// exp(-t^2), t = (x - p_0) p_1
struct Gaussian {
    static constexpr bool trained = false;
    template <class T, class F>
    static inline void each(vec x, const Setting& s, const T& p, F f) {
        for (int k = 0; k < s.K; ++k) {
            const vec inverse = p(1, k), t = (x - p(0, k)) * inverse, v = exp_of(-t * t);
            f(k, v, -2 * t * v * inverse, vec{}, vec{});
        }
    }
};

// 1 - tanh(t)^2, t = (x - p_0) p_1
struct Switch {
    static constexpr bool trained = false;
    template <class T, class F>
    static inline void each(vec x, const Setting& s, const T& p, F f) {
        for (int k = 0; k < s.K; ++k) {
            const vec inverse = p(1, k), t = (x - p(0, k)) * inverse, e = exp_of(-2 * magnitude(t));
            const vec below = (real)1 / (e + 1), v = 4 * e * below * below, h = ((real)1 - e) * below;
            f(k, v, -2 * (t < 0 ? -h : h) * v * inverse, vec{}, vec{});
        }
    }
};

// cos(n w x) p_0, then sin(n w x) p_0, n = 1 .. K / 2, w = constant[0]
struct Harmonics {
    static constexpr bool trained = false;
    template <class T, class F>
    static inline void each(vec x, const Setting& s, const T& p, F f) {
        const int half = s.K / 2;
        const real w = s.constant[0];
        vec sine, cosine;
        waves_of(w * x, s.far, sine, cosine);
        vec a = cosine, b = sine;
        for (int k = 0; k < half; ++k) {
            const vec height = p(0, k), rate = height * ((k + 1) * w);
            f(k, height * a, -rate * b, vec{}, vec{});
            f(half + k, height * b, rate * a, vec{}, vec{});
            const vec rotated = a * cosine - b * sine;
            b = b * cosine + a * sine, a = rotated;
        }
    }
};

// constant[0] sin(p_0 x + p_1)
struct Waves {
    static constexpr bool trained = true;
    template <class T, class F>
    static inline void each(vec x, const Setting& s, const T& p, F f) {
        for (int k = 0; k < s.K; ++k) {
            const vec rate = p(0, k);
            vec sine, cosine;
            waves_of(rate * x + p(1, k), s.far, sine, cosine);
            sine *= s.constant[0], cosine *= s.constant[0];
            f(k, sine, rate * cosine, x * cosine, cosine);
        }
    }
};

// psi(t), t = (x - p_0) p_1; M gives psi and its slope
template <class M>
struct Wavelet {
    static constexpr bool trained = true;
    template <class T, class F>
    static inline void each(vec x, const Setting& s, const T& p, F f) {
        for (int k = 0; k < s.K; ++k) {
            const vec inverse = p(1, k), offset = x - p(0, k), t = offset * inverse;
            vec v, d;
            M::value(t, exp_of((real)-0.5 * t * t), s, v, d);
            f(k, v, d * inverse, -d * inverse, d * offset);
        }
    }
};
struct MexicanHat {  // constant[0] (1 - t^2) exp(-t^2 / 2)
    static inline void value(vec t, vec bell, const Setting& s, vec& v, vec& d) {
        const vec height = s.constant[0] * bell, square = t * t;
        v = height - height * square, d = height * t * (square - 3);
    }
};
struct Sloped {  // -t exp(-t^2 / 2)
    static inline void value(vec t, vec bell, const Setting&, vec& v, vec& d) { v = -t * bell, d = bell * (t * t - 1); }
};
struct Morlet {  // cos(w t) exp(-t^2 / 2), w = constant[0]
    static inline void value(vec t, vec bell, const Setting& s, vec& v, vec& d) {
        const vec most = vec{} + 40;  // where the bell is zero
        const vec u = t > most ? most : t < -most ? -most : t;
        const real w = s.constant[0];
        vec sine, cosine;
        waves_of(w * u, s.far, sine, cosine);
        v = cosine * bell, d = -(w * sine + u * cosine) * bell;
    }
};

// ((x - p_0)_+ (p_1 - x)_+ h^2)^m, h = constant[0], m = constant[1]
struct Ramps {
    static constexpr bool trained = true;
    template <class T, class F>
    static inline void each(vec x, const Setting& s, const T& p, F f) {
        const vec none = {};
        const real h = s.constant[0];
        const int power = (int)s.constant[1];
        for (int k = 0; k < s.K; ++k) {
            const vec up = (x - p(0, k)) * h, down = (p(1, k) - x) * h;
            const vec rising = up < 0 ? none : up, falling = down < 0 ? none : down, both = rising * falling;
            vec lower = vec{} + 1;
            for (int m = 1; m < power; ++m) lower *= both;
            const vec rate = power * h * lower;
            const vec first = up > 0 ? rate * falling : none, second = down > 0 ? rate * rising : none;
            f(k, lower * both, first - second, -first, second);
        }
    }
};

// An even B-spline of order n = constant[0] of t = (x - p_0) p_1 in intervals,
// and exp(-u^2), u = (x - p_2) p_3, added. constant[1 ..]: weights of its truncated powers, over n!.
struct SplineGaussian {
    static constexpr bool trained = false;
    template <class T, class F>
    static inline void each(vec x, const Setting& s, const T& p, F f) {
        const vec none = {};
        const int order = (int)s.constant[0];
        for (int k = 0; k < s.K; ++k) {
            const vec inverse = p(1, k), t = (x - p(0, k)) * inverse, a = magnitude(t);
            vec v = {}, d = {};
            for (int j = 0; 2 * j < order + 1; ++j) {
                const vec left = (real)0.5 * (order + 1 - 2 * j) - a, q = left < 0 ? none : left;
                vec power = vec{} + s.constant[1 + j];
                for (int m = 1; m < order; ++m) power *= q;
                v += power * q, d += power;
            }
            d *= (real)order * inverse;
            const vec wide = p(3, k), u = (x - p(2, k)) * wide, bell = exp_of(-u * u);
            f(k, v + bell, (t < 0 ? d : -d) - 2 * u * bell * wide, vec{}, vec{});
        }
    }
};
