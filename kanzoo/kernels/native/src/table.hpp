// The local basis of B-splines: polynomials of every grid cell.
//
// Compiled with -DORDER=0..5, so that every loop over the ORDER + 1 non-zero functions unrolls.
// Names: N rows (samples), I inputs, O outputs, G grid cells, K = G + ORDER basis functions,
// T >= K rows of weight per input.
#pragma once
#include "vector.hpp"

static constexpr int P = ORDER + 1;        // non-zero functions
static constexpr int PL = P <= 4 ? 4 : 8;  // the same, padded to a vector

// The polynomials of every cell, for one knot vector or for one per feature.
struct Spline {
    const real* knots;  // (vectors, G + 2 * ORDER + 1)
    index_t vectors;
    int G, extrapolation;
    real* coef;      // (vectors, G, P, PL): coefficient of u^m of each function, u in [0, 1]
    real* inverse;   // (vectors, G): 1 / cell width
    real* scale;     // (vectors): buckets per unit of length
    int32_t* first;  // (vectors, G + 1): first cell that can hold a point of the bucket
    int32_t* steps;  // (vectors): bisections that find the cell in a bucket; 0 where they are the same
    int32_t* equal;  // (vectors): whether all cells have the same polynomials

    index_t which(index_t i) const { return vectors == 1 ? 0 : i; }
    const real* grid(index_t v) const { return knots + v * (G + 2 * ORDER + 1) + ORDER; }

    static size_t bytes(index_t vectors, int G) {
        return vectors * (sizeof(real) * (G * (P * PL + 1) + 1) + sizeof(int32_t) * (G + 3));
    }
    void bind(void* p) {
        coef = (real*)p;
        inverse = coef + vectors * G * P * PL;
        scale = inverse + vectors * G;
        first = (int32_t*)(scale + vectors);
        steps = first + vectors * (G + 1);
        equal = steps + vectors;
    }
    static inline int bucket_of(real x, real low, real scale, int G) {
        const real at = (x - low) * scale;
        return at > 0 ? (at < (real)(G - 1) ? (int)at : G - 1) : 0;  // NaN goes to the left end
    }

    real clamp(index_t v, real x) const {
        const real low = grid(v)[0], high = grid(v)[G];
        const real y = x > low ? x : low;  // NaN goes to the left end
        return y < high ? y : high;
    }
    // Whether other rules hold for x; "zero" counts the right end to the outer cells, if there are any.
    bool is_outside(index_t v, real x) const {
        const real* t = grid(v);
        return !(x >= t[0] && x <= t[G]) || (extrapolation == EXTRAPOLATION_ZERO && x == t[G] && t[G] < t[G + ORDER]);
    }
    // Cell of a point inside the grid.
    inline int find(index_t v, real x) const {
        const real* t = grid(v);
        const int bucket = bucket_of(x, t[0], scale[v], G);
        if (steps[v] == 0) return bucket;
        const int32_t* from = first + v * (G + 1) + bucket;
        int c = from[0], left = from[1] - c;
        for (int s = 0; s < steps[v]; ++s) {  // without branches: cells are unpredictable
            const int part = (left + 1) >> 1;
            c += part & -(int)(x >= t[c + part]);
            left -= part;
        }
        return c;
    }

    // Cox-de Boor on the cell's own coordinate: the functions as polynomials in u.
    void prepare_cell(index_t v, int c) const {
        const real* t = grid(v) + c;
        const double h = (double)t[1] - t[0];
        real* out = coef + (v * G + c) * P * PL;
        for (int m = 0; m < P * PL; ++m) out[m] = 0;
        inverse[v * G + c] = h > 0 ? (real)(1 / h) : 0;
        if (!(h > 0)) return;
        double n[P][P + 1] = {{1}};  // n[j][m]: function j, power m
        for (int r = 1; r <= ORDER; ++r) {
            double saved[P + 1] = {0};
            for (int j = 0; j < r; ++j) {
                const double right = (double)t[j + 1] - t[0], left = (double)t[0] - t[1 - r + j];
                const double weight = 1 / (right + left);
                double next[P + 1] = {0}, here[P + 1] = {0};
                for (int m = 0; m < r; ++m) {
                    const double q = n[j][m] * weight;
                    here[m] += saved[m] + right * q;
                    here[m + 1] -= h * q;
                    next[m] += left * q;
                    next[m + 1] += h * q;
                }
                here[r] += saved[r];
                for (int m = 0; m <= r; ++m) n[j][m] = here[m], saved[m] = next[m];
            }
            for (int m = 0; m <= r; ++m) n[r][m] = saved[m];
        }
        for (int m = 0; m < P; ++m)
            for (int j = 0; j < P; ++j) out[m * PL + j] = (real)n[j][m];
    }

