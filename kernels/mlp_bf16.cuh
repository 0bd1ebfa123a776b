// Dense layers of a tile on tensor cores: OUT[p][n] = activation(X[p][K] · W[K][N] + bias (+ addend)), for the p = rows * INNER rows of a product.
// W is rounded to bf16; X is taken as the sum of two bf16 halves, 16 bits of each element. Sums are f32.
//
// Weights: for each 8 columns and 32 inputs the 512 bytes that a warp needs as operands, 16 per lane: with g = lane / 4, t = lane % 4 inputs
// 2t, 2t + 1, 2t + 8, 2t + 9 of column g, then the same of the next 16 inputs; zeros beyond K and N. Chunks of one strip of columns follow each
// other. Bias: f32, padded to a multiple of 8.
//
// Threads: a warp takes NPW strips of 8 columns for MPW tiles of 16 rows, so that a tile's weights are read once from the L2 (twice or four times
// where there are few columns), straight into registers, some chunks ahead; X comes by loads of pairs. Products too small for eight warps have their inputs split among them, and their sums added up through the room.
//
// Bytes per tile: 2 K N of weights from the L2 at about 64 a clock; FLOPs: 2 K N per row, on tensor cores twice that. On an H200 (132 SMs, 1.75 GHz, 790 TFLOP/s seen elsewhere for
// wgmma, about 500 for mma.sync) a tile of 16 rows is bound by the weights (K N / 32 clocks; 0.47 M weights: 8 us), a tile of 64 rows by the
// operands' way through shared memory (2 K bytes per row and 32 columns) and by the tensor cores alike.
// Registers (NVRTC 12.9, sm_90a, no spills): 40 to 124 at 16 rows, 128 to 202 at 64; a whole DLRM 168 and 236, so one block per SM at a time.
// Results do not depend on a row's place, on the other rows, or on the size of the tile.
// 367-512-256-1: 640,004 FLOPs and 1.5 KB a row, 0.65 ns on an H200; its weights from the L2 for 64 rows a tile 1.8 ns; not yet run on hardware.
#pragma once
#include "mlp.cuh"
#include "operands.cuh"

// Row tiles of a warp: fewer where there are too few strips of columns for all warps.
DEV constexpr int row_tiles(int mpw, int m, int strips) {
    return mpw == 1 || parts(m, mpw) * strips >= WARPS ? mpw : row_tiles(mpw / 2, m, strips);
}
// What a warp spends: products, operands of rows, weights.
DEV constexpr int cost(int mpw, int npw, int m, int strips) {
    return parts(parts(m, mpw) * parts(strips, npw), WARPS) * (2 * mpw * npw + 2 * mpw + npw);
}
DEV constexpr int cheapest(int mpw, int m, int strips) {
    const int one = cost(mpw, 1, m, strips), two = cost(mpw, 2, m, strips), four = cost(mpw, 4, m, strips);
    return four <= two && four <= one ? 4 : two <= one ? 2 : 1;
}

// Parts of the inputs that are added up apart: as many as there are warps for each 16 x 8 results of a tile of 16 rows, whatever the tile, so that
// results do not depend on the size of a batch.
DEV constexpr int input_parts(int items, int chunks) { return items * 2 > WARPS ? 1 : at_most(WARPS / items, chunks); }

// How the warps of a block share out a product of TILE * INNER x K x N.
template <int TILE, int INNER, int K, int N>
struct WarpTiles {
    static constexpr int ROWS = TILE * INNER, M = parts(ROWS, 16), STRIPS = parts(N, 8), CHUNKS = parts(K, 32);
    static constexpr int MPW = row_tiles(M >= 4 ? 4 : M >= 2 ? 2 : 1, M, STRIPS);
    static constexpr int NPW = cheapest(MPW, M, STRIPS);
    static constexpr int ITEMS = parts(M, MPW) * parts(STRIPS, NPW);
    // Parts of the inputs, each of so many chunks.
    static constexpr int SPLITS = input_parts(INNER * STRIPS, CHUNKS), SHARE = parts(CHUNKS, SPLITS);
    // Whether parts are computed by warps side by side, not by one warp in turn.
    static constexpr bool APART = TILE == 16 && SPLITS > 1;
    // Chunks of weights under way: one where a chunk's 64 products per warp take longer than the way from the L2, and registers are scarce.
    static constexpr int AHEAD = MPW * NPW >= 16 ? 1 : at_most(8 / NPW, SHARE);
};

