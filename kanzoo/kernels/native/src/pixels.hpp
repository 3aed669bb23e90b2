// Pixels of a convolution: blocks of images, one channel sorted by grid cell, and padding.
#pragma once
#include <stdint.h>
typedef int32_t row_t;  // pixels of a block of images
#include "sweep_taps.hpp"

struct Conv {
    index_t B, C, H, W, O, groups, KH, KW, SH, SW, DH, DW, PH, PW;  // H, W with padding
    int T, threads;
    index_t OH() const { return (H - (KH - 1) * DH - 1) / SH + 1; }
    index_t OW() const { return (W - (KW - 1) * DW - 1) / SW + 1; }
    index_t taps() const { return KH * KW; }
    index_t rows() const { return ceil_div(H, SH); }  // of the grid of a class
    index_t columns() const { return ceil_div(W, SW); }
    index_t pixels() const { return rows() * columns(); }
    index_t vectors() const { return ceil_div(O, L); }
    index_t image() const { return (H - 2 * PH) * (W - 2 * PW); }
    bool pads(index_t y, index_t x) const { return y < PH || y >= H - PH || x < PW || x >= W - PW; }
    index_t inner() const { return C / groups; }
    index_t margin() const { return (KH - 1) * DH / SH * columns() + (KW - 1) * DW / SW; }
    index_t ty(index_t tap) const { return tap / KW * DH; }
    index_t tx(index_t tap) const { return tap % KW * DW; }
    bool meets(index_t tap, index_t p) const { return ty(tap) % SH == p / SW && tx(tap) % SW == p % SW; }
};

// Blocks of images, and the pixels and taps of every class; shared by all threads.
struct Blocks {
    const Conv& s;
    index_t images, pixels, stride;  // images, input pixels and rows of outputs of a block
    Buffer memory;
    index_t *move, *at, *first;  // taps in the order of their classes, and where each class begins
    index_t* begins;             // pixels of an image, likewise
    int32_t *from, *row;         // place of a pixel in its image; rows of outputs, for all images

    Blocks(const Conv& s, index_t images, index_t ld)
        : s(s), images(images), pixels(images * s.image()), stride(s.margin() + images * s.pixels()),
          memory((2 * s.taps() + 2 * (s.SH * s.SW + 1)) * sizeof(index_t) + (images + 2) * s.image() * sizeof(int32_t)) {
        if (!memory.p) return;
        const index_t classes = s.SH * s.SW;
        move = (index_t*)memory.p, at = move + s.taps(), first = at + s.taps(), begins = first + classes + 1;
        from = (int32_t*)(begins + classes + 1), row = from + s.image();
        int32_t* one = row + images * s.image();  // as `row`, of the first image
        index_t n = 0, taps = 0;
        for (index_t p = 0; p < classes; ++p) {
            first[p] = taps, begins[p] = n;
            for (index_t tap = 0; tap < s.taps(); ++tap) {
                if (!s.meets(tap, p)) continue;
                move[taps] = s.ty(tap) / s.SH * s.columns() + s.tx(tap) / s.SW;
                at[taps++] = tap * ld;
            }
            for (index_t y = p / s.SW; y < s.H; y += s.SH)
                for (index_t x = p % s.SW; x < s.W; x += s.SW) {
                    if (s.pads(y, x)) continue;
                    from[n] = (int32_t)((y - s.PH) * (s.W - 2 * s.PW) + x - s.PW);
                    one[n++] = (int32_t)(y / s.SH * s.columns() + x / s.SW);
                }
            for (index_t b = 0; b < images; ++b)  // image after image, as a class is sorted
                for (index_t i = begins[p]; i < n; ++i)
                    row[images * begins[p] + b * (n - begins[p]) + i - begins[p]] = one[i] + (int32_t)(b * s.pixels());
        }
        first[classes] = taps, begins[classes] = n;
    }
    index_t count() const { return ceil_div(s.B, images); }
    index_t begin(index_t block) const { return block * images; }
    index_t end(index_t block) const { return min_of(begin(block) + images, s.B); }
    index_t size(index_t p) const { return begins[p + 1] - begins[p]; }
    Taps taps(index_t p) const { return {first[p + 1] - first[p], move + first[p], at + first[p]}; }
};

// Pixels of one channel and class of a block, sorted; the memory of one thread.
struct Channel {
    const Spline& spline;
    const Blocks& blocks;
    Pixels pixels;
    real *values, *residual;
    int32_t* row;
    void* sorter;

