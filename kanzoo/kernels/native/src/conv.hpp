// Direct 2-D convolution of spline functions, and its gradients.
//
// Outputs are stored on the grid of the padded pixels, where a tap of the kernel is a fixed step back;
// what would fall outside the output lands in rows and columns of that grid which are never read. One
// sort of a channel's pixels serves all taps. With a stride, the pixels of one residue class are
// sorted together: only they meet the same taps. Padding has the same few functions everywhere and
// is added for all channels at once.
//
// x, residual (B, C, H - 2 PH, W - 2 PW); weight (C, taps, T, O) with O outputs per group, the
// residual's row last; y (B, groups * O, OH, OW).
#pragma once
#include "pixels.hpp"

// Call f(vector, width as a constant) over vectors [v0, v1) in pieces of BROAD and 1.
template <class F>
static inline void broad_pieces(index_t v0, index_t v1, F f) {
    index_t v = v0;
    for (; v + BROAD <= v1; v += BROAD) f(v, Width<BROAD>());
    for (; v < v1; ++v) f(v, Width<1>());
}

static index_t images_of(const Conv& s) {
    const index_t fit = Y_BYTES / 2 / (s.vectors() * L * sizeof(real) * s.pixels());
    const index_t most = min_of(min_of(fit, 1024 / s.pixels()), ceil_div(s.B, s.threads));
    return max_of(most, 1);
}

// The weight with rows padded by zeros to full vectors; the weight itself where it is so already.
struct PackedWeight {
    Buffer memory;
    const real* w;
    index_t ld;
    PackedWeight(const real* given, const Conv& s)
        : memory(s.O % L ? s.C * s.taps() * s.T * s.vectors() * L * sizeof(real) : 0), w(given), ld(s.O) {
        if (s.O % L == 0 || !memory.p) return;
        ld = s.vectors() * L;
        copy_rows(given, s.O, (real*)memory.p, ld, s.C * s.taps() * s.T, s.O);
        w = (const real*)memory.p;
    }
};

template <int Q>
static int conv_forward(const Spline& spline, const Conv& s, const real* x, const real* given, const real* residual,
                        real* y) {
    const PackedWeight weights(given, s);
    const Blocks blocks(s, images_of(s), s.T * weights.ld);
    const index_t vectors = s.vectors(), work = blocks.count() * s.groups;
    const index_t parts = work < s.threads ? min_of(ceil_div(s.threads, work), vectors) : 1;
    const index_t part = ceil_div(vectors, parts), size = s.taps() * s.T * weights.ld;
    const size_t channel = Channel::bytes(blocks, spline.G);
    const Padding padding(s, spline);
    const size_t bytes = channel + max_of(round_up(blocks.stride * part * L * sizeof(real)), padding.bytes());
    const index_t image = s.pixels() * weights.ld;
    Buffer memory(bytes * s.threads), padded(padding.any ? s.groups * (image + s.taps() * weights.ld) * sizeof(real) : 0);
    if (!memory.p || !padded.p || !blocks.memory.p || !weights.memory.p) return 1;
    real* border = (real*)padded.p;  // (groups, pixels, ld)
    if (padding.any)
        parallel(s.groups, s.threads, [&](index_t g) {
            real* sums = border + s.groups * image + g * s.taps() * weights.ld;
            padding.outputs(g, weights.w, weights.ld, size, (char*)memory.p + bytes * thread_number(), sums, border + g * image);
        });
    parallel(work * parts, s.threads, [&](index_t task) {
        const index_t v0 = task % parts * part, v1 = min_of(v0 + part, vectors), ldy = (v1 - v0) * L;
        const index_t g = task / parts % s.groups, block = task / parts / s.groups;
        if (v0 >= v1) return;
        char* workspace = (char*)memory.p + bytes * thread_number();
        Channel channel_(spline, blocks, workspace);
        real* out = (real*)(workspace + channel);
        memset(out, 0, blocks.stride * ldy * sizeof(real));
        for (index_t n = 0; padding.any && n < blocks.images * s.pixels(); ++n)
            memcpy(out + (s.margin() + n) * ldy, border + g * image + n % s.pixels() * weights.ld + v0 * L,
                        ldy * sizeof(real));
        for (index_t c = g * s.inner(); c < (g + 1) * s.inner(); ++c)
            for (index_t p = 0; p < s.SH * s.SW; ++p) {
                const Taps taps = blocks.taps(p);
                if (!taps.count) continue;
                channel_.sort<false>(x, residual, c, block, p);
                broad_pieces(v0, v1, [&](index_t v, auto width) {
                    forward_taps<width.value, Q>(channel_.pixels, spline.G, taps, weights.w + c * size + v * L,
                                                 weights.ld, s.T - 1, out + s.margin() * ldy + (v - v0) * L, ldy);
                });
            }
        const index_t OH = s.OH(), OW = s.OW();
        for (index_t b = blocks.begin(block); b < blocks.end(block); ++b)
            for (index_t o = v0 * L; o < min_of(v1 * L, s.O); ++o)
                for (index_t h = 0; h < OH; ++h) {
                    const index_t row = s.margin() + ((b - blocks.begin(block)) * s.rows() + h) * s.columns();
                    real* to = y + (((b * s.groups + g) * s.O + o) * OH + h) * OW;
                    const real* from = out + row * ldy + o - v0 * L;
                    for (index_t n = 0; n < OW; ++n) to[n] = from[n * ldy];
                }
    });
    return 0;
}

