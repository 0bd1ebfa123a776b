// Elements at computed places. An index that is out of range picks nothing: NaN, or the least integer, takes its place.
//
// pick, take_along: f32 and i64, a thread per element of the result. Bytes per element: one index, one element.
// top: the first K of each line in sorted order, or their indices. NaN counts as larger than every number; of equals the one of lower index
// comes first. Elements are compared by keys whose order as integers is that order, so that all keys of a line differ. Thread mapping: `lines.cuh`.
//   top_by_rank    a lane counts the keys before its element's: COUNT² comparisons per line, whatever K is
//   top_by_rounds  the lanes of a line find its largest key below the last one found, K times: K * COUNT comparisons per line
// The best 5 of 50 x 32: 3,594 FLOPs with the scores, 6.7 KB a row, 1.4 ns on an H200, bound by reading tables; not yet run on hardware.
#pragma once
#include "lines.cuh"

DEV void make_lost(float& x) { x = bits_f32(0x7fc00000u); }
DEV void make_lost(int64_t& x) { x = -9223372036854775807ll - 1; }

// Element [outer][index][inner] of x [OUTER][AXIS][INNER], or what says that it is not there.
template <int AXIS, int INNER, class T>
DEV T picked(const T* x, int outer, int64_t index, int inner) {
    if ((uint64_t)index >= (uint64_t)AXIS) {
        T lost;
        make_lost(lost);
        return lost;
    }
    return x[(outer * AXIS + (int)index) * INNER + inner];
}

// x [OUTER][AXIS][INNER], INDEX [N], OUT [OUTER][N][INNER].
template <class X, class INDEX, class OUT, int OUTER, int AXIS, int N, int INNER>
DEV void pick(const Block& b) {
    constexpr int LEN = OUTER * N * INNER;
    for (int i = (int)thread_x(); i < b.rows * LEN; i += THREADS) {
        const int r = i / LEN, e = i % LEN;
        const int64_t index = INDEX::row(b, r)[e / INNER % N];
        OUT::row(b, r)[e] = picked<AXIS, INNER>(X::row(b, r), e / (N * INNER), index, e % INNER);
    }
}

// x [OUTER][AXIS][INNER], INDEX and OUT [OUTER][N][INNER].
template <class X, class INDEX, class OUT, int OUTER, int AXIS, int N, int INNER>
DEV void take_along(const Block& b) {
    constexpr int LEN = OUTER * N * INNER;
    for (int i = (int)thread_x(); i < b.rows * LEN; i += THREADS) {
        const int r = i / LEN, e = i % LEN;
        const int64_t index = INDEX::row(b, r)[e];
        OUT::row(b, r)[e] = picked<AXIS, INNER>(X::row(b, r), e / (N * INNER), index, e % INNER);
    }
}

// Larger for what comes first. LARGEST: the larger elements do.
template <class L, bool LARGEST>
DEV uint64_t sort_key(float x, int e) {
    const uint32_t bits = x == 0.0f ? 0u : f32_bits(x);
    const uint32_t ascending = bits >> 31 ? ~bits : bits | 0x80000000u;
    const uint32_t order = is_nan(x) ? (LARGEST ? 0xffffffffu : 0u) : LARGEST ? ascending : ~ascending;
    return (uint64_t)order << 32 | (uint32_t)(L::COUNT - 1 - e);
}

// What the result holds of element e.
DEV void keep(float& to, float x, int) { to = x; }
DEV void keep(int64_t& to, float, int e) { to = e; }

// Place of element e among the results of a line of K.
template <int K, int INNER>
DEV int result_at(int line, int e) {
    return (line / INNER * K + e) * INNER + line % INNER;
}

// x's lines lie INNER apart in groups. A lane per element, the parts of a line being its elements.
template <class X, class OUT, class L, int K, int INNER, bool LARGEST>
DEV void top_by_rank(const Block& b) {
    const int total = b.rows * L::LINES * L::COUNT;
    for (int i = (int)thread_x(); i < total; i += THREADS) {
        const int r = i / (L::LINES * L::COUNT), place = i % (L::LINES * L::COUNT);
        const int line = place / (L::COUNT * INNER) * INNER + place % INNER, e = place / INNER % L::COUNT;
        const float* x = X::row(b, r) + L::start(line);
        const float mine = x[L::at(e)];
        const uint64_t key = sort_key<L, LARGEST>(mine, e);
        int rank = 0;
#pragma unroll 4
        for (int other = 0; other < L::COUNT; other++) {
            rank += sort_key<L, LARGEST>(x[L::at(other)], other) > key;
        }
        if (rank < K) {
            keep(OUT::row(b, r)[result_at<K, INNER>(line, rank)], mine, e);
        }
    }
}

template <class X, class OUT, class L, int K, int INNER, bool LARGEST>
DEV void top_by_rounds(const Block& b) {
    each_line<L>(b, [&](int r, int line, bool live) {
        const float* x = X::row(b, r) + L::start(line);
        // No key is as large: its lower half would be COUNT - 1 of a line of 2^32 elements.
        uint64_t last = ~(uint64_t)0;
        for (int round = 0; round < K; round++) {
            uint64_t best = 0;
#pragma unroll 4
            for (int e = L::part(); e < L::COUNT; e += L::PARTS) {
                const uint64_t key = sort_key<L, LARGEST>(x[L::at(e)], e);
                best = key < last && key > best ? key : best;
            }
            last = join_lanes<L>(best, [](uint64_t a, uint64_t c) { return c > a ? c : a; });
            if (live && L::part() == 0) {
                const int e = L::COUNT - 1 - (int)(uint32_t)last;
                keep(OUT::row(b, r)[result_at<K, INNER>(line, round)], x[L::at(e)], e);
            }
        }
    });
}
