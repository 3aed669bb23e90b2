// Rows of a few inputs, sorted by grid cell, with their functions: what every sweep needs.
//
// Slopes d_j of the functions are kept as e_j = -(d_0 + .. + d_j), so that
//     sum_j d_j W_j = sum_j e_j (W_j+1 - W_j),  j < ORDER,  less e_ORDER W_ORDER,
// and the last, minus the sum of all slopes, is zero but for rows outside the grid of "zero".
#pragma once
#include <type_traits>

#include "table.hpp"

static constexpr index_t MOST_INPUTS = 16;  // sorted together: what they write is whole cache lines

// The rows of one input.
struct Sorted {
    int32_t* start;  // (G + 1): first sorted row of each cell
    int32_t* row;    // (rows + AHEAD): sample of each sorted row
    real* place;     // (ld): where it lies in its cell, 0 to 1
    real* w;         // (P, ld): the functions
    real* e;         // (P, ld): sums of their slopes
    int32_t* far;    // (2 * rows): sorted row and cell of those whose last sum is not zero
    index_t ld, count_far;
    static constexpr int AHEAD = 4;

    static index_t lead(index_t rows) { return ceil_div(rows, L) * L + L; }  // vectors may overrun
    static size_t bytes(index_t rows, int G) {
        return round_up(sizeof(real) * lead(rows) * (2 * P + 1) + sizeof(int32_t) * (3 * rows + AHEAD + G + 1));
    }
    void lay(void* p, index_t rows) {
        ld = lead(rows);
        place = (real*)p;
        w = place + ld;
        e = w + ld * P;
        row = (int32_t*)(e + ld * P);
        far = row + rows + AHEAD;
        start = far + 2 * rows;
    }
};

// Sorts `rows` rows of up to `inputs` inputs.
struct Sorter {
    const Spline& spline;
    index_t rows;
    real* at;       // (rows, inputs): place of each point in its cell
    int32_t* cell;  // (rows, inputs)
    int32_t* next;  // (lanes, G): next sorted row of each cell

    // A single input is sorted in four parts side by side, as several inputs are: in one lane each
    // row of a cell would wait for the one before.
    static index_t parts(index_t inputs) { return inputs == 1 ? 4 : 1; }

    static size_t bytes(index_t rows, index_t inputs, int G) {
        return round_up(rows * inputs * (sizeof(real) + sizeof(int32_t)) + max_of(inputs, 4) * G * sizeof(int32_t));
    }
    Sorter(const Spline& spline, index_t rows, index_t inputs, void* p) : spline(spline), rows(rows) {
        at = (real*)p;
        cell = (int32_t*)(at + rows * inputs);
        next = cell + rows * inputs;
    }