// Adds what padding contributes to gw; g as packed by conv_backward.
static int padding_backward(const Padding& padding, const Blocks& blocks, const real* g, index_t ldy, real* gw) {
    const Conv& s = padding.s;
    const index_t size = s.taps() * ldy;
    const size_t one = round_up(padding.bytes());
    Buffer memory(s.groups * size * sizeof(real)), functions(one * s.threads);
    if (!memory.p || !functions.p) return 1;
    real* sums = (real*)memory.p;  // (groups, taps, ldy), of the outputs where the tap meets padding
    parallel(s.groups, s.threads, [&](index_t group) {
        real* to = sums + group * size;
        memset(to, 0, size * sizeof(real));
        for (index_t b = 0; b < s.B; ++b) {
            const index_t block = group * blocks.count() + b / blocks.images;
            const real* from = g + (block * blocks.stride + s.margin() + b % blocks.images * s.pixels()) * ldy;
            padding.each([&](index_t row, index_t tap) {
                for (index_t o = 0; o < ldy; ++o) to[tap * ldy + o] += from[row * ldy + o];
            });
        }
    });
    parallel(s.C, s.threads, [&](index_t c) {
        padding.functions(c, (char*)functions.p + one * thread_number(), [&](int cell, const real* t) {
            for (index_t tap = 0; tap < s.taps(); ++tap)
                for (int j = 0; j < P; ++j) {
                    real* to = gw + ((c * s.taps() + tap) * s.T + cell + j) * s.O;
                    const real* from = sums + (c / s.inner() * s.taps() + tap) * ldy;
                    for (index_t o = 0; o < s.O; ++o) to[o] += t[j] * from[o];
                }
        });
    });
    return 0;
}

