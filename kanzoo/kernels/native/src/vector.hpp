// Shared parts of all kernels: vectors of REAL (float or double), threads and memory.
#pragma once
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

typedef REAL real;
typedef int64_t index_t;

static constexpr int L = VECTOR_BYTES / sizeof(real);  // lanes of a vector
static constexpr index_t Y_BYTES = 384 * 1024;         // block of y that stays in the L2 cache

template <int lanes>
struct Vector {
    typedef real type __attribute__((vector_size(lanes * sizeof(real)), aligned(sizeof(real)), may_alias));
};
typedef Vector<L>::type vec;
template <int bytes>
struct Word {
    typedef int64_t type;
};
template <>
struct Word<4> {
    typedef int32_t type;
};
typedef Word<sizeof(real)>::type word;
typedef word wvec __attribute__((vector_size(L * sizeof(word))));    // what comparing vectors gives
typedef int32_t ivec __attribute__((vector_size(L * sizeof(int32_t))));

static inline vec load(const real* p) { return *(const vec*)p; }
static inline void store(real* p, vec v) { *(vec*)p = v; }

// Up to L numbers, the rest zero.
static inline vec load_part(const real* p, index_t count) {
    if (count >= L) return load(p);
    real padded[L] = {0};
    memcpy(padded, p, count * sizeof(real));
    return load(padded);
}
static inline void store_part(real* p, vec v, index_t count) {
    if (count >= L) store(p, v);
    else memcpy(p, &v, count * sizeof(real));
}

// The first `count` numbers of a vector, the rest zero.
static inline vec first_of(vec v, index_t count) {
    for (index_t l = count; l < L; ++l) v[l] = 0;
    return v;
}

static inline index_t min_of(index_t a, index_t b) { return a < b ? a : b; }
static inline index_t max_of(index_t a, index_t b) { return a > b ? a : b; }
static inline index_t ceil_div(index_t a, index_t b) { return (a + b - 1) / b; }
static inline size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Write or add the first `columns` numbers of NV vectors.
template <int NV>
static inline void store_row(real* to, const vec* from, index_t columns, bool add) {
    if (columns >= NV * L) {
        for (int v = 0; v < NV; ++v) store(to + v * L, add ? load(to + v * L) + from[v] : from[v]);
        return;
    }
    real padded[NV * L];
    for (int v = 0; v < NV; ++v) store(padded + v * L, from[v]);
    for (index_t o = 0; o < columns; ++o) to[o] = add ? to[o] + padded[o] : padded[o];
}

// Add halves of a vector onto each other until `to` lanes are left.
template <int from, int to>
struct Fold {
    typedef typename Vector<from / 2>::type half;
    static inline typename Vector<to>::type run(typename Vector<from>::type v) {
        return Fold<from / 2, to>::run(((const half*)&v)[0] + ((const half*)&v)[1]);
    }
};
template <int to>
struct Fold<to, to> {
    static inline typename Vector<to>::type run(typename Vector<to>::type v) { return v; }
};

// Sums of neighbours in a and in b, one after the other.
template <class V>
static inline V pair_sums(V a, V b) {
    constexpr int lanes = sizeof(V) / sizeof(real);
#ifdef __clang__
    V sum;
    for (int l = 0; l < lanes / 2; ++l) sum[l] = a[2 * l] + a[2 * l + 1], sum[l + lanes / 2] = b[2 * l] + b[2 * l + 1];
    return sum;
#else
    decltype(a < b) even, odd;
    for (int l = 0; l < lanes; ++l) even[l] = 2 * l, odd[l] = 2 * l + 1;
    return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
#endif
}

// The sum of each of so many vectors, as many as they have lanes.
template <int count, class V>
static inline V sums_of(const V* v) {
    if constexpr (count == 1) return v[0];
    else return pair_sums(sums_of<count / 2>(v), sums_of<count / 2>(v + count / 2));
}

// Whether two types are the same.
template <class A, class B>
static constexpr bool same = false;
template <class A>
static constexpr bool same<A, A> = true;

// A number as a type.
template <int NV>
struct Width {
    static constexpr int value = NV;
    constexpr operator index_t() const { return NV; }
};

// Copy rows of `columns` numbers to rows of ldt, the rest zero.
static inline void copy_rows(const real* from, index_t ldf, real* to, index_t ldt, index_t rows, index_t columns) {
    for (index_t n = 0; n < rows; ++n) {
        memcpy(to + n * ldt, from + n * ldf, columns * sizeof(real));
        for (index_t o = columns; o < ldt; ++o) to[n * ldt + o] = 0;
    }
}

static __thread int worker_number = 0;
static inline int thread_number() { return worker_number; }  // in a parallel region, from 0

// PyTorch's own threads, where it has them from libgomp.
typedef void (*Pool)(void (*run)(void*), void* data, unsigned threads, unsigned flags);
static const Pool pool = (Pool)dlsym(RTLD_DEFAULT, "GOMP_parallel");

template <class F>
struct Team {
    F& f;
    index_t tasks, taken;
    int joined;
    static void run(void* p) {
        Team& t = *(Team*)p;
        worker_number = __atomic_fetch_add(&t.joined, 1, __ATOMIC_RELAXED);
        for (index_t n; (n = __atomic_fetch_add(&t.taken, 1, __ATOMIC_RELAXED)) < t.tasks;) t.f(n);
        worker_number = 0;
    }
    static void* start(void* p) {
        run(p);
        return nullptr;
    }
};

// Run f(task) for every task. One thread never enters the pool, which does not survive fork().
template <class F>
static void parallel(index_t tasks, int threads, F f) {
    if (threads <= 1 || tasks <= 1) {
        for (index_t t = 0; t < tasks; ++t) f(t);
        return;
    }
    Team<F> team = {f, tasks, 0, 0};
    if (pool) return pool(Team<F>::run, &team, (unsigned)min_of(threads, tasks), 0);
    static constexpr int MOST = 64;
    pthread_t others[MOST];
    const int wanted = (int)min_of(min_of(threads, tasks), MOST) - 1;
    int started = 0;
    while (started < wanted && !pthread_create(others + started, nullptr, Team<F>::start, &team)) ++started;
    Team<F>::run(&team);
    for (int n = 0; n < started; ++n) pthread_join(others[n], nullptr);
}

// The same numbers as 0 .. tasks - 1, but those that threads take at the same time are far apart: what
// they write does not meet in one cache line.
static inline index_t interleave(index_t task, index_t tasks, int threads) {
    const index_t thread = task % threads, each = tasks / threads, more = tasks % threads;
    return thread * each + min_of(thread, more) + task / threads;
}

struct Buffer {  // uninitialised memory, aligned to a cache line; p is null when memory is short
    void* p;
    explicit Buffer(size_t bytes) : p(aligned_alloc(64, round_up(bytes + 64))) {}
    ~Buffer() { free(p); }
    Buffer(const Buffer&) = delete;
};

// Ask for huge pages: the first touch of a large fresh output costs more than computing it.
static inline void expect_large(void* p, size_t bytes) {
#ifdef MADV_HUGEPAGE
    const size_t page = 2 << 20, begin = ((size_t)p + page - 1) / page * page, end = ((size_t)p + bytes) / page * page;
    if (end > begin + page) madvise((void*)begin, end - begin, MADV_HUGEPAGE);
#else
    (void)p, (void)bytes;
#endif
}