// The four registers of an operand's 16 rows and inputs, and those of what rounding left.
template <int K, int ALIGN, bool GUARDED>
DEV void operands(uint32_t (&high)[4], uint32_t (&low)[4], const float* const (&rows)[2], int k) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const Halves both = operand_halves<K, ALIGN, GUARDED>(rows[i % 2], k + i / 2 * 8);
        high[i] = both.high;
        low[i] = both.low;
    }
}

// sums += X[p][32 from .. 32 to] · W, for MPW tiles of rows from `row0` on and NPW strips of columns from `strip0` on.
template <class X, int K, int N, int INNER, int64_t WEIGHTS, class T>
DEV void multiply_bf16(const Block& b, int row0, int strip0, int from, int to, float (&sums)[T::MPW][T::NPW][4]) {
    constexpr int ALIGN = INNER > 1 ? boundary(Rows<X>::ALIGN | K * 4) : Rows<X>::ALIGN;
    const int g = (int)lane() / 4, t = (int)lane() % 4;
    const int last = (Rows<X>::IN_TILE ? T::ROWS : b.rows * INNER) - 1;
    const float* x[T::MPW][2];
#pragma unroll
    for (int m = 0; m < T::MPW; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int p = row0 + m * 16 + g + half * 8;
            p = p < last ? p : last;
            x[m][half] = X::row(b, p / INNER) + p % INNER * K;
        }
    }
    const uint8_t* weights[T::NPW];
    uint4 ahead[T::AHEAD][T::NPW];
#pragma unroll
    for (int n = 0; n < T::NPW; n++) {
        const int strip = strip0 + n < T::STRIPS ? strip0 + n : T::STRIPS - 1;
        weights[n] = b.job.weights + WEIGHTS + (size_t)strip * (T::CHUNKS * 512) + lane() * 16;
    }
#pragma unroll
    for (int slot = 0; slot < T::AHEAD; slot++) {
#pragma unroll
        for (int n = 0; n < T::NPW; n++) {
            ahead[slot][n] = load_nc16(weights[n] + (size_t)(from + slot < to ? from + slot : from) * 512);
        }
    }
#pragma unroll 1
    for (int first = from; first < to; first += T::AHEAD) {
#pragma unroll
        for (int slot = 0; slot < T::AHEAD; slot++) {
            const int chunk = first + slot;
            if (chunk >= to) {
                break;
            }
            uint32_t w[T::NPW][2][2];
#pragma unroll
            for (int n = 0; n < T::NPW; n++) {
                const uint4 four = ahead[slot][n];
                w[n][0][0] = four.x;
                w[n][0][1] = four.y;
                w[n][1][0] = four.z;
                w[n][1][1] = four.w;
                if (chunk + T::AHEAD < to) {
                    ahead[slot][n] = load_nc16(weights[n] + (size_t)(chunk + T::AHEAD) * 512);
                }
            }
            const bool tail = K % 32 != 0 && chunk == T::CHUNKS - 1;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int k = chunk * 32 + half * 16;
                if (half == 1 && (K - 1) % 32 < 16 && tail) {
                    continue;
                }
#pragma unroll
                for (int m = 0; m < T::MPW; m++) {
                    uint32_t a[4], low[4];
                    if (tail) {
                        operands<K, ALIGN, true>(a, low, x[m], k + 2 * t);
                    } else {
                        operands<K, ALIGN, false>(a, low, x[m], k + 2 * t);
                    }
#pragma unroll
                    for (int n = 0; n < T::NPW; n++) {
                        mma_bf16(sums[m][n], a, w[n][half]);
                        mma_bf16(sums[m][n], low, w[n][half]);
                    }
                }
            }
        }
    }
}