    // Sort rows x[n * ldx + i] of inputs i0 + i; `out` are `each` bytes apart and laid for `rows`.
    template <bool derivative>
    void sort(index_t i0, index_t inputs, const real* x, index_t ldx, Sorted* out, size_t each) const {
        bool equal = true;
        for (index_t i = i0; i < i0 + inputs; ++i) equal = equal && spline.equal[spline.which(i)];
        const bool away = equal ? find_equal(i0, inputs, x, ldx) : find(i0, inputs, x, ldx);
        const int G = spline.G;
        std::memset(next, 0, inputs * parts(inputs) * G * sizeof(int32_t));
        visit(inputs, [&](index_t k, index_t, index_t, index_t lane) { ++next[lane * G + cell[k]]; });
        for (index_t i = 0; i < inputs; ++i) {
            int32_t sum = 0;
            for (int c = 0; c < G; ++c) {
                out[i].start[c] = sum;
                for (index_t part = 0; part < parts(inputs); ++part) {
                    int32_t& count = next[(i * parts(inputs) + part) * G + c];
                    const int32_t rows_here = count;
                    count = sum;
                    sum += rows_here;
                }
            }
            out[i].start[G] = sum;
        }
        int32_t* row = out[0].row;
        real* place = out[0].place;
        const index_t row_step = each / sizeof(int32_t), place_step = each / sizeof(real);
        visit(inputs, [&](index_t k, index_t n, index_t i, index_t lane) {
            const int32_t to = next[lane * G + cell[k]]++;
            row[i * row_step + to] = (int32_t)n;
            place[i * place_step + to] = at[k];
        });
        for (index_t i = 0; i < inputs; ++i) {
            const index_t v = spline.which(i0 + i);
            for (int n = 0; n < L; ++n) out[i].place[rows + n] = 0;
            for (int n = 0; n < Sorted::AHEAD; ++n) out[i].row[rows + n] = out[i].row[rows - 1];
            if (derivative) std::memset(out[i].e + ORDER * out[i].ld, 0, out[i].ld * sizeof(real));
            out[i].count_far = 0;
            if (equal) fill<derivative>(spline.coef, spline.scale[v], 0, rows, out[i]);
            else
                for (int c = 0; c < G; ++c)
                    fill<derivative>(spline.coef + (v * G + c) * P * PL, spline.inverse[v * G + c], out[i].start[c],
                                     out[i].start[c + 1], out[i]);
            if (away) outside<derivative>(v, x + i, ldx, out[i]);
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
        if (inputs == MOST_INPUTS) all(std::integral_constant<index_t, MOST_INPUTS>());
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

    // Equal cells, and places; whether a point is outside.
    bool find_equal(index_t i0, index_t inputs, const real* x, index_t ldx) const {
        const real most = (real)spline.G;
        const int last = spline.G - 1;
        real low[MOST_INPUTS], scales[MOST_INPUTS];
        for (index_t i = 0; i < inputs; ++i) {
            const index_t v = spline.which(i0 + i);
            low[i] = spline.grid(v)[0], scales[i] = spline.scale[v];
        }
        points(inputs, [&](index_t k, index_t n, index_t i) { at[k] = (x[n * ldx + i] - low[i]) * scales[i]; });
        int away = 0;
        for (index_t k = 0; k < rows * inputs; ++k) {
            real t = at[k] > 0 ? at[k] : 0;  // NaN goes to the left end
            t = t < most ? t : most;
            away += t != at[k];
            const int c = (int)t < last ? (int)t : last;
            cell[k] = c;
            at[k] = t - (real)c;
        }
        return away;
    }

    // Cells of any width, and places.
    bool find(index_t i0, index_t inputs, const real* x, index_t ldx) const {
        bool away = false;
        points(inputs, [&](index_t k, index_t n, index_t i) {
            const index_t v = spline.which(i0 + i);
            const real q = x[n * ldx + i], inside = spline.clamp(v, q);
            int c = spline.find(v, inside);
            if (spline.is_outside(v, q)) {
                away = true;
                if (spline.extrapolation == ZERO) c = q > spline.grid(v)[0] ? spline.G - 1 : 0;
            }
            cell[k] = c;
            at[k] = (inside - spline.grid(v)[c]) * spline.inverse[v * spline.G + c];
        });
        return away;
    }

    // The functions of rows [n0, n1), all in one cell or in equal ones, a vector of rows at a time.
    template <bool derivative>
    void fill(const real* a, real inverse, index_t n0, index_t n1, const Sorted& out) const {
        real sums[P][P] = {};  // coefficient of each power
        for (int j = 0; derivative && j < ORDER; ++j)
            for (int m = 0; m < ORDER; ++m)
                sums[j][m] = (j > 0 ? sums[j - 1][m] : 0) - (m + 1) * a[(m + 1) * PL + j] * inverse;
        for (index_t n = n0; n < n1; n += L) {
            const vec t = load(out.place + n);
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
    }

    // What differs for rows outside the grid; they are in cells at the ends.
    template <bool derivative>
    void outside(index_t v, const real* x, index_t ldx, Sorted& out) const {
        const bool linear = spline.extrapolation == LINEAR, zero = spline.extrapolation == ZERO;
        const real* t0 = spline.grid(v);
        const int last = spline.first[v * (spline.G + 1) + spline.G];
        for (int c = 0; c < spline.G; ++c)
        for (index_t to = out.start[c]; to < out.start[c + 1]; ++to) {
            if (c > 0 && c < last && t0[c] > t0[0]) break;
            const real q = x[out.row[to] * ldx];
            if (!spline.is_outside(v, q)) continue;
            const real *a = spline.coef + (v * spline.G + c) * P * PL, t = out.place[to];
            const real inverse = spline.inverse[v * spline.G + c];
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
