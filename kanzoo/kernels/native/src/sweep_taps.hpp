// The inner loops of a convolution: one channel, all taps, pixels sorted by grid cell.
//
// A tap moves rows of outputs by a fixed number of rows, so that pixels of one cell share, tap after
// tap, the P rows of weight of the cell. Blocks of ROWS pixels (forward, input) or TAPS taps (weight)
// keep the vector units busy where a single row would wait for its loads. Q is 1 with the residual
// branch, a function of every cell whose weights follow the spline's, else 0.
#pragma once
#include "sort.hpp"

#if defined(__AVX512F__) || defined(__aarch64__)
static constexpr int ROWS = P <= 4 ? 4 : 2, TAPS = P <= 4 ? 2 : 1;
#else
static constexpr int ROWS = P <= 4 ? 2 : 1, TAPS = 1;
#endif
static constexpr int BROAD = 2;  // vectors of outputs of a sweep

struct Taps {
    index_t count;
    const index_t* move;  // rows from a pixel down to its output
    const index_t* at;    // where the weight of the tap begins
};

// Sorted pixels of a channel, and in the same order their rows of outputs and residual branch.
struct Pixels {
    Sorted sorted;
    const int32_t* row;
    const real* residual;
};

// Call f(first sorted row, rows as a constant, cell) for all rows of every cell.
template <class F>
static inline void each_rows(const Sorted& s, int G, F f) {
    for (int c = 0; c < G; ++c) {
        index_t n = s.start[c];
        const index_t end = s.start[c + 1];
        for (; n + ROWS <= end; n += ROWS) f(n, Width<ROWS>(), c);
        for (; n < end; ++n) f(n, Width<1>(), c);
    }
}

// y[row - move] += sum_j w_j W_j + r W_last for all taps
template <int NV, int Q>
static void forward_taps(const Pixels& p, int G, const Taps& taps, const real* w, index_t ldw, index_t last, real* y,
                         index_t ldy) {
    each_rows(p.sorted, G, [&](index_t n, auto rows, int c) {
        constexpr int R = decltype(rows)::value;
        vec t[R][P + Q];
        real* out[R];
        for (int r = 0; r < R; ++r) {
            for (int j = 0; j < P; ++j) t[r][j] = vec{} + p.sorted.w[j * p.sorted.ld + n + r];
            if (Q) t[r][P + Q - 1] = vec{} + p.residual[n + r];
            out[r] = y + p.row[n + r] * ldy;
        }
        for (index_t k = 0; k < taps.count; ++k) {
            const real* from = w + taps.at[k];
            const index_t move = taps.move[k] * ldy;
            vec acc[R][NV];
            for (int r = 0; r < R; ++r)
                for (int v = 0; v < NV; ++v) acc[r][v] = load(out[r] - move + v * L);
            for (int j = 0; j < P + Q; ++j)
                for (int v = 0; v < NV; ++v) {
                    const vec q = load(from + (j < P ? c + j : last) * ldw + v * L);
                    for (int r = 0; r < R; ++r) acc[r][v] += t[r][j] * q;
                }
            for (int r = 0; r < R; ++r)
                for (int v = 0; v < NV; ++v) store(out[r] - move + v * L, acc[r][v]);
        }
    });
}

// slope[n] (+)= sum_j d_j sum_taps <W_j, g[row - move]>, rest[n] the same for W_last
template <int NV, int Q>
static void input_taps(const Pixels& p, int G, const Taps& taps, const real* w, index_t ldw, index_t last,
                       const real* g, index_t ldy, real* slope, real* rest, bool add) {
    each_rows(p.sorted, G, [&](index_t n, auto rows, int c) {
        constexpr int R = decltype(rows)::value;
        vec acc[R][P + Q] = {};
        const real* at[R];
        for (int r = 0; r < R; ++r) at[r] = g + p.row[n + r] * ldy;
        for (index_t k = 0; k < taps.count; ++k) {
            const real* from = w + taps.at[k];
            const index_t move = taps.move[k] * ldy;
            for (int v = 0; v < NV; ++v) {
                vec q[R];
                for (int r = 0; r < R; ++r) q[r] = load(at[r] - move + v * L);
                for (int j = 0; j < P + Q; ++j) {
                    const vec a = load(from + (j < P ? c + j : last) * ldw + v * L);
                    for (int r = 0; r < R; ++r) acc[r][j] += a * q[r];
                }
            }
        }
        for (int r = 0; r < R; ++r) {
            const real* e = p.sorted.e + n + r;
            vec sum = -e[ORDER * p.sorted.ld] * acc[r][ORDER];
            for (int j = 0; j < ORDER; ++j) sum += e[j * p.sorted.ld] * (acc[r][j + 1] - acc[r][j]);
            const real total = Fold<L, 1>::run(sum)[0];
            slope[n + r] = add ? slope[n + r] + total : total;
            if (!Q) continue;
            const real other = Fold<L, 1>::run(acc[r][P + Q - 1])[0];
            rest[n + r] = add ? rest[n + r] + other : other;
        }
    });
}

// gw row k (+)= sum over rows of w_k g[row - move], gw row `last` the same with r, for K taps
template <int NV, int Q, int K>
static void weight_taps(const Pixels& p, int G, const index_t* move, const index_t* at, const real* g, index_t ldy,
                        real* gw, index_t ldw, index_t last, index_t columns, bool add) {
    vec acc[K][P][NV] = {}, rest[K][NV] = {};
    const Sorted& s = p.sorted;
    const real* from[K];
    for (int k = 0; k < K; ++k) from[k] = g - move[k] * ldy;
    auto store_columns = [&](real* out, const vec* a) { store_row<NV>(out, a, columns, add); };
    for (int c = 0; c < G; ++c) {
        for (index_t n = s.start[c]; n < s.start[c + 1]; ++n) {
            const index_t row = p.row[n] * ldy;
            vec t[P + Q];
            for (int j = 0; j < P; ++j) t[j] = vec{} + s.w[j * s.ld + n];
            if (Q) t[P + Q - 1] = vec{} + p.residual[n];
            for (int k = 0; k < K; ++k)
                for (int v = 0; v < NV; ++v) {
                    const vec q = load(from[k] + row + v * L);
                    for (int j = 0; j < P; ++j) acc[k][j][v] += t[j] * q;
                    if (Q) rest[k][v] += t[P + Q - 1] * q;
                }
        }
        for (int k = 0; k < K; ++k) {
            store_columns(gw + at[k] + c * ldw, acc[k][0]);
            for (int v = 0; v < NV; ++v) {
                for (int j = 0; j + 1 < P; ++j) acc[k][j][v] = acc[k][j + 1][v];
                acc[k][P - 1][v] = vec{};
            }
        }
    }
    for (int k = 0; k < K; ++k) {
        for (int j = 0; j < P - 1; ++j) store_columns(gw + at[k] + (G + j) * ldw, acc[k][j]);
        if (Q) store_columns(gw + at[k] + last * ldw, rest[k]);
    }
}
