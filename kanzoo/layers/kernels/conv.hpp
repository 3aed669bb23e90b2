// Direct 2-D convolution (valid, on padded images) of spline functions, and its gradients.
//
// Outputs are kept on the grid of the input pixels, where a tap of the kernel is a fixed step back;
// what would fall outside the output lands in rows and columns of that grid which nobody reads. One
// sort of a channel's pixels serves all taps. With a stride, the pixels of one residue class are
// sorted together: only they meet the same taps.
//
// x, residual (B, C, H, W); weight (C, taps, T, O) with O outputs per group, the residual's row
// last; y (B, groups * O, OH, OW).
#pragma once
#include "linear.hpp"
#include "sweep_taps.hpp"

struct Conv {
    index_t B, C, H, W, O, groups, KH, KW, SH, SW, DH, DW;
    int T, threads;
    index_t OH() const { return (H - (KH - 1) * DH - 1) / SH + 1; }
    index_t OW() const { return (W - (KW - 1) * DW - 1) / SW + 1; }
    index_t taps() const { return KH * KW; }
    index_t rows() const { return ceil_div(H, SH); }  // of the grid of a class
    index_t columns() const { return ceil_div(W, SW); }
    index_t pixels() const { return rows() * columns(); }
    index_t vectors() const { return ceil_div(O, L); }
    index_t inner() const { return C / groups; }
    index_t margin() const { return (KH - 1) * DH / SH * columns() + (KW - 1) * DW / SW; }
    index_t ty(index_t tap) const { return tap / KW * DH; }
    index_t tx(index_t tap) const { return tap % KW * DW; }
    bool meets(index_t tap, index_t p) const { return ty(tap) % SH == p / SW && tx(tap) % SW == p % SW; }
};

// Blocks of images, and the taps of every class of pixels; shared by all threads.
struct Blocks {
    const Conv& s;
    index_t images, pixels, stride;  // images, input pixels and rows of outputs of a block
    Buffer memory;
    index_t *move, *at, *first;  // taps in the order of their classes, and where each class begins

    Blocks(const Conv& s, index_t images, index_t ld)
        : s(s), images(images), pixels(images * s.pixels()), stride(s.margin() + pixels),
          memory((2 * s.taps() + s.SH * s.SW + 1) * sizeof(index_t)), move((index_t*)memory.p),
          at(move + s.taps()), first(at + s.taps()) {
        if (!memory.p) return;
        index_t n = 0;
        for (index_t p = 0; p < s.SH * s.SW; ++p) {
            first[p] = n;
            for (index_t tap = 0; tap < s.taps(); ++tap) {
                if (!s.meets(tap, p)) continue;
                move[n] = s.ty(tap) / s.SH * s.columns() + s.tx(tap) / s.SW;
                at[n++] = tap * ld;
            }
        }
        first[s.SH * s.SW] = n;
    }
    index_t count() const { return ceil_div(s.B, images); }
    index_t begin(index_t block) const { return block * images; }
    index_t end(index_t block) const { return min_of(begin(block) + images, s.B); }
    Taps taps(index_t p) const { return {first[p + 1] - first[p], move + first[p], at + first[p]}; }
};

// Pixels of one channel and class of a block, sorted; the memory of one thread.
struct Channel {
    const Spline& spline;
    const Blocks& blocks;
    Pixels pixels;
    real *values, *residual;
    void* sorter;

    static size_t bytes(const Blocks& b, int G) {
        return Sorted::bytes(b.pixels, G) + Sorter::bytes(b.pixels) + 2 * round_up(b.pixels * sizeof(real));
    }
    Channel(const Spline& spline, const Blocks& blocks, char* p) : spline(spline), blocks(blocks) {
        pixels.sorted.place(p, blocks.pixels);
        p += Sorted::bytes(blocks.pixels, spline.G);
        sorter = p;
        p += Sorter::bytes(blocks.pixels);
        values = (real*)p;
        residual = (real*)(p + round_up(blocks.pixels * sizeof(real)));
        pixels.residual = residual;
    }
    // Visit the grid of a class row by row: f(row of the images or null, its place in the grid).
    template <class F>
    void each_row(index_t c, index_t block, index_t p, F f) const {
        const Conv& s = blocks.s;
        index_t n = 0;
        for (index_t b = blocks.begin(block); b < blocks.end(block); ++b)
            for (index_t y = p / s.SW; n < (b + 1 - blocks.begin(block)) * s.pixels(); y += s.SH, n += s.columns())
                f(y < s.H ? ((b * s.C + c) * s.H + y) * s.W : -1, n);
    }
    void gather(const real* x, index_t c, index_t block, index_t p, real* to) const {
        const Conv& s = blocks.s;
        each_row(c, block, p, [&](index_t from, index_t n) {
            for (index_t q = 0, px = p % s.SW; q < s.columns(); ++q, px += s.SW)
                to[n + q] = from >= 0 && px < s.W ? x[from + px] : 0;
        });
    }
    template <bool derivative>
    void sort(const real* x, const real* rest, index_t c, index_t block, index_t p) {
        const index_t count = (blocks.end(block) - blocks.begin(block)) * blocks.s.pixels();
        gather(x, c, block, p, values);
        pixels.sorted.place(pixels.sorted.w, count);
        Sorter(spline, count, sorter).sort<derivative>(c, values, 1, pixels.sorted);
        if (!rest) return;
        gather(rest, c, block, p, values);
        for (index_t n = 0; n < count; ++n) residual[n] = values[pixels.sorted.row[n]];
    }
    // Put numbers in sorted order back to the pixels they belong to.
    void scatter(const real* sorted, index_t c, index_t block, index_t p, real* to) const {
        const Conv& s = blocks.s;
        const index_t count = (blocks.end(block) - blocks.begin(block)) * s.pixels();
        for (index_t n = 0; n < count; ++n) values[pixels.sorted.row[n]] = sorted[n];
        each_row(c, block, p, [&](index_t row, index_t n) {
            for (index_t q = 0, px = p % s.SW; row >= 0 && px < s.W; ++q, px += s.SW) to[row + px] = values[n + q];
        });
    }
};

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

