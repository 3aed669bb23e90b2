// Direct 2-D convolution (valid, on padded images) of spline functions, and its gradients.
//
// A tap of the kernel maps input pixels to output pixels, so a tap of a channel is one "input" of
// the linear kernel whose sorted rows point to output pixels. One sort serves all taps. With a
// stride, the pixels of one residue class are sorted together: only they meet the same taps.
//
// x (B, C, H, W); weight (C, taps, T, O) with O outputs per group; y (B, groups * O, OH, OW).
#pragma once
#include "linear.hpp"

struct Conv {
    index_t B, C, H, W, O, groups, KH, KW, SH, SW, DH, DW;
    int T, threads;
    index_t OH() const { return (H - (KH - 1) * DH - 1) / SH + 1; }
    index_t OW() const { return (W - (KW - 1) * DW - 1) / SW + 1; }
    index_t taps() const { return KH * KW; }
    index_t pixels() const { return ceil_div(H, SH) * ceil_div(W, SW); }  // of the largest class
    index_t outputs() const { return OH() * OW(); }
    index_t vectors() const { return ceil_div(O, L); }
};

// Input pixels that no output sees go to one of these spare rows; several, as a single one would
// make each addition wait for the one before.
static constexpr index_t SPARE = 8;

// Sorting and mapping of blocks of `images` images, shared by all threads.
struct Blocks {
    const Conv& s;
    index_t images, rows, outs;  // images, input pixels and output pixels of a block
    Buffer memory;
    int32_t* map;                // (taps, rows): output pixel of an input pixel of the tap's class

    Blocks(const Conv& s, index_t images)
        : s(s), images(images), rows(images * s.pixels()), outs(images * s.outputs()),
          memory(s.taps() * images * s.pixels() * sizeof(int32_t)), map((int32_t*)memory.p) {
        if (!map) return;
        parallel(s.taps(), s.threads, [&](index_t tap) {
            const index_t ky = tap / this->s.KW * this->s.DH, kx = tap % this->s.KW * this->s.DW;
            fill(map + tap * rows, ky / this->s.SH, kx / this->s.SW, ky % this->s.SH, kx % this->s.SW);
        });
    }
    void fill(int32_t* to, index_t ty, index_t tx, index_t py, index_t px) const {
        const index_t h = ceil_div(s.H - py, s.SH), w = ceil_div(s.W - px, s.SW), OH = s.OH(), OW = s.OW();
        index_t n = 0;
        for (index_t b = 0; b < images; ++b)
            for (index_t y = 0; y < h; ++y)
                for (index_t x = 0; x < w; ++x, ++n) {
                    const index_t oy = y - ty, ox = x - tx;
                    const bool seen = oy >= 0 && oy < OH && ox >= 0 && ox < OW;
                    to[n] = (int32_t)(seen ? (b * OH + oy) * OW + ox : outs + n % SPARE);
                }
    }
    index_t count() const { return ceil_div(s.B, images); }
    index_t stride() const { return outs + SPARE; }  // rows of a block of outputs

    // Calls f(tap) for the taps of class (py, px).
    template <class F>
    void each_tap(index_t py, index_t px, index_t t0, index_t t1, F f) const {
        for (index_t tap = t0; tap < t1; ++tap)
            if (tap / s.KW * s.DH % s.SH == py && tap % s.KW * s.DW % s.SW == px) f(tap);
    }
    bool has_tap(index_t py, index_t px, index_t t0, index_t t1) const {
        bool any = false;
        each_tap(py, px, t0, t1, [&](index_t) { any = true; });
        return any;
    }
};

// Pixel rows of one channel and class of a block, sorted; the memory of one thread.
struct Channel {
    const Spline& spline;
    const Blocks& blocks;
    Sorted sorted;
    index_t h, w, count;
    real* values;
    int32_t* row;
    void* sorter;

