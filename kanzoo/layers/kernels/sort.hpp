// Rows of one input, sorted by grid cell, with their functions: what every sweep needs.
#pragma once
#include "table.hpp"

struct Sorted {
    int32_t* start;  // (G + 1): first sorted row of each cell
    int32_t* row;    // (rows + AHEAD): sample of each sorted row
    real* w;         // (P, ld): the functions
    real* d;         // (P, ld): their derivatives
    index_t ld;
    static constexpr int AHEAD = 4;

    static index_t lead(index_t rows) { return ceil_div(rows, L) * L + L; }  // vectors may overrun
    static size_t bytes(index_t rows, int G) {
        return round_up(sizeof(real) * lead(rows) * 2 * P + sizeof(int32_t) * (rows + AHEAD + G + 1));
    }
    void place(void* p, index_t rows) {
        ld = lead(rows);
        w = (real*)p;
        d = w + ld * P;
        row = (int32_t*)(d + ld * P);
        start = row + rows + AHEAD;
    }
};

struct Sorter {
    const Spline& spline;
    index_t rows;
    real *x, *y;    // (rows): input, input moved into the grid
    real* place;    // (rows + L): the latter, sorted
    int32_t* cell;  // (rows)
    int32_t* next;  // (2, G): next sorted row of each cell, for either half of the rows

    static constexpr index_t STRIP = 64;

    static size_t bytes(index_t rows, int G) {
        return round_up((3 * rows + L) * sizeof(real) + (rows + 2 * G) * sizeof(int32_t));
    }
    Sorter(const Spline& spline, index_t rows, void* p) : spline(spline), rows(rows) {
        x = (real*)p;
        y = x + rows;
        place = y + rows;
        cell = (int32_t*)(place + rows + L);
        next = cell + rows;
    }

    // The functions of all sorted rows of every cell, a vector of rows at a time.
    template <bool derivative>
    void fill(index_t v, const Sorted& out) const {
        const real *inverse = spline.inverse + v * spline.G, *grid = spline.grid(v);
        for (int c = 0; c < spline.G; ++c) {
            const real* a = spline.coef + (v * spline.G + c) * P * PL;
            for (index_t n = out.start[c]; n < out.start[c + 1]; n += L) {
                const vec t = (load(place + n) - grid[c]) * inverse[c];
                for (int j = 0; j < P; ++j) {
                    vec w = vec{} + a[ORDER * PL + j], d = {};
                    for (int m = ORDER - 1; m >= 0; --m) {
                        if (derivative) d = d * t + w;
                        w = w * t + a[m * PL + j];
                    }
                    store(out.w + j * out.ld + n, w);
                    if (derivative) store(out.d + j * out.ld + n, d * inverse[c]);
                }
            }
        }
    }

    // What differs for rows outside the grid.
    template <bool derivative>
    void extrapolate(index_t v, const Sorted& out) const {
        const bool linear = spline.extrapolation == LINEAR, zero = spline.extrapolation == ZERO;
        const real* t0 = spline.grid(v);
        const int last = spline.first[v * (spline.G + 1) + spline.G];  // they are in cells at the ends
        for (int c = 0; c < spline.G; ++c)
        for (index_t to = out.start[c]; to < out.start[c + 1]; ++to) {
            if (c > 0 && c < last && t0[c] > t0[0]) break;
            const index_t n = out.row[to];
            if (x[n] == y[n]) continue;  // not for NaN
            const real *a = spline.coef + (v * spline.G + c) * P * PL, *grid = spline.grid(v);
            const real inverse = spline.inverse[v * spline.G + c], t = (y[n] - grid[c]) * inverse;
            real w[PL], d[PL];
            for (int j = 0; j < P; ++j) {
                w[j] = a[ORDER * PL + j], d[j] = 0;
                for (int m = ORDER - 1; m >= 0; --m) d[j] = d[j] * t + w[j], w[j] = w[j] * t + a[m * PL + j];
                d[j] *= inverse;
                if (x[n] != x[n]) w[j] = d[j] = w[j] + x[n];
                else if (linear) w[j] += d[j] * (x[n] - y[n]);
                else if (!zero) d[j] = 0;
            }
            if (zero && x[n] == x[n]) spline.decay(v, x[n], c, w, d);
            for (int j = 0; j < P; ++j) {
                out.w[j * out.ld + to] = w[j];
                if (derivative) out.d[j * out.ld + to] = d[j];
            }
        }
    }