// Every warp has items of its own.
template <class X, class OUT, class ADDEND, int TILE, int K, int N, int INNER, int ADDEND_INNER, int ACTIVATION, int64_t WEIGHTS, int64_t BIAS>
DEV void linear_bf16_whole(const Block& b) {
    using T = WarpTiles<TILE, INNER, K, N>;
    constexpr int COLUMNS = (T::STRIPS + T::NPW - 1) / T::NPW;
    const int g = (int)lane() / 4, t = (int)lane() % 4;
    const int row_items = (b.rows * INNER + 16 * T::MPW - 1) / (16 * T::MPW);
#pragma unroll 1
    for (int item = (int)warp(); item < row_items * COLUMNS; item += WARPS) {
        const int row0 = item / COLUMNS * (16 * T::MPW), strip0 = item % COLUMNS * T::NPW;
        float sums[T::MPW][T::NPW][4] = {};
        if constexpr (T::SPLITS == 1) {
            multiply_bf16<X, K, N, INNER, WEIGHTS, T>(b, row0, strip0, 0, T::CHUNKS, sums);
        } else {
#pragma unroll 1
            for (int from = 0; from < T::CHUNKS; from += T::SHARE) {
                const int to = from + T::SHARE < T::CHUNKS ? from + T::SHARE : T::CHUNKS;
                float part[T::MPW][T::NPW][4] = {};
                multiply_bf16<X, K, N, INNER, WEIGHTS, T>(b, row0, strip0, from, to, part);
#pragma unroll
                for (int e = 0; e < T::MPW * T::NPW * 4; e++) {
                    sums[e / (T::NPW * 4)][e / 4 % T::NPW][e % 4] += part[e / (T::NPW * 4)][e / 4 % T::NPW][e % 4];
                }
            }
        }
#pragma unroll
        for (int m = 0; m < T::MPW; m++) {
#pragma unroll
            for (int n = 0; n < T::NPW; n++) {
                const int p = row0 + m * 16 + g, column = (strip0 + n) * 8 + 2 * t;
                store_pair<OUT, ADDEND, N, INNER, ADDEND_INNER, ACTIVATION, BIAS>(b, p, column, sums[m][n][0], sums[m][n][1]);
                store_pair<OUT, ADDEND, N, INNER, ADDEND_INNER, ACTIVATION, BIAS>(b, p + 8, column, sums[m][n][2], sums[m][n][3]);
            }
        }
    }
}

// Several warps share an item: each has some of its inputs.
template <class X, class OUT, class ADDEND, class ROOM, int TILE, int K, int N, int INNER, int ADDEND_INNER, int ACTIVATION, int64_t WEIGHTS, int64_t BIAS>
DEV void linear_bf16_split(const Block& b) {
    using T = WarpTiles<TILE, INNER, K, N>;
    static_assert(T::MPW == 1 && T::NPW == 1, "512 bytes of sums for each warp in the room");
    float* room = (float*)ROOM::row(b, 0);
    const int item = (int)warp() / T::SPLITS, split = (int)warp() % T::SPLITS;
    if (item < T::ITEMS) {
        const int g = (int)lane() / 4, t = (int)lane() % 4;
        const int from = split * T::SHARE, to = from + T::SHARE < T::CHUNKS ? from + T::SHARE : T::CHUNKS;
        float sums[1][1][4] = {};
        if (from < to) {
            multiply_bf16<X, K, N, INNER, WEIGHTS, T>(b, item / T::STRIPS * 16, item % T::STRIPS, from, to, sums);
        }
        float* mine = room + warp() * 128;
        *(float2*)(mine + g * 8 + 2 * t) = make_float2(sums[0][0][0], sums[0][0][1]);
        *(float2*)(mine + (g + 8) * 8 + 2 * t) = make_float2(sums[0][0][2], sums[0][0][3]);
    }
    sync_block();
    for (int i = (int)thread_x(); i < T::ITEMS * 64; i += THREADS) {
        const int of = i / 64, row = i % 64 / 4, column = i % 4 * 2;
        const float* sums = room + of * (T::SPLITS * 128) + row * 8 + column;
        float2 sum = *(const float2*)sums;
#pragma unroll
        for (int other = 1; other < T::SPLITS; other++) {
            const float2 more = *(const float2*)(sums + other * 128);
            sum.x += more.x;
            sum.y += more.y;
        }
        const int p = of / T::STRIPS * 16 + row, n = of % T::STRIPS * 8 + column;
        store_pair<OUT, ADDEND, N, INNER, ADDEND_INNER, ACTIVATION, BIAS>(b, p, n, sum.x, sum.y);
    }
}

template <class X, class OUT, class ADDEND, class ROOM, int TILE, int K, int N, int INNER, int ADDEND_INNER, int ACTIVATION, int64_t WEIGHTS, int64_t BIAS>
DEV void linear_bf16(const Block& b) {
    if constexpr (WarpTiles<TILE, INNER, K, N>::APART) {
        linear_bf16_split<X, OUT, ADDEND, ROOM, TILE, K, N, INNER, ADDEND_INNER, ACTIVATION, WEIGHTS, BIAS>(b);
    } else {
        linear_bf16_whole<X, OUT, ADDEND, TILE, K, N, INNER, ADDEND_INNER, ACTIVATION, WEIGHTS, BIAS>(b);
    }
}