    static size_t bytes(const Blocks& b, int G) {
        return Sorted::bytes(b.pixels, G) + Sorter::bytes(b.pixels, 1, G) + 2 * round_up(b.pixels * sizeof(real)) +
               round_up((b.pixels + Sorted::AHEAD) * sizeof(int32_t));
    }
    Channel(const Spline& spline, const Blocks& blocks, char* p) : spline(spline), blocks(blocks) {
        pixels.sorted.bind(p, blocks.pixels, spline.G);
        p += Sorted::bytes(blocks.pixels, spline.G);
        sorter = p;
        p += Sorter::bytes(blocks.pixels, 1, spline.G);
        values = (real*)p;
        p += round_up(blocks.pixels * sizeof(real));
        pixels.residual = residual = (real*)p;
        pixels.row = row = (int32_t*)(p + round_up(blocks.pixels * sizeof(real)));
    }
    // Visit the pixels of a class, image after image: f(place in the images, number in the class).
    template <class F>
    index_t each_pixel(index_t c, index_t block, index_t p, F f) const {
        const int32_t* from = blocks.from + blocks.begins[p];
        const index_t size = blocks.size(p), C = blocks.s.C, image = blocks.s.image();
        index_t n = 0;
        for (index_t b = blocks.begin(block); b < blocks.end(block); ++b, n += size)
            for (index_t i = 0; i < size; ++i) f((b * C + c) * image + from[i], n + i);
        return n;
    }
    template <bool derivative>
    void sort(const real* x, const real* rest, index_t c, index_t block, index_t p) {
        const index_t count = each_pixel(c, block, p, [&](index_t at, index_t n) { values[n] = x[at]; });
        Sorted& sorted = pixels.sorted;
        sorted.bind(sorted.x, count, spline.G);
        Sorter(spline, count, 1, sorter).sort<derivative>(c, 1, values, 1, &sorted);
        const int32_t* rows = blocks.row + blocks.images * blocks.begins[p];
        for (index_t n = 0; n < count; ++n) row[n] = rows[sorted.row[n]];
        if (!rest) return;
        each_pixel(c, block, p, [&](index_t at, index_t n) { values[n] = rest[at]; });
        for (index_t n = 0; n < count; ++n) residual[n] = values[sorted.row[n]];
    }
    // Put numbers in sorted order back to the pixels they belong to.
    void scatter(const real* numbers, index_t c, index_t block, index_t p, real* to) const {
        const index_t count = (blocks.end(block) - blocks.begin(block)) * blocks.size(p);
        for (index_t n = 0; n < count; ++n) values[pixels.sorted.row[n]] = numbers[n];
        each_pixel(c, block, p, [&](index_t at, index_t n) { to[at] = values[n]; });
    }
};

// Padding: its functions in every channel, and the outputs and taps that meet it.
struct Padding {
    const Conv& s;
    const Spline& spline;
    bool any;
    Padding(const Conv& s, const Spline& spline) : s(s), spline(spline), any(s.PH > 0 || s.PW > 0) {}

    size_t bytes() const { return Sorted::bytes(1, spline.G) + Sorter::bytes(1, 1, spline.G); }

    // f(cell, functions) of x = 0 in channel c, with memory of `bytes()`.
    template <class F>
    void functions(index_t c, void* memory, F f) const {
        real zero = 0;
        Sorted sorted;
        sorted.bind(memory, 1, spline.G);
        void* sorter = (char*)memory + Sorted::bytes(1, spline.G);
        Sorter(spline, 1, 1, sorter).sort<false>(c, 1, &zero, 1, &sorted);
        int cell = 0;
        while (sorted.start[cell + 1] == 0) ++cell;
        real t[P];
        for (int j = 0; j < P; ++j) t[j] = sorted.w[j * sorted.ld];
        f(cell, t);
    }
    // f(row of the grid of outputs, tap) of an image.
    template <class F>
    void each(F f) const {
        for (index_t y = 0; y < s.OH(); ++y)
            for (index_t x = 0; x < s.OW(); ++x)
                for (index_t tap = 0; tap < s.taps(); ++tap)
                    if (s.pads(y * s.SH + s.ty(tap), x * s.SW + s.tx(tap))) f(y * s.columns() + x, tap);
    }
    // What padding adds to the outputs of an image, (pixels, ld) of group g.
    void outputs(index_t g, const real* w, index_t ld, index_t size, void* memory, real* sums, real* to) const {
        memset(sums, 0, s.taps() * ld * sizeof(real));
        memset(to, 0, s.pixels() * ld * sizeof(real));
        for (index_t c = g * s.inner(); c < (g + 1) * s.inner(); ++c)
            functions(c, memory, [&](int cell, const real* t) {
                for (index_t tap = 0; tap < s.taps(); ++tap)
                    for (int j = 0; j < P; ++j) {
                        const real* from = w + c * size + (tap * s.T + cell + j) * ld;
                        for (index_t o = 0; o < ld; ++o) sums[tap * ld + o] += t[j] * from[o];
                    }
            });
        each([&](index_t row, index_t tap) {
            for (index_t o = 0; o < ld; ++o) to[row * ld + o] += sums[tap * ld + o];
        });
    }
};
