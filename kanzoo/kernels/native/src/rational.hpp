// y = P(x) / (1 + |Q(x)|): P = a_0 + .. + a_5 x^5 for all, Q = b_1 x + .. + b_4 x^4 by group.
//
// Inputs are (outer, channels, inner). Where inner is 1, vectors run over channels, several rows
// at a time if these are short; else along inner, whose numbers have the same coefficients.
#pragma once
#include "vector.hpp"

static constexpr int NA = 6, NB = 4, NS = NA + NB;  // coefficients above, below, together
static constexpr index_t CHUNK = 16384;             // numbers of a task, and so of a float sum
static constexpr index_t NEAR = 1024;               // numbers of a block whose sums stay in registers

struct Rational {
    index_t outer, channels, inner, groups;
    const int64_t* group_of;  // (channels)
    const real *a, *b;        // (NA), (NB, groups)
    int threads;

    bool last() const { return inner == 1; }
    index_t total() const { return outer * channels * inner; }
    // Numbers in a row: those that repeat with the same coefficients.
    index_t width() const {
        if (!last()) return inner;
        index_t rows = 1;
        while (channels < 8 * L && channels * rows % L) ++rows;
        return channels * rows;
    }
    index_t padded() const { return ceil_div(width(), L) * L; }
    index_t rows() const { return ceil_div(total(), width()); }
    index_t chunk() const { return max_of(CHUNK / width(), 1); }
    index_t tasks() const { return ceil_div(rows(), chunk()); }
    index_t group(index_t c) const { return group_of[c % channels]; }

    // Vectors of a row. A last one that is not full ends with the row, over numbers of the one
    // before, and comes first: what it writes there is written again.
    index_t vectors() const { return ceil_div(width(), L); }
    index_t over() const { return width() < L ? 0 : vectors() * L - width(); }
    index_t start(index_t v) const { return over() ? (v ? (v - 1) * L : width() - L) : v * L; }

    // (NB, padded): the coefficients below of every number in a row, if that has more than one.
    void expand(real* table) const {
        for (int j = 0; j < NB; ++j)
            for (index_t c = 0; c < padded(); ++c) table[j * padded() + c] = b[j * groups + group(c)];
    }
};

struct Terms {
    vec a[NA], b[NB] = {};

    explicit Terms(const Rational& r) {
        for (int i = 0; i < NA; ++i) a[i] = vec{} + r.a[i];
    }
    void same(const Rational& r, index_t group) {
        for (int j = 0; j < NB; ++j) b[j] = vec{} + r.b[j * r.groups + group];
    }
    void each(const real* table, index_t ld) {
        for (int j = 0; j < NB; ++j) b[j] = load(table + j * ld);
    }
    inline vec value(vec x) const {
        vec p = a[NA - 1], q = b[NB - 1];
        for (int i = NA - 2; i >= 0; --i) p = p * x + a[i];
        for (int j = NB - 2; j >= 0; --j) q = q * x + b[j];
        q *= x;
        return p / ((q < 0 ? -q : q) + 1);
    }
    // The gradient of the input; those of all coefficients are added to `sums`.
    inline vec slope(vec x, vec g, vec* sums) const {
        vec dp = a[NA - 1], p = dp * x + a[NA - 2], dq = b[NB - 1], q = dq * x + b[NB - 2];
        for (int i = NA - 3; i >= 0; --i) dp = dp * x + p, p = p * x + a[i];
        for (int j = NB - 3; j >= 0; --j) dq = dq * x + q, q = q * x + b[j];
        dq = dq * x + q;
        q *= x;
        const vec one = vec{} + 1, zero = {};
        const vec inverse = one / ((q < 0 ? -q : q) + one);
        vec above = g * inverse, below = above * (p * inverse);
        below = q < 0 ? below : -below;
        below = q == 0 ? zero : below;  // |Q| has no slope at 0
        const vec gx = above * dp + below * dq, x2 = x * x, x3 = x2 * x, x4 = x2 * x2;
        const vec powers[NA] = {one, x, x2, x3, x4, x4 * x};
        sums[0] += above;
        for (int i = 1; i < NA; ++i) sums[i] += above * powers[i];
        for (int j = 0; j < NB; ++j) sums[NA + j] += below * powers[j + 1];
        return gx;
    }
};

static int rational_forward(const Rational& r, const real* x, real* y) {
    const index_t width = r.width(), ld = r.padded(), chunk = r.chunk(), total = r.total(), vectors = r.vectors();
    Buffer memory(r.last() ? NB * ld * sizeof(real) : 0);
    real* table = (real*)memory.p;
    if (!table) return 1;
    if (r.last()) r.expand(table);
    parallel(r.tasks(), r.threads, [&](index_t task) {
        Terms terms(r);
        for (index_t n = task * chunk; n < min_of((task + 1) * chunk, r.rows()); ++n) {
            const real* from = x + n * width;
            real* to = y + n * width;
            const index_t count = min_of(width, total - n * width);
            if (!r.last()) terms.same(r, r.group(n));
            auto at = [&](index_t c, index_t left) {
                if (r.last()) terms.each(table + c, ld);
                store_part(to + c, terms.value(load_part(from + c, left)), left);
            };
            if (count == width && width >= L) for (index_t v = 0; v < vectors; ++v) at(r.start(v), L);
            else for (index_t c = 0; c < count; c += L) at(c, count - c);
        }
    });
    return 0;
}

