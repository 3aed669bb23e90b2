// y[n, o] += sum over inputs i and functions k of w[i, k, o] phi_k(x[n, i]), and its gradients.
#pragma once
#include "sweep.hpp"

static constexpr index_t TABLE_BYTES = 320 * 1024;  // sorted tables of a group of inputs
static constexpr index_t W_BYTES = 320 * 1024;      // weights of inputs whose pieces are taken in turn
static constexpr index_t MOST_ROWS = 512;
static constexpr index_t FEW_ROWS = 8;              // up to here whole weight rows are read in turn

struct Shape {
    index_t N, I, O;
    int T, threads;
    index_t vectors() const { return ceil_div(O, L); }
    index_t near() const { return max_of(W_BYTES / (T * O * sizeof(real)), 1); }
};

// f(first, last) for all inputs of a group, so many at a time that their weights stay in the L2 cache.
template <class F>
static inline void turns(index_t inputs, index_t most, F f) {
    for (index_t i = 0; i < inputs; i += most) f(i, min_of(i + most, inputs));
}

// Between rows of ldf numbers and pieces of outputs that lie together, row after row: a piece of few
// rows fits the L1 cache, where rows of a power of two apart would meet in the same sets. `count`
// rows of `columns` numbers, in vectors [v0, v1), the first number being that of v0.
static void pack(const real* from, index_t ldf, real* to, index_t count, index_t columns, index_t v0, index_t v1,
                 index_t n0, index_t n1) {
    pieces(v0, v1, [&](index_t v, auto width) {
        constexpr index_t ld = decltype(width)::value * L;
        const index_t at = (v - v0) * L;
        copy_rows(from + n0 * ldf + at, ldf, to + count * at + n0 * ld, ld, n1 - n0, min_of(columns - at, ld));
    });
}
static void unpack(const real* from, real* to, index_t ldt, index_t count, index_t columns, index_t v0, index_t v1) {
    pieces(v0, v1, [&](index_t v, auto width) {
        constexpr index_t ld = decltype(width)::value * L;
        const index_t at = (v - v0) * L, size = min_of(columns - at, ld);
        for (index_t n = 0; n < count; ++n)
            std::memcpy(to + n * ldt + at, from + count * at + n * ld, size * sizeof(real));
    });
}

static index_t group_of(index_t rows, index_t inputs) {
    const index_t fit = TABLE_BYTES / (rows * 2 * P * sizeof(real));
    return max_of(min_of(min_of(fit, MOST_INPUTS), inputs), 1);
}

// Threads split the rows; where these are few, also the outputs.
static int linear_forward(const Spline& spline, const Shape& s, const real* x, const real* w, real* y) {
    const index_t vectors = s.vectors();
    const index_t fit = max_of(Y_BYTES / (vectors * L * sizeof(real)), 64);
    const index_t rounds = ceil_div(ceil_div(s.N, s.threads), min_of(fit, 512));
    const index_t rows = max_of(ceil_div(s.N, rounds * s.threads), min_of(s.N, 16));
    const index_t chunks = ceil_div(s.N, rows);
    const index_t parts = chunks < s.threads ? min_of(ceil_div(s.threads, chunks), vectors) : 1;
    const index_t part = ceil_div(vectors, parts), group = group_of(rows, s.I);
    const size_t each = Sorted::bytes(rows, spline.G), tables = group * each;
    const size_t sorter = Sorter::bytes(rows, group, spline.G);
    const size_t bytes = tables + sorter + round_up(rows * part * L * sizeof(real));
    Buffer memory(bytes * s.threads);
    if (!memory.p) return 1;
    parallel(chunks * parts, s.threads, [&](index_t task) {
        const index_t n0 = task / parts * rows, count = min_of(n0 + rows, s.N) - n0;
        const index_t v0 = task % parts * part, v1 = min_of(v0 + part, vectors);
        if (v0 >= v1) return;
        char* mine = (char*)memory.p + bytes * thread_number();
        const Sorter sort(spline, count, group, mine + tables);
        real* out = (real*)(mine + tables + sorter);
        const index_t o0 = v0 * L, columns = min_of(s.O - o0, (v1 - v0) * L);
        const index_t near = count > FEW_ROWS ? s.near() : 1;
        pack(y + n0 * s.O + o0, s.O, out, count, columns, v0, v1, 0, count);
        Sorted sorted[MOST_INPUTS];
        for (index_t i = 0; i < group; ++i) sorted[i].lay(mine + i * each, count);
        for (index_t i0 = 0; i0 < s.I; i0 += group) {
            const index_t inputs = min_of(group, s.I - i0);
            sort.sort<false>(i0, inputs, x + n0 * s.I + i0, s.I, sorted, each);
            turns(inputs, near, [&](index_t first, index_t last) {
                pieces(v0, v1, [&](index_t v, auto width) {
                    for (index_t i = first; i < last; ++i)
                        forward_sweep<width.value>(sorted[i], spline.G, w + (i0 + i) * s.T * s.O + v * L, s.O,
                                                   s.O - v * L, s.T * s.O, out + count * (v - v0) * L, width.value * L);
                });
            });
        }
        unpack(out, y + n0 * s.O + o0, s.O, count, columns, v0, v1);
    });
    return 0;
}

