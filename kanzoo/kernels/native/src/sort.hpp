// Rows of a few inputs, sorted by grid cell, with their functions: what every sweep needs.
//
// Slopes d_j of the functions are stored as e_j = -(d_0 + .. + d_j), so that
//     sum_j d_j W_j = sum_j e_j (W_j+1 - W_j),  j < ORDER,  less e_ORDER W_ORDER,
// and the last, minus the sum of all slopes, is zero but for rows outside the grid of "zero".
#pragma once
#include "elementary.hpp"
#include "table.hpp"

static constexpr index_t MOST_INPUTS = 16;  // sorted together: what they write is whole cache lines

// The rows of one input. row_t, a type of whole numbers, is the including file's.
struct Sorted {
    row_t* start;  // (G + 1): first sorted row of each cell
    row_t* row;    // (rows + AHEAD): sample of each sorted row
    real* x;       // (ld): its input
    real* w;       // (P + 1, ld): the functions, that of the branch last
    real* e;       // (P + 1, ld): sums of their slopes; slope of the branch
    int32_t* far;  // (2 * rows): sorted row and cell of those whose last sum is not zero
    index_t ld, count_far;
    static constexpr int AHEAD = 4;

    static index_t lead(index_t rows) { return ceil_div(rows, L) * L + L; }  // vectors may overrun
    static index_t order_size(index_t rows, int G) { return G + 1 + rows + AHEAD; }
    static size_t bytes(index_t rows, int G) {
        return round_up(sizeof(real) * lead(rows) * (2 * P + 3) + sizeof(int32_t) * 2 * rows +
                        sizeof(row_t) * order_size(rows, G));
    }
    // `order`: where to keep starts and rows, or null for the same memory.
    void bind(void* p, index_t rows, int G, row_t* order = nullptr) {
        ld = lead(rows);
        x = (real*)p;
        w = x + ld;
        e = w + ld * (P + 1);
        far = (int32_t*)(e + ld * (P + 1));
        start = order ? order : (row_t*)(far + 2 * rows);
        row = start + G + 1;
    }
};

// Sorts `rows` rows of up to `inputs` inputs.
struct Sorter {
    const Spline& spline;
    index_t rows;
    int branch;
    int32_t* cell;  // (rows, inputs)
    int32_t* next;  // (lanes, G): next sorted row of each cell

    // A single input is sorted in four parts side by side, as several inputs are: in one lane each
    // row of a cell would wait for the one before.
    static index_t parts(index_t inputs) { return inputs == 1 ? 4 : 1; }

    static size_t bytes(index_t rows, index_t inputs, int G) {
        return round_up((rows * inputs + max_of(inputs, 4) * G) * sizeof(int32_t));
    }
    Sorter(const Spline& spline, index_t rows, index_t inputs, void* p, int branch = RESIDUAL_NONE)
        : spline(spline), rows(rows), branch(branch), cell((int32_t*)p), next(cell + rows * inputs) {}

    // Sort rows x[n * ldx + i] of inputs i0 + i; `out` are bound to memory for `rows`, one after the other. Their
    // order may be `known`.
    template <bool derivative>
    void sort(index_t i0, index_t inputs, const real* x, index_t ldx, Sorted* out, bool known = false) const {
        bool equal = true;
        for (index_t i = i0; i < i0 + inputs; ++i) equal = equal && spline.equal[spline.which(i)];
        if (!known) {
            equal ? find_equal(i0, inputs, x, ldx) : find(i0, inputs, x, ldx);
            arrange(inputs, x, ldx, out);
        }
        for (index_t i = 0; known && i < inputs; ++i)
            for (index_t n = 0; n < rows; ++n) out[i].x[n] = x[out[i].row[n] * ldx + i];
        for (index_t i = 0; i < inputs; ++i) {
            Sorted& o = out[i];
            const index_t v = spline.which(i0 + i);
            for (int n = 0; n < L; ++n) o.x[rows + n] = spline.grid(v)[0];
            for (int n = 0; n < Sorted::AHEAD; ++n) o.row[rows + n] = o.row[rows - 1];
            if (derivative) memset(o.e + ORDER * o.ld, 0, o.ld * sizeof(real));
            o.count_far = 0;
            bool any_outside = false;
            if (equal) any_outside = fill<derivative, true>(v, 0, 0, rows, o);
            else
                for (int c = 0; c < spline.G; ++c) any_outside |= fill<derivative, false>(v, c, o.start[c], o.start[c + 1], o);
            if (any_outside) outside<derivative>(v, o);
            if (branch != RESIDUAL_NONE) fill_branch<derivative>(o);
        }
    }

private:
    // f(entry, row, input) for all points; the number of inputs is a constant where it is the usual one.
    template <class F>
    void points(index_t inputs, F f) const {
        auto all = [&](auto count) {
            for (index_t n = 0, k = 0; n < rows; ++n)
                for (index_t i = 0; i < count; ++i, ++k) f(k, n, i);
        };
        if (inputs == MOST_INPUTS) all(Width<MOST_INPUTS>());
        else all(inputs);
    }
    // f(entry, row, input, lane) for all points; neighbours are in different lanes.
    template <class F>
    void visit(index_t inputs, F f) const {
        if (parts(inputs) == 1) return points(inputs, [&](index_t k, index_t n, index_t i) { f(k, n, i, i); });
        const index_t part = rows / 4;
        for (index_t m = 0; m < part; ++m)
            for (index_t lane = 0; lane < 4; ++lane) f(lane * part + m, lane * part + m, 0, lane);
        for (index_t n = 4 * part; n < rows; ++n) f(n, n, 0, 3);
    }

