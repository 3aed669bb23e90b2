// The inner loops: one input, a few vectors of outputs, rows sorted by grid cell.
//
// The P rows of weight (or of its gradient) that a cell uses stay in registers and slide by one
// row from cell to cell, so that each is read (written) once per sweep and nothing is scattered
// but whole vectors of y. Meanwhile the same rows of the next input, `next` numbers on, are fetched.
#pragma once
#include "sort.hpp"

// Vectors of a sweep: P rows of weight, with a branch (Q = 1) one more, in 32 registers, or in 16,
// where some rows come from the L1 cache.
#if defined(__AVX512F__) || defined(__aarch64__)
static constexpr int wide(int Q) { return P <= 4 ? 6 - Q : 2; }
#else
static constexpr int wide(int) { return P <= 4 ? 4 : 2; }
#endif
static constexpr int FL = L < 4 ? L : 4;     // lanes of a partial sum
typedef Vector<FL>::type fvec;

template <int NV>
struct Window {
    vec at[P][NV];

    // The first `columns` outputs of a weight row, the rest zero.
    static inline void row(vec* to, const real* w, index_t columns) {
        if (columns >= NV * L) {
            for (int v = 0; v < NV; ++v) to[v] = load(w + v * L);
            return;
        }
        real padded[NV * L] = {0};
        for (index_t o = 0; o < columns; ++o) padded[o] = w[o];
        for (int v = 0; v < NV; ++v) to[v] = load(padded + v * L);
    }
    inline void slide() {
        for (int j = 0; j + 1 < P; ++j)
            for (int v = 0; v < NV; ++v) at[j][v] = at[j + 1][v];
    }
    inline void move(int from, int to, const real* w, index_t ld, index_t columns) {
        if (to == from + 1) {
            slide();
            row(at[P - 1], w + (to + P - 1) * ld, columns);
        } else {
            for (int j = 0; j < P; ++j) row(at[j], w + (to + j) * ld, columns);
        }
    }
};

static inline void store_sum(real* to, vec sum, bool add) {
    const fvec folded = Fold<L, FL>::run(sum);
    *(fvec*)to = add ? *(fvec*)to + folded : folded;
}

// y[row] += sum_j w_j W_j; with a branch (Q = 1) also the product with weight row `last`
template <int NV, int Q>
static void forward_sweep(const Sorted& s, int G, const real* w, index_t ldw, index_t last, index_t columns,
                          index_t next, real* y, index_t ldy) {
    Window<NV> window;
    vec rest[NV];
    if (Q) Window<NV>::row(rest, w + last * ldw, columns);
    const row_t *start = s.start, *row = s.row;
    const real* t = s.w;
    for (int c = 0, before = -2; c < G; ++c) {
        const index_t n0 = start[c], n1 = start[c + 1];
        if (n0 == n1) continue;
        window.move(before, c, w, ldw, columns);
        before = c;
        for (int v = 0; v < NV; ++v) __builtin_prefetch(w + next + (c + P - 1) * ldw + v * L, 0, 2);
        for (index_t n = n0; n < n1; ++n) {
            real* out = y + row[n] * ldy;
            const real* ahead = y + row[n + Sorted::AHEAD] * ldy;
            for (int v = 0; v < NV; ++v) __builtin_prefetch(ahead + v * L, 1);
            vec acc[NV];
            for (int v = 0; v < NV; ++v) acc[v] = load(out + v * L);
            for (int j = 0; j < P; ++j)
                for (int v = 0; v < NV; ++v) acc[v] += t[j * s.ld + n] * window.at[j][v];
            for (int v = 0; v < NV * Q; ++v) acc[v] += t[P * s.ld + n] * rest[v];
            for (int v = 0; v < NV; ++v) store(out + v * L, acc[v]);
        }
    }
}

