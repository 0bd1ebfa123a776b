// Along axes of a row: OUT[line] = x_0 ∘ x_1 ∘ .. of the line's elements (sum, maximum, minimum, product), and running sums.
//
// f32 and i64 (wrapping). Thread mapping: `lines.cuh`. Running sums: a line per thread, or, where its elements are neighbours, 32 or fewer of them
// at a time are summed up by as many lanes, in log2 steps. Reads each element once; FLOPs: COUNT per line (running sums by lanes: log2 times).
// Running sums and the largest of 50 x 32: 3,199 FLOPs and 6.6 KB a row, 1.4 ns on an H200, bound by reading tables; not yet run on hardware.
#pragma once
#include "elementwise.cuh"
#include "lines.cuh"

struct Sum {
    DEV static void neutral(float& x) { x = 0.0f; }
    DEV static void neutral(int64_t& x) { x = 0; }
    DEV static float join(float a, float b) { return a + b; }
    DEV static int64_t join(int64_t a, int64_t b) { return add_i64(a, b); }
};
struct Prod {
    DEV static void neutral(float& x) { x = 1.0f; }
    DEV static void neutral(int64_t& x) { x = 1; }
    DEV static float join(float a, float b) { return a * b; }
    DEV static int64_t join(int64_t a, int64_t b) { return mul_i64(a, b); }
};
// NaN if any element is.
struct Max {
    DEV static void neutral(float& x) { x = bits_f32(0xff800000u); }
    DEV static void neutral(int64_t& x) { x = -9223372036854775807ll - 1; }
    DEV static float join(float a, float b) { return max_f32(a, b); }
    DEV static int64_t join(int64_t a, int64_t b) { return max_i64(a, b); }
};
struct Min {
    DEV static void neutral(float& x) { x = bits_f32(0x7f800000u); }
    DEV static void neutral(int64_t& x) { x = 9223372036854775807ll; }
    DEV static float join(float a, float b) { return min_f32(a, b); }
    DEV static int64_t join(int64_t a, int64_t b) { return min_i64(a, b); }
};

// OUT [LINES] = FOLD over each line.
template <class FOLD, class X, class OUT, class L>
DEV void reduce(const Block& b) {
    using T = typename OUT::Element;
    each_line<L>(b, [&](int r, int line, bool live) {
        const T* x = X::row(b, r) + L::start(line);
        T all;
        FOLD::neutral(all);
#pragma unroll 4
        for (int e = L::part(); e < L::COUNT; e += L::PARTS) {
            all = FOLD::join(all, x[L::at(e)]);
        }
        all = join_lanes<L>(all, [](T a, T c) { return FOLD::join(a, c); });
        if (live && L::part() == 0) {
            OUT::row(b, r)[line] = all;
        }
    });
}

// The value of the lane `by` before this one.
DEV float lane_before(float x, int by) { return shfl_idx(x, (lane() - (uint32_t)by) & 31u); }
DEV int64_t lane_before(int64_t x, int by) {
    const uint32_t from = (lane() - (uint32_t)by) & 31u;
    const uint32_t low = shfl_idx((uint32_t)x, from), high = shfl_idx((uint32_t)((uint64_t)x >> 32), from);
    return (int64_t)((uint64_t)high << 32 | low);
}
DEV float lane_value(float x, uint32_t from) { return shfl_idx(x, from); }
DEV int64_t lane_value(int64_t x, uint32_t from) {
    const uint32_t low = shfl_idx((uint32_t)x, from), high = shfl_idx((uint32_t)((uint64_t)x >> 32), from);
    return (int64_t)((uint64_t)high << 32 | low);
}

// OUT = sums of each line's elements up to each one: itself included unless EXCLUSIVE; from the end in REVERSE. Several PARTS lie together.
template <class X, class OUT, class L, bool EXCLUSIVE, bool REVERSE>
DEV void cum_sum(const Block& b) {
    using T = typename OUT::Element;
    each_line<L>(b, [&](int r, int line, bool live) {
        const T* x = X::row(b, r) + L::start(line);
        T* out = OUT::row(b, r) + L::start(line);
        // Minus zero changes no number, plus zero would change minus zero.
        T before = EXCLUSIVE ? (T)0 : -(T)0;
        const int part = L::part();
        for (int first = 0; first < L::COUNT; first += L::PARTS) {
            const int e = first + part;
            const bool inside = e < L::COUNT;
            const int place = L::at(REVERSE ? L::COUNT - 1 - e : e);
            T mine = inside ? x[place] : (T)0;
#pragma unroll
            for (int by = 1; by < L::PARTS; by *= 2) {
                const T other = lane_before(mine, by);
                mine = part >= by ? Sum::join(other, mine) : mine;
            }
            const T up_to = Sum::join(before, mine);
            T result = up_to;
            if (EXCLUSIVE) {
                const T earlier = lane_before(up_to, 1);
                result = part > 0 ? earlier : before;
            }
            if (live && inside) {
                out[place] = result;
            }
            before = L::PARTS > 1 ? lane_value(up_to, L::lane_of(L::PARTS - 1)) : up_to;
        }
    });
}