// Threads split the channels; where these are few, blocks (gx) and taps (gw) in turn.
template <int Q>
static int conv_backward(const Spline& spline, const Conv& s, const real* gy, const real* x, const real* given,
                         const real* residual, real* gx, real* gw, real* gr) {
    const PackedWeight weights(given, s);
    const Blocks blocks(s, images_of(s), s.T * weights.ld), narrow(s, blocks.images, s.T * s.O);
    const index_t vectors = s.vectors(), ldy = vectors * L, count = blocks.count(), classes = s.SH * s.SW;
    Buffer packed(s.groups * count * blocks.stride * ldy * sizeof(real));
    const size_t channel = Channel::bytes(blocks, spline.G), sums = round_up(blocks.pixels * sizeof(real));
    const size_t bytes = channel + 2 * sums;
    Buffer memory(bytes * s.threads);
    if (!packed.p || !memory.p || !blocks.memory.p || !narrow.memory.p || !weights.memory.p) return 1;
    real* g = (real*)packed.p;  // (groups, blocks, stride, ldy), zero where there is no output
    parallel(s.groups * count, s.threads, [&](index_t task) {
        const index_t group = task / count, block = task % count, OH = s.OH(), OW = s.OW();
        real* to = g + task * blocks.stride * ldy;
        memset(to, 0, blocks.stride * ldy * sizeof(real));
        for (index_t b = blocks.begin(block); b < blocks.end(block); ++b)
            for (index_t h = 0; h < OH; ++h) {
                const index_t row = s.margin() + ((b - blocks.begin(block)) * s.rows() + h) * s.columns();
                for (index_t o = 0; o < s.O; ++o) {
                    const real* from = gy + (((b * s.groups + group) * s.O + o) * OH + h) * OW;
                    for (index_t n = 0; n < OW; ++n) to[(row + n) * ldy + o] = from[n];
                }
            }
    });
    auto run = [&](index_t c, index_t block0, index_t block1, index_t t0, index_t t1, bool input, bool weight) {
        char* workspace = (char*)memory.p + bytes * thread_number();
        Channel channel_(spline, blocks, workspace);
        real *slope = (real*)(workspace + channel), *rest = (real*)(workspace + channel + sums);
        for (index_t block = block0; block < block1; ++block) {
            const real* gb = g + ((c / s.inner() * count + block) * blocks.stride + s.margin()) * ldy;
            for (index_t p = 0; p < classes; ++p) {
                const Taps taps = blocks.taps(p);
                const index_t from = max_of(t0, blocks.first[p]), to = min_of(t1, blocks.first[p + 1]);
                if (from >= to) continue;
                channel_.sort<true>(x, residual, c, block, p);
                broad_pieces(0, vectors, [&](index_t v, auto width) {
                    constexpr int NV = decltype(width)::value;
                    const real* gv = gb + v * L;
                    if (input)
                        input_taps<NV, Q>(channel_.pixels, spline.G, taps, weights.w + c * s.taps() * s.T * weights.ld + v * L,
                                          weights.ld, s.T - 1, gv, ldy, slope, rest, v > 0);
                    if (!weight) return;
                    auto sweep = [&](index_t k, auto taps_) {
                        weight_taps<NV, Q, decltype(taps_)::value>(
                            channel_.pixels, spline.G, blocks.move + k, narrow.at + k, gv, ldy,
                            gw + c * s.taps() * s.T * s.O + v * L, s.O, s.T - 1, s.O - v * L, block > 0);
                    };
                    index_t k = from;
                    for (; k + TAPS <= to; k += TAPS) sweep(k, Width<TAPS>());
                    for (; k < to; ++k) sweep(k, Width<1>());
                });
                if (!input) continue;
                channel_.scatter(slope, c, block, p, gx);
                if (Q && gr) channel_.scatter(rest, c, block, p, gr);
            }
        }
    };
    const size_t all = s.B * s.C * s.image() * sizeof(real);
    if (gx && classes > 1) memset(gx, 0, all);  // some classes may have no tap
    if (gr && classes > 1) memset(gr, 0, all);
    const bool many = s.C >= s.threads;
    if (many) parallel(s.C, s.threads, [&](index_t c) { run(c, 0, count, 0, s.taps(), gx, gw); });
    if (!many && gx)
        parallel(s.C * count, s.threads,
                 [&](index_t t) { run(t / count, t % count, t % count + 1, 0, s.taps(), true, false); });
    if (!many && gw)
        parallel(s.C * s.taps(), s.threads, [&](index_t t) {
            run(t / s.taps(), 0, count, t % s.taps(), t % s.taps() + 1, false, true);
        });
    const Padding padding(s, spline);
    return gw && padding.any ? padding_backward(padding, blocks, g, ldy, gw) : 0;
}
