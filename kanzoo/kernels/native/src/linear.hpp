// y[n, o] = b[o] + sum over inputs i and functions k of w[i, k, o] phi_k(x[n, i]), and its gradients.
#pragma once
#include <stdint.h>
typedef uint16_t row_t;  // of a block
#include "sweep.hpp"

static constexpr index_t TABLE_BYTES = 320 * 1024;  // sorted tables of a group of inputs
static constexpr index_t W_BYTES = 320 * 1024;      // weights of inputs whose tiles are read one after another
static constexpr index_t MOST_ROWS = 512;
static constexpr index_t FEW_ROWS = 8;              // up to here full weight rows are read one by one

struct Shape {
    index_t N, I, O;
    int T, threads, branch;
    index_t vectors() const { return ceil_div(O, L); }
    index_t near() const { return max_of(W_BYTES / (T * O * sizeof(real)), 1); }
    // Threads of the forward split the rows; where a block of rows holds all that there are, the inputs.
    index_t rows() const {
        const index_t fit = min_of(max_of(Y_BYTES / (vectors() * L * sizeof(real)), 64), MOST_ROWS);
        const index_t split = max_of(threads / I, 1);
        return min_of(ceil_div(N, N <= fit ? split : ceil_div(N, fit * threads) * threads), fit);
    }
};

// f(first, last) for all inputs of a group, so many at a time that their weights stay in the L2 cache.
template <class F>
static inline void input_chunks(index_t inputs, index_t most, F f) {
    for (index_t i = 0; i < inputs; i += most) f(i, min_of(i + most, inputs));
}

// Between rows of ldf numbers and pieces of outputs that lie together, row after row: a piece of few
// rows fits the L1 cache, where rows of a power of two apart would meet in the same sets. `count`
// rows of `columns` numbers, in vectors [v0, v1), the first number being that of v0.
template <int WIDE>
static void pack(const real* from, index_t ldf, real* to, index_t count, index_t columns, index_t v0, index_t v1,
                 index_t n0, index_t n1) {
    pieces<WIDE>(v0, v1, [&](index_t v, auto width) {
        constexpr index_t ld = decltype(width)::value * L;
        const index_t at = (v - v0) * L;
        copy_rows(from + n0 * ldf + at, ldf, to + count * at + n0 * ld, ld, n1 - n0, min_of(columns - at, ld));
    });
}
template <int WIDE>
static void unpack(const real* from, real* to, index_t ldt, index_t count, index_t columns, index_t v0, index_t v1) {
    pieces<WIDE>(v0, v1, [&](index_t v, auto width) {
        constexpr index_t ld = decltype(width)::value * L;
        const index_t at = (v - v0) * L, size = min_of(columns - at, ld);
        for (index_t n = 0; n < count; ++n)
            memcpy(to + n * ldt + at, from + count * at + n * ld, size * sizeof(real));
    });
}

static index_t group_of(index_t rows, index_t inputs) {
    const index_t fit = TABLE_BYTES / (rows * 2 * P * sizeof(real));
    return max_of(min_of(min_of(fit, MOST_INPUTS), inputs), 1);
}

// How the rows are sorted, as the forward may leave it to the backward: block after block of rows,
// input after input.
struct Order {
    row_t* p;  // or null
    index_t rows, I;
    int G;
    row_t* at(index_t n0, index_t count, index_t i) const {
        return p ? p + n0 / rows * I * Sorted::order_size(rows, G) + i * Sorted::order_size(count, G) : nullptr;
    }
};