    static size_t bytes(const Blocks& b, int G) {
        return Sorted::bytes(b.rows, G) + Sorter::bytes(b.rows) + round_up(b.rows * sizeof(real)) +
               round_up((b.rows + Sorted::AHEAD) * sizeof(int32_t));
    }
    Channel(const Spline& spline, const Blocks& blocks, char* p) : spline(spline), blocks(blocks) {
        sorted.place(p, blocks.rows);
        p += Sorted::bytes(blocks.rows, spline.G);
        sorter = p;
        p += Sorter::bytes(blocks.rows);
        values = (real*)p;
        row = (int32_t*)(p + round_up(blocks.rows * sizeof(real)));
    }
    template <bool derivative>
    void sort(const real* x, index_t c, index_t block, index_t py, index_t px) {
        const Conv& s = blocks.s;
        h = ceil_div(s.H - py, s.SH), w = ceil_div(s.W - px, s.SW);
        const index_t b0 = block * blocks.images, b1 = min_of(b0 + blocks.images, s.B);
        count = (b1 - b0) * h * w;
        real* to = values;
        for (index_t b = b0; b < b1; ++b)
            for (index_t y = py; y < s.H; y += s.SH) {
                const real* from = x + ((b * s.C + c) * s.H + y) * s.W;
                for (index_t q = px; q < s.W; q += s.SW) *to++ = from[q];
            }
        sorted.place(sorted.w, count);
        Sorter(spline, count, sorter).sort<derivative>(c, values, 1, sorted);
    }
    Sorted at(index_t tap) const {
        const int32_t* map = blocks.map + tap * blocks.rows;
        Sorted moved = sorted;
        moved.row = row;
        for (index_t n = 0; n < count + Sorted::AHEAD; ++n) row[n] = map[sorted.row[n]];
        return moved;
    }
};

static index_t images_of(const Conv& s) {
    const index_t fit = Y_BYTES / 2 / (s.vectors() * L * sizeof(real) * s.outputs() + 1);
    const index_t most = min_of(min_of(fit, 1024 / s.pixels()), ceil_div(s.B, s.threads));
    return max_of(most, 1);
}

static int conv_forward(const Spline& spline, const Conv& s, const real* x, const real* w, real* y) {
    const Blocks blocks(s, images_of(s));
    const index_t vectors = s.vectors(), work = blocks.count() * s.groups;
    const index_t parts = work < s.threads ? min_of(ceil_div(s.threads, work), vectors) : 1;
    const index_t part = ceil_div(vectors, parts), inner = s.C / s.groups;
    const size_t channel = Channel::bytes(blocks, spline.G);
    const size_t bytes = channel + round_up(blocks.stride() * part * L * sizeof(real));
    Buffer memory(bytes * s.threads);
    if (!memory.p || !blocks.map) return 1;
    parallel(work * parts, s.threads, [&](index_t task) {
        const index_t v0 = task % parts * part, v1 = min_of(v0 + part, vectors), ldy = (v1 - v0) * L;
        const index_t g = task / parts % s.groups, block = task / parts / s.groups;
        if (v0 >= v1) return;
        char* mine = (char*)memory.p + bytes * thread_number();
        Channel channels(spline, blocks, mine);
        real* out = (real*)(mine + channel);
        std::memset(out, 0, blocks.stride() * ldy * sizeof(real));
        for (index_t c = g * inner; c < (g + 1) * inner; ++c)
            for (index_t p = 0; p < s.SH * s.SW; ++p) {
                if (!blocks.has_tap(p / s.SW, p % s.SW, 0, s.taps())) continue;
                channels.sort<false>(x, c, block, p / s.SW, p % s.SW);
                blocks.each_tap(p / s.SW, p % s.SW, 0, s.taps(), [&](index_t tap) {
                    const Sorted rows = channels.at(tap);
                    const real* from = w + (c * s.taps() + tap) * s.T * s.O;
                    pieces(v0, v1, [&](index_t v, auto width) {
                        forward_sweep<width.value>(rows, spline.G, from + v * L, s.O, s.O - v * L,
                                                   out + (v - v0) * L, ldy);
                    });
                });
            }
        const index_t b0 = block * blocks.images, b1 = min_of(b0 + blocks.images, s.B), outs = s.outputs();
        for (index_t b = b0; b < b1; ++b)
            for (index_t o = v0 * L; o < min_of(v1 * L, s.O); ++o) {
                real* to = y + ((b * s.groups + g) * s.O + o) * outs;
                const real* from = out + (b - b0) * outs * ldy + o - v0 * L;
                for (index_t n = 0; n < outs; ++n) to[n] += from[n * ldy];
            }
    });
    return 0;
}