// part[n] (+)= sum_j d_j <W_j, gy[row]>, as FL partial sums
template <int NV, int Q>
static void input_sweep(const Sorted& s, int G, const real* w, index_t ldw, index_t last, index_t columns,
                        index_t next, const real* gy, index_t ldy, real* part, bool add) {
    vec steps[P][NV], latest[NV] = {};  // W_j+1 - W_j and the last W_j+1 of the cell
    vec rest[NV];
    if (Q) Window<NV>::row(rest, w + last * ldw, columns);
    const row_t *start = s.start, *row = s.row;
    const real* e = s.e;
    auto step = [&](vec* to, index_t k) {
        vec previous[NV];
        for (int v = 0; v < NV; ++v) previous[v] = latest[v];
        Window<NV>::row(latest, w + k * ldw, columns);
        for (int v = 0; v < NV; ++v) to[v] = latest[v] - previous[v];
    };
    for (int c = 0, before = -2; c < G; ++c) {
        if (start[c] == start[c + 1]) continue;
        int j = ORDER > 0 ? ORDER - 1 : 0;
        if (c == before + 1) {
            for (int i = 0; i + 1 < ORDER; ++i)
                for (int v = 0; v < NV; ++v) steps[i][v] = steps[i + 1][v];
        } else {
            Window<NV>::row(latest, w + c * ldw, columns);
            j = 0;
        }
        for (; j < ORDER; ++j) step(steps[j], c + 1 + j);
        before = c;
        for (int v = 0; v < NV; ++v) __builtin_prefetch(w + next + (c + P - 1) * ldw + v * L, 0, 2);
        for (index_t n = start[c]; n < start[c + 1]; ++n) {
            const real* g = gy + row[n] * ldy;
            vec sum = {}, other = {};  // two short chains instead of one long: latency bounds this loop
            for (int v = 0; v < NV && ORDER + Q > 0; ++v) {
                vec mixed = ORDER > 0 ? e[n] * steps[0][v] : vec{};
                for (int j = 1; j < ORDER; ++j) mixed += e[j * s.ld + n] * steps[j][v];
                if (Q) mixed += e[P * s.ld + n] * rest[v];
                vec& to = v % 2 ? other : sum;
                to += mixed * load(g + v * L);
            }
            store_sum(part + n * FL, sum + other, add);
        }
    }
    for (index_t k = 0; k < s.count_far; ++k) {
        const index_t n = s.far[2 * k];
        vec sum = {};
        Window<NV>::row(latest, w + (s.far[2 * k + 1] + ORDER) * ldw, columns);
        for (int v = 0; v < NV; ++v) sum += latest[v] * load(gy + row[n] * ldy + v * L);
        store_sum(part + n * FL, -e[ORDER * s.ld + n] * sum, true);
    }
}

// gw row k (+)= sum over rows of w_k gy[row]
template <int NV, int Q>
static void weight_sweep(const Sorted& s, int G, const real* gy, index_t ldy, real* gw, index_t ldw, index_t last,
                         index_t columns, index_t next, bool add) {
    Window<NV> window = {};
    vec rest[NV] = {};
    const row_t *start = s.start, *row = s.row;
    const real* t = s.w;
    auto store_columns = [&](real* out, const vec* a) { store_row<NV>(out, a, columns, add); };
    for (int c = 0; c < G; ++c) {
        for (index_t n = start[c]; n < start[c + 1]; ++n) {
            const real* g = gy + row[n] * ldy;
            const real* ahead = gy + row[n + Sorted::AHEAD] * ldy;
            for (int v = 0; v < NV; ++v) __builtin_prefetch(ahead + v * L);
            for (int v = 0; v < NV; ++v) {
                const vec q = load(g + v * L);
                for (int j = 0; j < P; ++j) window.at[j][v] += t[j * s.ld + n] * q;
                if (Q) rest[v] += t[P * s.ld + n] * q;
            }
        }
        store_columns(gw + c * ldw, window.at[0]);
        for (int v = 0; v < NV; ++v) __builtin_prefetch(gw + next + c * ldw + v * L, 1, 2);
        window.slide();
        for (int v = 0; v < NV; ++v) window.at[P - 1][v] = vec{};
    }
    for (int j = 0; j < P - 1; ++j) store_columns(gw + (G + j) * ldw, window.at[j]);
    if (Q) store_columns(gw + last * ldw, rest);
}

// Call f(vector, width as a constant) over vectors [v0, v1) of outputs in pieces of WIDE, 4, 2, 1.
template <int WIDE, class F>
static inline void pieces(index_t v0, index_t v1, F f) {
    index_t v = v0;
    for (; v + WIDE <= v1; v += WIDE) f(v, Width<WIDE>());
    if (WIDE > 4 && v + 4 <= v1) f(v, Width<4>()), v += 4;
    if (WIDE > 2 && v + 2 <= v1) f(v, Width<2>()), v += 2;
    for (; v < v1; ++v) f(v, Width<1>());
}