// `bias` may be null.
template <int Q>
static int linear_forward(const Spline& spline, const Shape& s, const real* x, const real* w, const real* bias,
                          real* y, row_t* sorted_rows) {
    const index_t vectors = s.vectors(), rows = s.rows(), chunks = ceil_div(s.N, rows);
    const index_t parts = min_of(ceil_div(s.threads, chunks), s.I), part = ceil_div(s.I, parts);
    const index_t group = min_of(group_of(rows, s.I), part), block = rows * vectors * L;
    const size_t each = Sorted::bytes(rows, spline.G), tables = group * each;
    const size_t bytes = tables + Sorter::bytes(rows, group, spline.G);
    Buffer memory(bytes * s.threads), sums((parts > 1 ? chunks * parts : s.threads) * block * sizeof(real));
    if (!memory.p || !sums.p) return 1;
    real* blocks = (real*)sums.p;  // packed, of every task if the sums of several make one of y
    const Order order = {sorted_rows, rows, s.I, spline.G};
    parallel(chunks * parts, s.threads, [&](index_t task) {
        const index_t n0 = task / parts * rows, count = min_of(rows, s.N - n0);
        const index_t first = task % parts * part, last = min_of(first + part, s.I);
        char* workspace = (char*)memory.p + bytes * thread_number();
        real* out = blocks + (parts > 1 ? task : thread_number()) * block;
        if (bias && first == 0) pack<wide(Q)>(bias, 0, out, count, s.O, 0, vectors, 0, count);
        else memset(out, 0, count * vectors * L * sizeof(real));
        Sorted sorted[MOST_INPUTS];
        const index_t near = count > FEW_ROWS ? s.near() : 1;
        for (index_t i0 = first; i0 < last; i0 += group) {
            const index_t inputs = min_of(group, last - i0);
            for (index_t i = 0; i < inputs; ++i)
                sorted[i].bind(workspace + i * each, count, spline.G, order.at(n0, count, i0 + i));
            const Sorter sorter(spline, count, inputs, workspace + tables, s.branch);
            sorter.sort<false>(i0, inputs, x + n0 * s.I + i0, s.I, sorted);
            input_chunks(inputs, near, [&](index_t from, index_t to) { pieces<wide(Q)>(0, vectors, [&](index_t v, auto width) {
                for (index_t i = from; i < to; ++i)
                    forward_sweep<width.value, Q>(sorted[i], spline.G, w + (i0 + i) * s.T * s.O + v * L, s.O, s.T - 1,
                                                  s.O - v * L, s.T * s.O, out + count * v * L, width.value * L);
            }); });
        }
        if (parts == 1) unpack<wide(Q)>(out, y + n0 * s.O, s.O, count, s.O, 0, vectors);
    });
    if (parts > 1) parallel(chunks, s.threads, [&](index_t chunk) {
        real* out = blocks + chunk * parts * block;
        const index_t count = min_of(rows, s.N - chunk * rows);
        for (index_t p = 1; p < parts && p * part < s.I; ++p)
            for (index_t k = 0; k < count * vectors * L; ++k) out[k] += out[p * block + k];
        unpack<wide(Q)>(out, y + chunk * rows * s.O, s.O, count, s.O, 0, vectors);
    });
    return 0;
}

// The gradient of one input from partial sums in the order of its cells, four rows at a time.
static void scatter_sums(const Sorted& s, const real* part, index_t count, real* to, index_t ld) {
    for (index_t n = 0; n < count; n += FL) {
        const fvec grads = sums_of<FL>((const fvec*)(part + n * FL));
        for (index_t k = 0; k < min_of(FL, count - n); ++k) to[s.row[n + k] * ld] = grads[k];
    }
}