// Threads split the channels; where these are few, blocks (gx) and taps (gw) in turn.
static int conv_backward(const Spline& spline, const Conv& s, const real* gy, const real* x, const real* w,
                         real* gx, real* gw) {
    const Blocks blocks(s, images_of(s));
    const index_t vectors = s.vectors(), ldy = vectors * L, outs = s.outputs(), inner = s.C / s.groups;
    const index_t count = blocks.count(), group_rows = count * blocks.stride();
    Buffer packed(s.groups * group_rows * ldy * sizeof(real));
    const size_t channel = Channel::bytes(blocks, spline.G);
    const size_t bytes = channel + round_up(blocks.rows * FL * sizeof(real));
    Buffer memory(bytes * s.threads);
    if (!packed.p || !memory.p || !blocks.map) return 1;
    real* g = (real*)packed.p;  // (groups, blocks, outs + SPARE, ldy), the spare rows zero
    parallel(s.groups * count, s.threads, [&](index_t task) {
        const index_t group = task / count, block = task % count;
        real* to = g + task * blocks.stride() * ldy;
        std::memset(to, 0, blocks.stride() * ldy * sizeof(real));
        const index_t b0 = block * blocks.images, b1 = min_of(b0 + blocks.images, s.B);
        for (index_t b = b0; b < b1; ++b)
            for (index_t o = 0; o < s.O; ++o) {
                const real* from = gy + ((b * s.groups + group) * s.O + o) * outs;
                real* column = to + (b - b0) * outs * ldy + o;
                for (index_t n = 0; n < outs; ++n) column[n * ldy] = from[n];
            }
    });
    auto run = [&](index_t c, index_t block0, index_t block1, index_t t0, index_t t1, real* gx, real* gw) {
        char* mine = (char*)memory.p + bytes * thread_number();
        Channel channels(spline, blocks, mine);
        real* sum = (real*)(mine + channel);
        for (index_t block = block0; block < block1; ++block) {
            const real* gb = g + (c / inner * count + block) * blocks.stride() * ldy;
            for (index_t p = 0; p < s.SH * s.SW; ++p) {
                const index_t py = p / s.SW, px = p % s.SW;
                if (!blocks.has_tap(py, px, t0, t1)) continue;
                channels.sort<true>(x, c, block, py, px);
                bool add = false;
                blocks.each_tap(py, px, t0, t1, [&](index_t tap) {
                    const Sorted rows = channels.at(tap);
                    const index_t at = (c * s.taps() + tap) * s.T * s.O;
                    pieces(0, vectors, [&](index_t v, auto width) {
                        const index_t columns = s.O - v * L;
                        if (gw)
                            weight_sweep<width.value>(rows, spline.G, gb + v * L, ldy, gw + at + v * L, s.O,
                                                      columns, block > 0);
                        if (gx)
                            input_sweep<width.value>(rows, spline.G, w + at + v * L, s.O, columns, gb + v * L,
                                                     ldy, sum, add);
                        add = true;
                    });
                });
                if (!gx) continue;
                for (index_t n = 0; n < channels.count; ++n) {
                    const index_t i = channels.sorted.row[n], q = i / channels.w;
                    const index_t b = block * blocks.images + q / channels.h;
                    const index_t row = py + q % channels.h * s.SH, column = px + i % channels.w * s.SW;
                    gx[((b * s.C + c) * s.H + row) * s.W + column] = Fold<FL, 1>::run(*(const fvec*)(sum + n * FL))[0];
                }
            }
        }
    };
    const bool phases = s.SH * s.SW > 1;
    if (gx && phases) std::memset(gx, 0, s.B * s.C * s.H * s.W * sizeof(real));  // classes without a tap
    if (s.C >= s.threads) {
        parallel(s.C, s.threads, [&](index_t c) { run(c, 0, count, 0, s.taps(), gx, gw); });
        return 0;
    }
    if (gx)
        parallel(s.C * count, s.threads,
                 [&](index_t t) { run(t / count, t % count, t % count + 1, 0, s.taps(), gx, nullptr); });
    if (gw)
        parallel(s.C * s.taps(), s.threads,
                 [&](index_t t) { run(t / s.taps(), 0, count, t % s.taps(), t % s.taps() + 1, nullptr, gw); });
    return 0;
}
