// Rows of values as operands of tensor cores: what a view promises about addresses, and how pairs of elements become registers.
//
// An operand's register holds elements k and k + 1 of a row, rounded to bf16, k in the low half. Values are f32 or bf16; elements from K on are
// zeros whatever lies there, as 0 x NaN would be NaN.
#pragma once
#include "tile.cuh"

// Every row of a view starts on a boundary of so many bytes.
DEV constexpr int boundary(int64_t bytes) { return bytes % 16 == 0 ? 16 : bytes % 8 == 0 ? 8 : bytes % 4 == 0 ? 4 : 2; }

template <class VIEW>
struct Rows {
    static constexpr int ALIGN = 2;
    static constexpr bool IN_TILE = false;
};
template <class T, int OFFSET, int STRIDE>
struct Rows<Shared<T, OFFSET, STRIDE>> {
    static constexpr int ALIGN = boundary(OFFSET | STRIDE * (int)sizeof(T));
    static constexpr bool IN_TILE = true;  // there is memory for all rows of the tile, live or not
};
template <class T, int OFFSET, int STRIDE>
struct Rows<Scratch<T, OFFSET, STRIDE>> {
    static constexpr int ALIGN = boundary(OFFSET | STRIDE * (int)sizeof(T));
    static constexpr bool IN_TILE = true;
};
template <class T, int OFFSET, int BYTES>
struct Rows<Kept<T, OFFSET, BYTES>> {
    static constexpr int ALIGN = boundary(OFFSET | BYTES);
    static constexpr bool IN_TILE = false;
};
template <class T, int OFFSET, int BYTES>
struct Rows<KeptOf<T, OFFSET, BYTES>> {
    static constexpr int ALIGN = boundary(OFFSET | BYTES);
    static constexpr bool IN_TILE = true;
};
template <class T, int64_t ROW_OFFSET, int FIRST, int STRIDE>
struct Rows<Work<T, ROW_OFFSET, FIRST, STRIDE>> {
    static constexpr int ALIGN = boundary(ROW_OFFSET | (int64_t)(FIRST | STRIDE) * (int)sizeof(T));
    static constexpr bool IN_TILE = false;
};
template <class T, int64_t OFFSET>
struct Rows<Constant<T, OFFSET>> {
    static constexpr int ALIGN = boundary(OFFSET);
    static constexpr bool IN_TILE = true;
};

// Elements k and k + 1 of row x, which starts on a boundary of ALIGN bytes; k is even. GUARDED: k + 1 may be beyond K.
template <int K, int ALIGN, bool GUARDED>
DEV uint32_t operand_pair(const float* x, int k) {
    if (GUARDED && k + 1 >= K) {
        return pack_bf16(k < K ? x[k] : 0.0f, 0.0f);
    }
    if (ALIGN >= 8) {
        const float2 pair = *(const float2*)(x + k);
        return pack_bf16(pair.x, pair.y);
    }
    return pack_bf16(x[k], x[k + 1]);
}
template <int K, int ALIGN, bool GUARDED>
DEV uint32_t operand_pair(const Bf16* x, int k) {
    if (GUARDED && k + 1 >= K) {
        return k < K ? x[k].bits : 0u;
    }
    if (ALIGN >= 4) {
        return *(const uint32_t*)(x + k);
    }
    return (uint32_t)x[k].bits | (uint32_t)x[k + 1].bits << 16;
}

// A pair of f32 as the sum of two pairs of bf16: what is left of the elements after `high` is rounded to `low`, so that 16 bits of each are
// kept. A product with both costs two instructions of the tensor cores, and rounds nothing but weights.
struct Halves {
    uint32_t high, low;
};
// What is left of x; nothing of an infinity or of what is no number, which would make another number of the sum.
DEV float rest(float x, float high) {
    const float left = x - high;
    return abs_(left) <= 3.0e38f ? left : 0.0f;
}
DEV Halves halves(float x, float y) {
    const uint32_t high = pack_bf16(x, y);
    return Halves{high, pack_bf16(rest(x, bf16_lo(high)), rest(y, bf16_hi(high)))};
}
template <int K, int ALIGN, bool GUARDED>
DEV Halves operand_halves(const float* x, int k) {
    if (GUARDED && k + 1 >= K) {
        return halves(k < K ? x[k] : 0.0f, 0.0f);
    }
    if (ALIGN >= 8) {
        const float2 pair = *(const float2*)(x + k);
        return halves(pair.x, pair.y);
    }
    return halves(x[k], x[k + 1]);
}