// The weight with rows of whole vectors, the rest zero; the weight itself where it is so already.
struct Whole {
    Buffer memory;
    const real* w;
    index_t ld;
    Whole(const real* given, const Conv& s)
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
    const Whole whole(given, s);
    const Blocks blocks(s, images_of(s), s.T * whole.ld);
    const index_t vectors = s.vectors(), work = blocks.count() * s.groups;
    const index_t parts = work < s.threads ? min_of(ceil_div(s.threads, work), vectors) : 1;
    const index_t part = ceil_div(vectors, parts), size = s.taps() * s.T * whole.ld;
    const size_t channel = Channel::bytes(blocks, spline.G);
    const size_t bytes = channel + round_up(blocks.stride * part * L * sizeof(real));
    Buffer memory(bytes * s.threads);
    if (!memory.p || !blocks.memory.p || !whole.memory.p) return 1;
    parallel(work * parts, s.threads, [&](index_t task) {
        const index_t v0 = task % parts * part, v1 = min_of(v0 + part, vectors), ldy = (v1 - v0) * L;
        const index_t g = task / parts % s.groups, block = task / parts / s.groups;
        if (v0 >= v1) return;
        char* mine = (char*)memory.p + bytes * thread_number();
        Channel channel_(spline, blocks, mine);
        real* out = (real*)(mine + channel);
        std::memset(out, 0, blocks.stride * ldy * sizeof(real));
        for (index_t c = g * s.inner(); c < (g + 1) * s.inner(); ++c)
            for (index_t p = 0; p < s.SH * s.SW; ++p) {
                const Taps taps = blocks.taps(p);
                if (!taps.count) continue;
                channel_.sort<false>(x, residual, c, block, p);
                broad_pieces(v0, v1, [&](index_t v, auto width) {
                    forward_taps<width.value, Q>(channel_.pixels, spline.G, taps, whole.w + c * size + v * L,
                                                 whole.ld, s.T - 1, out + s.margin() * ldy + (v - v0) * L, ldy);
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

// Threads split the channels; where these are few, blocks (gx) and taps (gw) in turn.
template <int Q>
static int conv_backward(const Spline& spline, const Conv& s, const real* gy, const real* x, const real* given,
                         const real* residual, real* gx, real* gw, real* gr) {
    const Whole whole(given, s);
    const Blocks blocks(s, images_of(s), s.T * whole.ld), narrow(s, blocks.images, s.T * s.O);
    const index_t vectors = s.vectors(), ldy = vectors * L, count = blocks.count(), classes = s.SH * s.SW;
    Buffer packed(s.groups * count * blocks.stride * ldy * sizeof(real));
    const size_t channel = Channel::bytes(blocks, spline.G), sums = round_up(blocks.pixels * sizeof(real));
    const size_t bytes = channel + 2 * sums;
    Buffer memory(bytes * s.threads);
    if (!packed.p || !memory.p || !blocks.memory.p || !narrow.memory.p || !whole.memory.p) return 1;
    real* g = (real*)packed.p;  // (groups, blocks, stride, ldy), zero where there is no output
    parallel(s.groups * count, s.threads, [&](index_t task) {
        const index_t group = task / count, block = task % count, OH = s.OH(), OW = s.OW();
        real* to = g + task * blocks.stride * ldy;
        std::memset(to, 0, blocks.stride * ldy * sizeof(real));
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
        char* mine = (char*)memory.p + bytes * thread_number();
        Channel channel_(spline, blocks, mine);
        real *slope = (real*)(mine + channel), *rest = (real*)(mine + channel + sums);
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
                        input_taps<NV, Q>(channel_.pixels, spline.G, taps, whole.w + c * s.taps() * s.T * whole.ld + v * L,
                                          whole.ld, s.T - 1, gv, ldy, slope, rest, v > 0);
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
    const size_t all = s.B * s.C * s.H * s.W * sizeof(real);
    if (gx && classes > 1) std::memset(gx, 0, all);  // some classes may have no tap
    if (gr && classes > 1) std::memset(gr, 0, all);
    if (s.C >= s.threads) {
        parallel(s.C, s.threads, [&](index_t c) { run(c, 0, count, 0, s.taps(), gx, gw); });
        return 0;
    }
    if (gx)
        parallel(s.C * count, s.threads,
                 [&](index_t t) { run(t / count, t % count, t % count + 1, 0, s.taps(), true, false); });
    if (gw)
        parallel(s.C * s.taps(), s.threads, [&](index_t t) {
            run(t / s.taps(), 0, count, t % s.taps(), t % s.taps() + 1, false, true);
        });
    return 0;
}