// Threads split the inputs; where these are few and only the weight's gradient is asked, also the
// outputs. gx or gw may be null; `sorted_rows` is what the forward left, or null.
template <int Q>
static int linear_backward(const Spline& spline, const Shape& s, const real* gy, const real* x, const real* w,
                           real* gx, real* gw, row_t* sorted_rows) {
    const index_t vectors = s.vectors(), rows = sorted_rows ? s.rows() : min_of(s.N, MOST_ROWS);
    Buffer packed(s.N * vectors * L * sizeof(real));
    real* g = (real*)packed.p;
    if (!g) return 1;
    parallel(ceil_div(s.N, 64), s.threads, [&](index_t task) {
        pack<wide(Q)>(gy, s.O, g, s.N, s.O, 0, vectors, task * 64, min_of(task * 64 + 64, s.N));
    });
    const index_t group = min_of(group_of(rows, s.I), ceil_div(s.I, s.threads));
    const index_t groups = ceil_div(s.I, group);
    const index_t parts = !gx && groups < s.threads ? min_of(ceil_div(s.threads, groups), vectors) : 1;
    const index_t part = ceil_div(ceil_div(vectors, parts), wide(Q)) * wide(Q);  // of whole pieces
    const size_t each = Sorted::bytes(rows, spline.G), tables = group * each;
    const size_t sorting = max_of(Sorter::bytes(rows, group, spline.G), round_up(rows * group * sizeof(real)));
    const index_t sums = round_up(rows * FL * sizeof(real)) / sizeof(real) + FL * FL;  // of one input
    const size_t bytes = tables + sorting + group * sums * sizeof(real);
    Buffer memory(bytes * s.threads);
    if (!memory.p) return 1;
    const index_t near = s.near();
    const Order order = {sorted_rows, rows, s.I, spline.G};
    if (gw) expect_large(gw, s.I * s.T * s.O * sizeof(real));
    parallel(groups * parts, s.threads, [&](index_t number) {
        const index_t task = interleave(number, groups * parts, s.threads);
        const index_t i0 = task / parts * group, inputs = min_of(group, s.I - i0);
        const index_t v0 = task % parts * part, v1 = min_of(v0 + part, vectors);
        char* workspace = (char*)memory.p + bytes * thread_number();
        real* sum = (real*)(workspace + tables + sorting);
        Sorted sorted[MOST_INPUTS];
        for (index_t n0 = 0; n0 < s.N && v0 < v1; n0 += rows) {
            const index_t count = min_of(rows, s.N - n0);
            for (index_t i = 0; i < inputs; ++i)
                sorted[i].bind(workspace + i * each, count, spline.G, order.at(n0, count, i0 + i));
            const Sorter sorter(spline, count, inputs, workspace + tables, s.branch);
            if (gx) sorter.sort<true>(i0, inputs, x + n0 * s.I + i0, s.I, sorted, sorted_rows);
            else sorter.sort<false>(i0, inputs, x + n0 * s.I + i0, s.I, sorted, sorted_rows);
            input_chunks(inputs, near, [&](index_t first, index_t last) { pieces<wide(Q)>(v0, v1, [&](index_t v, auto width) {
                constexpr index_t ldy = decltype(width)::value * L;
                const real* part_g = g + s.N * v * L + n0 * ldy;
                for (index_t i = first; i < last; ++i) {
                    const index_t at = (i0 + i) * s.T * s.O + v * L;
                    if (gw)
                        weight_sweep<width.value, Q>(sorted[i], spline.G, part_g, ldy, gw + at, s.O, s.T - 1,
                                                     s.O - v * L, s.T * s.O, n0 > 0);
                    if (gx)
                        input_sweep<width.value, Q>(sorted[i], spline.G, w + at, s.O, s.T - 1, s.O - v * L,
                                                    s.T * s.O, part_g, ldy, sum + i * sums, v > v0);
                }
            }); });
            if (!gx) continue;
            real* grads = (real*)(workspace + tables);  // (count, inputs); the sorter is done with it
            for (index_t i = 0; i < inputs; ++i) scatter_sums(sorted[i], sum + i * sums, count, grads + i, inputs);
            auto store = [&](auto columns) {  // the usual number is a constant
                for (index_t n = 0; n < count; ++n)
                    memcpy(gx + (n0 + n) * s.I + i0, grads + n * columns, columns * sizeof(real));
            };
            if (inputs == MOST_INPUTS) store(Width<MOST_INPUTS>());
            else store(inputs);
        }
    });
    return 0;
}