// Threads split the inputs; where these are few and only the weight's gradient is asked, also the
// outputs. gx or gw may be null.
static int linear_backward(const Spline& spline, const Shape& s, const real* gy, const real* x, const real* w,
                           real* gx, real* gw) {
    const index_t vectors = s.vectors(), rows = min_of(s.N, MOST_ROWS);
    Buffer packed(s.N * vectors * L * sizeof(real));
    real* g = (real*)packed.p;
    if (!g) return 1;
    parallel(ceil_div(s.N, 64), s.threads, [&](index_t task) {
        pack(gy, s.O, g, s.N, s.O, 0, vectors, task * 64, min_of(task * 64 + 64, s.N));
    });
    const index_t group = min_of(group_of(rows, s.I), ceil_div(s.I, s.threads));
    const index_t groups = ceil_div(s.I, group);
    const index_t parts = !gx && groups < s.threads ? min_of(ceil_div(s.threads, groups), vectors) : 1;
    const index_t part = ceil_div(ceil_div(vectors, parts), WIDE) * WIDE;  // of whole pieces
    const size_t each = Sorted::bytes(rows, spline.G), tables = group * each;
    const size_t sorting = Sorter::bytes(rows, group, spline.G);
    const size_t bytes = tables + sorting + round_up(group * rows * FL * sizeof(real));
    Buffer memory(bytes * s.threads);
    if (!memory.p) return 1;
    const index_t near = s.near();
    if (gw) expect_large(gw, s.I * s.T * s.O * sizeof(real));
    parallel(groups * parts, s.threads, [&](index_t number) {
        const index_t task = spread(number, groups * parts, s.threads);
        const index_t i0 = task / parts * group, inputs = min_of(group, s.I - i0);
        const index_t v0 = task % parts * part, v1 = min_of(v0 + part, vectors);
        char* mine = (char*)memory.p + bytes * thread_number();
        real* sum = (real*)(mine + tables + sorting);
        Sorted sorted[MOST_INPUTS];
        for (index_t n0 = 0; n0 < s.N && v0 < v1; n0 += rows) {
            const index_t count = min_of(rows, s.N - n0);
            for (index_t i = 0; i < inputs; ++i) sorted[i].lay(mine + i * each, count);
            const Sorter sorter(spline, count, inputs, mine + tables);
            if (gx) sorter.sort<true>(i0, inputs, x + n0 * s.I + i0, s.I, sorted, each);
            else sorter.sort<false>(i0, inputs, x + n0 * s.I + i0, s.I, sorted, each);
            turns(inputs, near, [&](index_t first, index_t last) { pieces(v0, v1, [&](index_t v, auto width) {
                constexpr index_t ldy = decltype(width)::value * L;
                const real* part_g = g + s.N * v * L + n0 * ldy;
                for (index_t i = first; i < last; ++i) {
                    const index_t at = (i0 + i) * s.T * s.O + v * L;
                    if (gw)
                        weight_sweep<width.value>(sorted[i], spline.G, part_g, ldy, gw + at, s.O, s.O - v * L,
                                                  s.T * s.O, n0 > 0);
                    if (gx)
                        input_sweep<width.value>(sorted[i], spline.G, w + at, s.O, s.O - v * L, s.T * s.O, part_g,
                                                 ldy, sum + i * rows * FL, v > v0);
                }
            }); });
            if (!gx) continue;
            real* found = (real*)(mine + tables);  // (count, inputs); the sorter is done with it
            for (index_t i = 0; i < inputs; ++i)
                for (index_t n = 0; n < count; ++n)
                    found[sorted[i].row[n] * inputs + i] =
                        Fold<FL, 1>::run(*(const fvec*)(sum + (i * rows + n) * FL))[0];
            for (index_t n = 0; n < count; ++n)
                std::memcpy(gx + (n0 + n) * s.I + i0, found + n * inputs, inputs * sizeof(real));
        }
    });
    return 0;
}