    // Count points outside the grid to its first or last cell, and mark them by y != x.
    void move_out(real low, real high, bool open, const int32_t* away) const {
        for (index_t n = 0; n < rows; ++n) {
            if (n % STRIP == 0 && !away[n / STRIP]) {
                n += STRIP - 1;
                continue;
            }
            const bool left = x[n] < low, right = x[n] > high || (open && x[n] == high);
            if (!left && !right) continue;
            int32_t* count = n < rows / 2 ? next : next + spline.G;
            --count[cell[n]];
            cell[n] = left ? 0 : spline.G - 1;
            ++count[cell[n]];
            y[n] = left ? high : low;
        }
    }

    // Counting sort of `rows` values (stride ld apart) of input i.
    template <bool derivative>
    void sort(index_t i, const real* from, index_t ld, Sorted& out) const {
        const index_t v = spline.which(i), half = rows / 2;
        const int G = spline.G;
        const real* t = spline.grid(v);
        const int32_t* first = spline.first + v * (G + 1);
        const real low = t[0], high = t[G], scale = spline.scale[v];
        // "zero" counts the right end to the outer cells, if there are any.
        const bool zero = spline.extrapolation == ZERO, open = zero && high < t[G + ORDER];
        const real end = open ? high : __builtin_huge_valf();
        const int steps = spline.steps[v];
        int away = 0;
        for (index_t n = 0; n < rows; ++n) x[n] = from[n * ld];
        int32_t* strips = (int32_t*)place;  // how many of each strip are outside
        for (index_t n0 = 0; n0 < rows; n0 += STRIP) {
            int here = 0;
            for (index_t n = n0; n < min_of(n0 + STRIP, rows); ++n) {
                real q = x[n] > low ? x[n] : low;  // NaN goes to the left end
                q = q < high ? q : high;
                y[n] = q;
                here += (q != x[n]) | (q == end);
                const int b = (int)((q - low) * scale);
                cell[n] = b < G - 1 ? b : G - 1;
            }
            strips[n0 / STRIP] = here;
            away += here;
        }
        // Two halves side by side: in one, each row of a cell would wait for the one before. The
        // count keeps compilers from vectorising this with gathers, which are slower.
        int32_t *a = next, *b = next + G;
        std::memset(next, 0, 2 * G * sizeof(int32_t));
        auto find = [&](index_t n, int32_t* count) {
            int c = first[cell[n]], left = first[cell[n] + 1] - c;
            for (int s = 0; s < steps; ++s) {  // without branches: cells are unpredictable
                const int part = (left + 1) >> 1;
                c += part & -(int)(y[n] >= t[c + part]);
                left -= part;
            }
            cell[n] = c;
            ++count[c];
        };
        if (steps == 0) {
            for (index_t n = 0; n < half; ++n) ++a[cell[n]], ++b[cell[n + half]];
            if (2 * half < rows) ++b[cell[rows - 1]];
        } else {
            for (index_t n = 0; n < half; ++n) find(n, a), find(n + half, b);
            if (2 * half < rows) find(rows - 1, b);
        }
        if (away && zero) move_out(low, high, open, strips);
        int32_t sum = 0;
        for (int c = 0; c < G; ++c) {
            const int32_t lower = a[c], upper = b[c];
            out.start[c] = a[c] = sum;
            b[c] = sum + lower;
            sum += lower + upper;
        }
        out.start[G] = sum;
        auto put = [&](index_t n, int32_t* to) {
            const int32_t k = to[cell[n]]++;
            out.row[k] = (int32_t)n;
            place[k] = y[n];
        };
        for (index_t n = 0; n < half; ++n) put(n, a), put(n + half, b);
        if (2 * half < rows) put(rows - 1, b);
        for (int n = 0; n < L; ++n) place[rows + n] = low;
        fill<derivative>(v, out);
        if (away) extrapolate<derivative>(v, out);
        for (int n = 0; n < Sorted::AHEAD; ++n) out.row[rows + n] = out.row[rows - 1];
    }
};