    // Equal cells.
    void find_equal(index_t i0, index_t inputs, const real* x, index_t ldx) const {
        const real most = (real)spline.G;
        const int last = spline.G - 1;
        real low[MOST_INPUTS], scale[MOST_INPUTS];
        for (index_t i = 0; i < inputs; ++i) {
            const index_t v = spline.which(i0 + i);
            low[i] = spline.grid(v)[0], scale[i] = spline.scale[v];
        }
        points(inputs, [&](index_t k, index_t n, index_t i) {
            const real at = (x[n * ldx + i] - low[i]) * scale[i];
            real t = at > 0 ? at : 0;  // NaN goes to the left end
            t = t < most ? t : most;
            cell[k] = (int)t < last ? (int)t : last;
        });
    }

    // Cells of any width.
    void find(index_t i0, index_t inputs, const real* x, index_t ldx) const {
        points(inputs, [&](index_t k, index_t n, index_t i) {
            const index_t v = spline.which(i0 + i);
            const real q = x[n * ldx + i];
            if (spline.extrapolation == EXTRAPOLATION_ZERO && spline.is_outside(v, q))
                cell[k] = q > spline.grid(v)[0] ? spline.G - 1 : 0;
            else cell[k] = spline.find(v, spline.clamp(v, q));
        });
    }

    // Rows and inputs in the order of their cells.
    void arrange(index_t inputs, const real* x, index_t ldx, Sorted* out) const {
        const int G = spline.G;
        memset(next, 0, inputs * parts(inputs) * G * sizeof(int32_t));
        visit(inputs, [&](index_t k, index_t, index_t, index_t lane) { ++next[lane * G + cell[k]]; });
        for (index_t i = 0; i < inputs; ++i) {
            int32_t sum = 0;
            for (int c = 0; c < G; ++c) {
                out[i].start[c] = (row_t)sum;
                for (index_t part = 0; part < parts(inputs); ++part) {
                    int32_t& count = next[(i * parts(inputs) + part) * G + c];
                    const int32_t rows_here = count;
                    count = sum;
                    sum += rows_here;
                }
            }
            out[i].start[G] = (row_t)sum;
        }
        row_t* row = out[0].row;
        real* sorted = out[0].x;
        const index_t row_step = inputs > 1 ? out[1].row - row : 0, x_step = inputs > 1 ? out[1].x - sorted : 0;
        visit(inputs, [&](index_t k, index_t n, index_t i, index_t lane) {
            const int32_t to = next[lane * G + cell[k]]++;
            row[i * row_step + to] = (row_t)n;
            sorted[i * x_step + to] = x[n * ldx + i];
        });
    }