    // Knot j, counted from the first; beyond both ends they go on, which changes no function.
    real knot(index_t v, int j) const {
        const real* t = knots + v * (G + 2 * ORDER + 1);
        const int last = G + 2 * ORDER;
        if (j < 0) return t[0] + j * (t[1] - t[0]);
        return j > last ? t[last] + (j - last) * (t[last] - t[last - 1]) : t[j];
    }

    // The functions outside the grid, where they decay over the ORDER outer cells: values and
    // derivatives of those that belong to grid cell `base`, by Cox and de Boor.
    void decay(index_t v, real x, int base, real* w, real* d) const {
        for (int j = 0; j < PL; ++j) w[j] = d[j] = 0;
        const int last = G + 2 * ORDER;
        if (ORDER == 0 || !(x >= knot(v, 0) && x <= knot(v, last))) return;
        int c = x < knot(v, ORDER) ? ORDER - 1 : last - 1;  // the last cell that begins before x
        while (c > 0 && (knot(v, c) > x || !(knot(v, c) < knot(v, c + 1)))) --c;
        real t[2 * ORDER + 1], n[P] = {1}, lower[P] = {0};  // t[j]: knot c + 1 - ORDER + j
        for (int j = 0; j < 2 * ORDER; ++j) t[j] = knot(v, c + 1 - ORDER + j);
        for (int r = 1; r <= ORDER; ++r) {
            real saved = 0;
            for (int j = 0; j < r; ++j) {
                const real right = t[ORDER + j], left = t[ORDER - r + j];
                const real q = n[j] / (right - left);
                lower[j] = q;
                n[j] = saved + (right - x) * q;
                saved = (x - left) * q;
            }
            n[r] = saved;
        }
        const int shift = c - ORDER - base;
        for (int j = 0; j < P; ++j) {
            const int to = j + shift;
            if (to < 0 || to >= P) continue;
            w[to] = n[j];
            d[to] = ORDER * ((j > 0 ? lower[j - 1] : 0) - (j < ORDER ? lower[j] : 0));
        }
    }

    // Whether knots [from, to] bound equal cells up to rounding, which no function or slope can tell.
    bool even(index_t v, int from, int to) const {
        const double low = knot(v, from), width = (knot(v, to) - low) / (to - from);
        const double size = __builtin_fmax(__builtin_fabs(knot(v, to)), __builtin_fabs(low));
        const double rounding = 4 * size * (sizeof(real) == 4 ? 1.2e-7 : 2.3e-16);
        bool same = ORDER >= 2 && width > 0;
        for (int j = from + 1; j < to && same; ++j) {
            const double off = knot(v, j) - (low + (j - from) * width);
            same = off <= rounding && -off <= rounding;
        }
        return same;
    }

    void prepare(index_t v) const {
        const real* t = grid(v);
        for (int c = 0; c < G; ++c) prepare_cell(v, c);
        const real width = t[G] - t[0];
        scale[v] = width > 0 ? G / width : 0;
        int last = G - 1;  // the right end belongs to the last cell that is not empty
        while (last > 0 && !(t[last] < t[last + 1])) --last;
        // A point of bucket b lies in a cell that starts in an earlier bucket or in b itself;
        // rounding cannot break this because bucket_of is monotone.
        int32_t* f = first + v * (G + 1);
        int c = 0, most = 0;
        for (int b = 0; b < G; ++b) {
            while (c < last && bucket_of(t[c + 1], t[0], scale[v], G) < b) ++c;
            f[b] = c;
            if (b) most = (int)max_of(most, f[b] - f[b - 1]);
        }
        f[G] = last;
        most = (int)max_of(most, f[G] - f[G - 1]);
        for (steps[v] = 0; most >> steps[v];) ++steps[v];
        if (even(v, ORDER, ORDER + G)) steps[v] = 0;
        equal[v] = even(v, 0, G + 2 * ORDER);
    }
};

// The spline of one call, its tables filled.
struct Prepared {
    Spline spline;
    Buffer memory;
    Prepared(const real* knots, index_t vectors, int G, int extrapolation, int threads)
        : spline{knots, vectors, G, extrapolation, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr},
          memory(Spline::bytes(vectors, G)) {
        if (!memory.p) return;
        spline.bind(memory.p);
        parallel(ceil_div(vectors, 8), threads, [&](index_t task) {
            for (index_t v = task * 8; v < min_of(task * 8 + 8, vectors); ++v) spline.prepare(v);
        });
    }
};