// What one task adds to the gradients of the coefficients.
struct Sums {
    const Rational& r;
    double* totals;  // (NA + NB groups)
    vec above[NA] = {};

    static double fold(vec v) { return Fold<L, 1>::run(v)[0]; }
    // All lanes belong to one group.
    void add_same(const vec* sums, index_t group) {
        for (int i = 0; i < NA; ++i) above[i] += sums[i];
        for (int j = 0; j < NB; ++j) totals[NA + j * r.groups + group] += fold(sums[NA + j]);
    }
    // Lanes belong to the channels from c on.
    void add_each(const vec* sums, index_t c) {
        const index_t group = r.group(c);
        bool same = true;
        for (int lane = 1; lane < L; ++lane) same &= r.group(c + lane) == group;
        if (same) return add_same(sums, group);
        for (int i = 0; i < NA; ++i) above[i] += sums[i];
        for (int lane = 0; lane < L; ++lane)
            for (int j = 0; j < NB; ++j) totals[NA + j * r.groups + r.group(c + lane)] += sums[NA + j][lane];
    }
    void finish() {
        for (int i = 0; i < NA; ++i) totals[i] += fold(above[i]);
    }
};

// gx may be null.
static int rational_backward(const Rational& r, const real* gy, const real* x, real* gx, real* ga, real* gb) {
    const index_t width = r.width(), ld = r.padded(), chunk = r.chunk(), total = r.total(), tasks = r.tasks();
    const index_t num_sums = NA + NB * r.groups, near = max_of(NEAR / width, 8), vectors = r.vectors();
    const size_t each = r.last() ? NS * ld * sizeof(real) : 0;
    Buffer memory(tasks * num_sums * sizeof(double)), coefficients(r.last() ? NB * ld * sizeof(real) : 0);
    Buffer lanes(each * r.threads);
    double* totals = (double*)memory.p;
    real* table = (real*)coefficients.p;
    if (!totals || !table || !lanes.p) return 1;
    if (r.last()) r.expand(table);
    memset(totals, 0, tasks * num_sums * sizeof(double));
    real ones[L];  // of the first vector of a row: zero where that lies over another
    for (int lane = 0; lane < L; ++lane) ones[lane] = lane >= r.over();
    parallel(tasks, r.threads, [&](index_t task) {
        const index_t n0 = task * chunk, n1 = min_of(n0 + chunk, r.rows());
        const vec once = load(ones);
        Terms terms(r);
        Sums sums = {r, totals + task * num_sums};
        auto full = [&](index_t i, vec g, vec* to) {
            const vec out = terms.slope(load(x + i), g, to);
            if (gx) store(gx + i, out);
        };
        auto part = [&](index_t i, index_t left, vec* to) {
            const vec out = terms.slope(load_part(x + i, left), load_part(gy + i, left), to);
            if (gx) store_part(gx + i, out, left);
        };
        if (!r.last()) {
            for (index_t n = n0; n < n1; ++n) {
                vec here[NS] = {};
                terms.same(r, r.group(n));
                const index_t i = n * width;
                if (width < L) part(i, width, here);
                else full(i + r.start(0), load(gy + i + r.start(0)) * once, here);
                for (index_t v = 1; v < vectors; ++v) full(i + r.start(v), load(gy + i + r.start(v)), here);
                sums.add_same(here, r.group(n));
            }
            return sums.finish();
        }
        real* workspace = (real*)((char*)lanes.p + each * thread_number());
        memset(workspace, 0, each);
        const index_t full_rows = min_of(n1, total / width);  // the very last row may be shorter
        for (index_t from = n0; from < full_rows; from += near)
            for (index_t v = 0; v < vectors; ++v) {
                const index_t c = r.start(v), to = min_of(from + near, full_rows);
                vec here[NS];
                for (int k = 0; k < NS; ++k) here[k] = load(workspace + (v * NS + k) * L);
                terms.each(table + c, ld);
                if (v == 0) for (index_t n = from; n < to; ++n) full(n * width + c, load(gy + n * width + c) * once, here);
                else for (index_t n = from; n < to; ++n) full(n * width + c, load(gy + n * width + c), here);
                for (int k = 0; k < NS; ++k) store(workspace + (v * NS + k) * L, here[k]);
            }
        for (index_t c = 0; full_rows < n1 && c < total - full_rows * width; c += L) {  // no vector lies over another here
            terms.each(table + c, ld);
            part(full_rows * width + c, total - full_rows * width - c, (vec*)(workspace + c * NS));
        }
        for (index_t v = 0; v < vectors; ++v) sums.add_each((const vec*)(workspace + v * NS * L), r.start(v));
        sums.finish();
    });
    for (index_t task = 1; task < tasks; ++task)  // in this order, whatever the threads
        for (index_t k = 0; k < num_sums; ++k) totals[k] += totals[task * num_sums + k];
    for (int i = 0; i < NA; ++i) ga[i] = (real)totals[i];
    for (index_t k = 0; k < NB * r.groups; ++k) gb[k] = (real)totals[NA + k];
    return 0;
}