    // The functions of rows [n0, n1), all in cell c or, if cells are equal, in any; a vector of rows at
    // a time. Returns whether a row may be outside.
    template <bool derivative, bool equal>
    bool fill(index_t v, int c, index_t n0, index_t n1, const Sorted& out) const {
        const real *a = spline.coef + (v * spline.G + c) * P * PL, *grid = spline.grid(v);
        const real inverse = equal ? spline.scale[v] : spline.inverse[v * spline.G + c];
        const vec low = vec{} + (equal ? 0 : grid[0]), high = vec{} + (equal ? spline.G : grid[spline.G]);
        real sums[P][P] = {};  // coefficient of each power
        for (int j = 0; derivative && j < ORDER; ++j)
            for (int m = 0; m < ORDER; ++m)
                sums[j][m] = (j > 0 ? sums[j - 1][m] : 0) - (m + 1) * a[(m + 1) * PL + j] * inverse;
        wvec any_outside = {};
        for (index_t n = n0; n < n1; n += L) {
            const vec x = load(out.x + n), at = equal ? (x - grid[0]) * inverse : x;
            vec t = at > low ? at : low;  // NaN goes to the left end
            t = t < high ? t : high;
            any_outside |= t != at;
            if (equal) {
                const ivec cells = __builtin_convertvector(t, ivec), last = ivec{} + (spline.G - 1);
                t -= __builtin_convertvector(cells < last ? cells : last, vec);
            } else {
                any_outside |= x == high;
                t = (t - grid[c]) * inverse;
            }
            for (int j = 0; j < P; ++j) {
                vec w = vec{} + a[ORDER * PL + j];
                for (int m = ORDER - 1; m >= 0; --m) w = w * t + a[m * PL + j];
                store(out.w + j * out.ld + n, w);
            }
            for (int j = 0; derivative && j < ORDER; ++j) {
                vec e = vec{} + sums[j][P - 2];
                for (int m = P - 3; m >= 0; --m) e = e * t + sums[j][m];
                store(out.e + j * out.ld + n, e);
            }
        }
        word any = 0;
        for (int l = 0; l < L; ++l) any |= any_outside[l];
        return any;
    }

    template <bool derivative>
    void fill_branch(const Sorted& out) const {
        for (index_t n = 0; n < rows; n += L) {
            const vec x = load(out.x + n);
            vec value = x, slope = vec{} + 1;
            if (branch == RESIDUAL_SILU) {
                const vec s = logistic_of(x);
                value = x * s;
                slope = s + value * ((real)1 - s);
            }
            store(out.w + P * out.ld + n, value);
            if (derivative) store(out.e + P * out.ld + n, slope);
        }
    }

    // What differs for rows outside the grid; they are in cells at the ends.
    template <bool derivative>
    void outside(index_t v, Sorted& out) const {
        const bool linear = spline.extrapolation == EXTRAPOLATION_LINEAR, zero = spline.extrapolation == EXTRAPOLATION_ZERO;
        const real* t0 = spline.grid(v);
        const int last = spline.first[v * (spline.G + 1) + spline.G];
        for (int c = 0; c < spline.G; ++c)
        for (index_t to = out.start[c]; to < out.start[c + 1]; ++to) {
            if (c > 0 && c < last && t0[c] > t0[0]) break;
            const real q = out.x[to];
            if (!spline.is_outside(v, q)) continue;
            const real* a = spline.coef + (v * spline.G + c) * P * PL;
            const real inverse = spline.inverse[v * spline.G + c], t = (spline.clamp(v, q) - t0[c]) * inverse;
            real w[PL], d[PL];
            for (int j = 0; j < P; ++j) {
                w[j] = a[ORDER * PL + j], d[j] = 0;
                for (int m = ORDER - 1; m >= 0; --m) d[j] = d[j] * t + w[j], w[j] = w[j] * t + a[m * PL + j];
                d[j] *= inverse;
                if (q != q) w[j] = d[j] = w[j] + q;
                else if (linear) w[j] += d[j] * (q - spline.clamp(v, q));
                else if (!zero) d[j] = 0;
            }
            if (zero && q == q) spline.decay(v, q, c, w, d);
            real sum = 0;
            for (int j = 0; j < P; ++j) {
                out.w[j * out.ld + to] = w[j];
                sum -= d[j];
                if (derivative && (j < ORDER || zero)) out.e[j * out.ld + to] = sum;
            }
            if (!derivative || !zero || sum == 0) continue;
            out.far[2 * out.count_far] = (int32_t)to;
            out.far[2 * out.count_far++ + 1] = c;
        }
    }
};
