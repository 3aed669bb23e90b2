// All functions of a matrix of inputs, and gradients through them, in one pass.
//
// x (rows, C) with rows `ldx` apart; function k of row n begins at k * plane + n * row. The last
// plane is the residual branch, if there is one. Basis functions see the squashed input.
//
// Rows may be the channels of images instead, `inner` of them in a group, and their columns pixels: row
// n then begins `C` times n % inner after row n / inner, and the table has a column for each of `owners`
// rows in turn.
#pragma once
#include "families.hpp"

static constexpr index_t COLUMNS = 1024, PIECE = 8192;  // most columns of a row, numbers of a task

struct Functions {
    index_t rows, channels, ldx, plane, row, K;
    int squash, residual;
    bool each;           // the table has a column for every channel, else one for all
    const real* table;   // (J, K, C or 1)
    const real* constant;
    int threads;
    index_t inner, num_owners;  // 0 unless rows are channels

    bool across() const { return each && inner == 0; }
    index_t width() const { return !each ? 1 : inner ? num_owners : channels; }  // columns of the table
    index_t size() const { return K * width(); }                           // of a row of the table
    index_t begin(index_t n) const { return inner ? n / inner * row + n % inner * channels : n * row; }
    real largest(int row) const {
        real most = 0;
        for (index_t i = 0; i < size(); ++i) most = fmax(most, fabs(table[row * size() + i]));
        return most;
    }
};

// Largest input for which no argument of a wave exceeds FAR.
template <class Family>
static real limit_of(const Functions& f) {
    if (same<Family, Waves>) return (FAR - f.largest(1)) / f.largest(0);
    if (same<Family, Harmonics>) return FAR / fabs(f.constant[0]);
    if (same<Family, Wavelet<Morlet>>) return f.constant[0] * 40 <= FAR ? HUGE_VAL : -1;
    return HUGE_VAL;
}

// What is the same for all families: one row of up to COLUMNS numbers.
struct Row {
    real seen[COLUMNS + L], steep[COLUMNS + L], rest[COLUMNS + L];
    real reach;  // largest |seen|

    // Squash; write the residual branch (unless null); with `back`, its gradient to `rest`.
    void fill(const Functions& f, const real* x, index_t count, real* residual, const real* back) {
        vec most = {};
        for (index_t c = 0; c < count; c += L) {
            const vec v = load_part(x + c, count - c);
            vec q = v, d = vec{} + 1;
            if (f.squash == SQUASH_TANH) q = tanh_of(v), d = (real)1 - q * q;
            else if (f.squash == SQUASH_SIGMOID) q = logistic_of(v), d = q * ((real)1 - q);
            store(seen + c, q), store(steep + c, d);
            const vec a = magnitude(q);
            most = a > most ? a : most;
            if (f.residual == RESIDUAL_NONE) {
                store(rest + c, vec{});
                continue;
            }
            vec y = v, dy = vec{} + 1;
            if (f.residual == RESIDUAL_RELU) y = v < 0 ? vec{} : v, dy = v > 0 ? dy : vec{};
            else if (f.residual == RESIDUAL_SILU) {
                const vec gate = logistic_of(v);
                y = v * gate, dy = gate + y * ((real)1 - gate);
            } else if (f.residual == RESIDUAL_TANH) y = tanh_of(v), dy = (real)1 - y * y;
            if (residual) store_part(residual + c, y, count - c);
            if (back) store(rest + c, dy * load_part(back + c, count - c));
        }
        reach = 0;
        for (int l = 0; l < L; ++l) reach = most[l] > reach ? most[l] : reach;
    }
};

// Write all functions (unless `out` is null) and, with the gradients `back` of all planes, that of
// x to gx (rows ldx apart) and add those of the first two table rows to gp (2, K, C), unless null.
template <class Family>
static int apply(const Functions& f, const real* x, real* out, const real* back, real* gx, real* gp) {
    const index_t wide = min_of(f.channels, COLUMNS), across = ceil_div(f.channels, wide);
    const index_t high = max_of(min_of(PIECE / wide, f.rows), 1), down = ceil_div(f.rows, high);
    const bool sums = Family::trained && gp;
    const real limit = limit_of<Family>(f);
    const index_t num_totals = sums ? 2 * f.size() : 0;
    const size_t scratch = round_up((3 * f.K + 1) * sizeof(vec)), lines = round_up(sizeof(Row));
    const size_t bytes = scratch + lines + round_up(num_totals * sizeof(real));
    Buffer memory(bytes * f.threads);
    if (!memory.p) return 1;
    for (int t = 0; sums && t < f.threads; ++t) memset((char*)memory.p + bytes * t + scratch + lines, 0, num_totals * sizeof(real));
    parallel(across * down, f.threads, [&](index_t task) {
        char* workspace = (char*)memory.p + bytes * thread_number();
        vec* totals = (vec*)workspace + f.K + 1;  // (2, K), of a row that is a channel
        Row& line = *(Row*)(workspace + scratch);
        real* added = (real*)(workspace + scratch + lines);
        const index_t c0 = task % across * wide, count = min_of(wide, f.channels - c0);
        const index_t n0 = task / across * high, n1 = min_of(n0 + high, f.rows);
        for (index_t n = n0; n < n1; ++n) {
            const index_t begin = f.begin(n) + c0, channel = f.inner ? n % f.num_owners : 0;
            real* to = out ? out + begin : nullptr;
            const real* from = back ? back + begin : nullptr;
            line.fill(f, x + n * f.ldx + c0, count, to ? to + f.K * f.plane : nullptr, from ? from + f.K * f.plane : nullptr);
            const Setting setting = {(int)f.K, f.constant, !(line.reach <= limit), (vec*)workspace};
            for (index_t k = 0; k < 2 * f.K; ++k) totals[k] = vec{};
            for (index_t c = 0; c < count; c += L) {
                const index_t left = count - c, at = c0 + c;
                const vec q = load(line.seen + c);
                auto p = [&](int j, int k) {
                    const real* row = f.table + j * f.size() + k * f.width();
                    return f.across() ? load_part(row + at, left) : vec{} + row[channel];
                };
                if (!back) {
                    Family::each(q, setting, p, [&](int k, vec v, vec, vec, vec) { store_part(to + k * f.plane + c, v, left); });
                    continue;
                }
                vec sum = {};
                Family::each(q, setting, p, [&](int k, vec v, vec d, vec first, vec second) {
                    if (to) store_part(to + k * f.plane + c, v, left);
                    const vec g = load_part(from + k * f.plane + c, left);
                    sum += g * d;
                    if (!sums) return;
                    if (!f.across()) {
                        totals[k] += first_of(g * first, left);
                        totals[f.K + k] += first_of(g * second, left);
                        return;
                    }
                    real *a = added + k * f.channels + at, *b = a + f.size();
                    store_part(a, load_part(a, left) + g * first, left);
                    store_part(b, load_part(b, left) + g * second, left);
                });
                if (gx) store_part(gx + n * f.ldx + at, sum * load(line.steep + c) + load(line.rest + c), left);
            }
            for (index_t k = 0; sums && !f.across() && k < 2 * f.K; ++k)
                added[k * f.width() + channel] += Fold<L, 1>::run(totals[k])[0];
        }
    });
    for (int t = 0; sums && t < f.threads; ++t) {
        const real* added = (const real*)((char*)memory.p + bytes * t + scratch + lines);
        for (index_t i = 0; i < num_totals; ++i) gp[i] += added[i];
    }
    return 0;
}
