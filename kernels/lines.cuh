// Lines: elements of a row that are reduced, normalised or sorted together, for families that work along axes. A row has LINES of them, of COUNT
// elements each; a warp takes 32 / PARTS lines of the tile at once and PARTS of its lanes share a line's elements.
//
// The generator chooses PARTS and what lies side by side among the lanes (`families/lines.rs`): the parts of a line where its elements are
// neighbours in memory (TOGETHER), else the lines, so that the lanes of a warp read neighbours either way. It derives from `Lines` a struct with
//   start(line)  the line's first element within its row
//   at(e)        from there to element e of the line
// All lanes of a warp go through `each_line` together, so that bodies may exchange values; `live` is false for lanes that repeat a line.
#pragma once
#include "tile.cuh"

template <int LINES_, int COUNT_, int PARTS_, bool TOGETHER>
struct Lines {
    static_assert(PARTS_ >= 1 && PARTS_ <= 32 && (PARTS_ & (PARTS_ - 1)) == 0, "parts of a warp");
    static constexpr int LINES = LINES_, COUNT = COUNT_, PARTS = PARTS_;
    static constexpr int PER_WARP = 32 / PARTS;
    // Lanes of one line differ in these bits of their number.
    static constexpr int MASK_FIRST = TOGETHER ? 1 : PER_WARP, MASK_END = TOGETHER ? PARTS : 32;

    // Which of the warp's lines this lane works on, and which part of it.
    DEV static int line() { return TOGETHER ? (int)lane() / PARTS : (int)lane() % PER_WARP; }
    DEV static int part() { return TOGETHER ? (int)lane() % PARTS : (int)lane() / PER_WARP; }
    // The lane that has part `part` of this lane's line.
    DEV static uint32_t lane_of(int part) { return (uint32_t)(TOGETHER ? line() * PARTS + part : part * PER_WARP + line()); }
};

DEV float swap_lanes(float x, int mask) { return shfl_xor(x, (uint32_t)mask); }
DEV uint64_t swap_lanes(uint64_t x, int mask) {
    const uint32_t low = shfl_xor((uint32_t)x, (uint32_t)mask), high = shfl_xor((uint32_t)(x >> 32), (uint32_t)mask);
    return (uint64_t)high << 32 | low;
}
DEV int64_t swap_lanes(int64_t x, int mask) { return (int64_t)swap_lanes((uint64_t)x, mask); }

// The values of all lanes of a line joined, given to each of them.
template <class L, class T, class JOIN>
DEV T join_lanes(T mine, JOIN join) {
#pragma unroll
    for (int mask = L::MASK_FIRST; mask < L::MASK_END; mask *= 2) {
        mine = join(mine, swap_lanes(mine, mask));
    }
    return mine;
}
template <class L>
DEV float sum_lanes(float mine) {
    return join_lanes<L>(mine, [](float a, float b) { return a + b; });
}
// NaN is no maximum.
template <class L>
DEV float max_lanes(float mine) {
    return join_lanes<L>(mine, [](float a, float b) { return b > a ? b : a; });
}

// body(r, line, live) for every line of the tile's rows.
template <class L, class BODY>
DEV void each_line(const Block& b, BODY body) {
    const int total = b.rows * L::LINES;
    for (int first = (int)warp() * L::PER_WARP; first < total; first += WARPS * L::PER_WARP) {
        const int line = first + L::line();
        const bool live = line < total;
        const int taken = live ? line : total - 1;
        body(taken / L::LINES, taken % L::LINES, live);
    }
}
