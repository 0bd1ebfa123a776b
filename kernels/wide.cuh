// Dense layers too wide for tiles, a kernel each over the whole batch: Y[rows][N] = activation(X[rows][K] · W[K][N] + bias (+ addend)).
//
// What becomes of Y says a type END, which sees its elements in pairs of neighbouring columns, in registers: `Stored` writes it down; generated
// types compute the elementwise ops that follow (DCN v2's cross: x0 * y + x, Wang et al. 2020, arXiv:2008.13535) and write what others read.
// An END has OPERANDS (values that it reads per pair), `Held` with a pair of each, `load`, which gets them, and `store`. Operands of up to 8
// pairs are loaded before the first of these is stored, so that their ways to memory overlap. A quarter of a warp reads and writes 32 bytes
// of a row.
//
// A block computes BM x BN results of a strip of rows (grid's x) and a strip of columns (y); X and W reach it through a ring of STAGES
// pieces of shared memory, some pieces ahead of the arithmetic. Views as in tiles; a strip's rows are a Block without shared values.
//
// bf16: mma.sync m16n8k16, X and W rounded to bf16, sums in f32. 8 warps as 2 x 4, each 16 MT x 8 NT results: MT = NT = 4 is 128 x 128, 2
//   is 64 x 64 for small batches. Pieces of 32 inputs: X as [BM][32], its 16-byte groups permuted so that ldmatrix meets no bank twice; W
//   as it is packed for tiles (mlp_bf16.cuh), each lane's 16 bytes one load. X in bf16 comes by cp.async, X in f32 through registers. Bytes
//   from the L2 per block and 32 inputs: 64 (BM + BN), or 64 (2 BM + BN) with X in f32, for 64 BM BN FLOPs. On an H200 (5.5 TB/s from the
//   L2, about 500 TFLOP/s for mma.sync) 128 x 128 is bound by the L2 at 350 TFLOP/s: a layer of 1024 x 1024 at 4096 rows takes 25 us or
//   more.
// f32: 16 x 16 threads, each T x T results, T = 8 (128 x 128) or 4 (64 x 64). Pieces of 16 inputs: X transposed as [16][BM], W as [16][BN].
//   Bound by arithmetic: 67 TFLOP/s on an H200; a layer of 1024 x 1024 at 4096 rows takes 130 us or more.
// Registers (NVRTC 12.9, sm_90a, no spills): bf16 82 (64 x 64) and 181 (128 x 128), f32 71 and 143; with the tail of a cross layer bf16 88 and
//   200, f32 79 and 167 (at most on sm_80 to sm_100: 234).
// Weights: bf16 as linear_bf16's; f32 [K][N padded to 4]. Bias padded to a multiple of 8.
// 3456 x 512 in bf16: 3,539,456 FLOPs and 7.9 KB a row, 3.6 ns on an H200 (989 TFLOP/s), bound by products; not yet run on hardware.
#pragma once
#include "mlp_bf16.cuh"

// Elements e and e + 1 of row r of VIEW, e even; of the first row and column where there are none.
template <class VIEW, int N>
DEV float2 pair_of(const Block& b, int r, int e) {
    using Element = typename VIEW::Element;
    const int at = e < N ? e : 0;
    const Element* x = VIEW::row(b, r < b.rows ? r : 0) + at;
    if (N % 2 != 0 && at + 1 >= N) {
        return make_float2((float)x[0], 0.0f);
    }
    if constexpr (Same<Element, Bf16>::value && Rows<VIEW>::ALIGN >= 4) {
        const uint32_t pair = *(const uint32_t*)x;
        return make_float2(bf16_lo(pair), bf16_hi(pair));
    } else if constexpr (Same<Element, float>::value && Rows<VIEW>::ALIGN >= 8) {
        return *(const float2*)x;
    } else {
        return make_float2((float)x[0], (float)x[1]);
    }
}

// The same of elements that lie elsewhere: index(e) says where.
template <class VIEW, int N, class INDEX>
DEV float2 pair_at(const Block& b, int r, int e, const INDEX& index) {
    const auto* x = VIEW::row(b, r < b.rows ? r : 0);
    const int at = e < N ? e : 0;
    return make_float2((float)x[index(at)], (float)x[index(at + 1 < N ? at + 1 : at)]);
}

// A pair of sums to elements of the layer: with bias, addend (zeros where there is none) and activation.
template <int ACTIVATION, int64_t BIAS>
DEV float2 layer_pair(const Block& b, int n, float first, float second, float2 addend) {
    const uint2 bias = load_nc8(b.job.weights + BIAS + n * 4);
    return make_float2(activate<ACTIVATION>(first + bits_f32(bias.x) + addend.x), activate<ACTIVATION>(second + bits_f32(bias.y) + addend.y));
}

// The END of a layer that is stored as it is.
template <class OUT, class ADDEND, int N, int ACTIVATION, int64_t BIAS>
struct Stored {
    static constexpr bool HAS_ADDEND = !Same<ADDEND, None>::value;
    static constexpr int OPERANDS = HAS_ADDEND ? 1 : 0;
    struct Held {
        float2 addend;
    };
    DEV static Held load(const Block& b, int r, int n) {
        if constexpr (HAS_ADDEND) {
            return Held{pair_of<ADDEND, N>(b, r, n)};
        }
        return Held{make_float2(0.0f, 0.0f)};
    }
    DEV static void store(const Block& b, int r, int n, const Held& held, float first, float second) {
        const float2 y = layer_pair<ACTIVATION, BIAS>(b, n, first, second, held.addend);
        put_pair<OUT, N, 1>(b, r, n, y.x, y.y);
    }
};

// Two neighbouring sums of a thread: columns `column` and column + 1 of a row of the strip.
struct Sums {
    int row, column;
    float first, second;
};

// The end of COUNT pairs of sums; sums(i) gives the i-th. Those beyond the last row or column are left out.
template <class END, int N, int COUNT, class SUMS>
DEV void end_layer(const Block& b, const SUMS& sums) {
    constexpr int MOST = END::OPERANDS <= 2 ? 8 : END::OPERANDS <= 4 ? 4 : 2, TOGETHER = COUNT < MOST ? COUNT : MOST;
    static_assert(COUNT % TOGETHER == 0, "pairs are taken in whole groups");
    static_assert(END::OPERANDS <= 8, "registers hold no more (OPERANDS_MAX of src/engine/cuda/generate/tails.rs)");
#pragma unroll
    for (int first = 0; first < COUNT; first += TOGETHER) {
        typename END::Held held[TOGETHER];
#pragma unroll
        for (int i = 0; i < TOGETHER; i++) {
            const Sums pair = sums(first + i);
            held[i] = END::load(b, pair.row, pair.column);
        }
#pragma unroll
        for (int i = 0; i < TOGETHER; i++) {
            const Sums pair = sums(first + i);
            if (pair.row < b.rows && pair.column < N) {
                END::store(b, pair.row, pair.column, held[i], pair.first, pair.second);
            }
        }
    }
}

// Takes strips of BM rows through STRIP::run, for column strip block_y. Shared memory: [BM] contexts, then STRIP's.
template <class STRIP, int BM, bool CANDIDATES>
DEV void run_strips(const Job& job, uint8_t* shared) {
    const int rows = (int)(CANDIDATES ? job.header->rows : job.header->contexts);
    uint32_t* context = (uint32_t*)shared;
    for (int strip = (int)block_x(); strip * BM < rows; strip += (int)blocks_x()) {
        Block b{job, shared + BM * 4, nullptr, context, strip * BM, 0};
        b.rows = rows - b.first < BM ? rows - b.first : BM;
        if (CANDIDATES) {
            for (int r = (int)thread_x(); r < BM; r += THREADS) {
                context[r] = job.row_context[b.first + (r < b.rows ? r : 0)];
            }
        }
        STRIP::run(b, (int)block_y());
        sync_block();
    }
}

// What a thread brings of a piece of X by way of registers: 2 groups of 8 inputs for MT = 4, one for MT = 2.
template <class X, int K, int MT>
struct WideRows {
    static constexpr int BM = 32 * MT, GROUPS = BM * 4 / THREADS;
    using Element = typename X::Element;
    static constexpr bool DIRECT = Same<Element, Bf16>::value && Rows<X>::ALIGN == 16;
    uint4 held[GROUPS];

    DEV static uint8_t* place(uint8_t* piece, int group) {
        const int row = group / 4;
        return piece + row * 64 + ((group % 4) ^ (row / 2 % 4)) * 16;
    }
    // Inputs 32 chunk .. of all rows, asynchronously.
    DEV static void copy(const Block& b, uint8_t* piece, int chunk) {
#pragma unroll
        for (int i = 0; i < GROUPS; i++) {
            const int group = i * THREADS + (int)thread_x();
            copy_group(b, place(piece, group), group / 4, chunk * 32 + group % 4 * 8);
        }
    }
    // Inputs k .. k + 7 of a row, asynchronously; zeros where there are none.
    DEV static void copy_group(const Block& b, uint8_t* to, int row, int k) {
        const bool live = row < b.rows && k < K;
        const int left = (K - k) * 2;
        cp_async16(to, X::row(b, row < b.rows ? row : 0) + (live ? k : 0), live ? (left < 16 ? left : 16) : 0);
    }
    DEV void load(const Block& b, int chunk) {
#pragma unroll
        for (int i = 0; i < GROUPS; i++) {
            const int group = i * THREADS + (int)thread_x(), row = group / 4, k = chunk * 32 + group % 4 * 8;
            held[i] = inputs(b, row, k);
        }
    }
    // Inputs k .. k + 7 of a row as an operand's pairs; zeros where there are none.
    DEV static uint4 inputs(const Block& b, int row, int k) {
        uint4 pairs = make_uint4(0, 0, 0, 0);
        if (row < b.rows) {
            const Element* x = X::row(b, row);
            if (k + 8 <= K) {
                pairs = octet(x, k);
            } else if (K % 8 != 0 && k < K) {
                pairs.x = operand_pair<K, 2, true>(x, k);
                pairs.y = operand_pair<K, 2, true>(x, k + 2);
                pairs.z = operand_pair<K, 2, true>(x, k + 4);
                pairs.w = operand_pair<K, 2, true>(x, k + 6);
            }
        }
        return pairs;
    }
    DEV static uint4 octet(const float* x, int k) {
        if (Rows<X>::ALIGN >= 16) {
            const float4 first = *(const float4*)(x + k), second = *(const float4*)(x + k + 4);
            const uint32_t start = pack_bf16(first.x, first.y), end = pack_bf16(second.z, second.w);
            return make_uint4(start, pack_bf16(first.z, first.w), pack_bf16(second.x, second.y), end);
        }
        return pairs(x, k);
    }
    DEV static uint4 octet(const Bf16* x, int k) { return pairs(x, k); }
    DEV static uint4 pairs(const Element* x, int k) {
        constexpr int ALIGN = Rows<X>::ALIGN;
        const auto pair = [&](int at) { return operand_pair<K, ALIGN, false>(x, at); };
        return make_uint4(pair(k), pair(k + 2), pair(k + 4), pair(k + 6));
    }
    DEV void store(uint8_t* piece) const {
#pragma unroll
        for (int i = 0; i < GROUPS; i++) {
            *(uint4*)place(piece, i * THREADS + (int)thread_x()) = held[i];
        }
    }
};

template <class X, class END, int MT, int NT, int STAGES, int K, int N, int64_t WEIGHTS>
struct WideBf16 {
    static constexpr int BM = 32 * MT, BN = 32 * NT, CHUNKS = parts(K, 32), STRIPS = parts(N, 8);
    static constexpr int X_BYTES = BM * 64, STAGE_BYTES = X_BYTES + BN * 64;
    using Source = WideRows<X, K, MT>;

    // Inputs 32 chunk .. of the strip's columns, asynchronously.
    DEV static void copy_weights(const Block& b, uint8_t* piece, int strip0, int chunk) {
#pragma unroll
        for (int i = 0; i < BN * 4 / THREADS; i++) {
            const int at = i * THREADS + (int)thread_x(), strip = strip0 + at / 32;
            const size_t from = ((size_t)(strip < STRIPS ? strip : 0) * CHUNKS + chunk) * 512 + at % 32 * 16;
            cp_async16(piece + at * 16, b.job.weights + WEIGHTS + from, strip < STRIPS ? 16 : 0);
        }
    }

    DEV static void run(const Block& b, int column_strip) {
        const int strip0 = column_strip * (BN / 8);
        const int down = (int)warp() / 4, across = (int)warp() % 4;
        float sums[MT][NT][4] = {};
        Source source;
        sync_block();
#pragma unroll
        for (int stage = 0; stage < STAGES - 1; stage++) {
            if (stage < CHUNKS) {
                uint8_t* piece = b.shared + stage * STAGE_BYTES;
                if constexpr (Source::DIRECT) {
                    Source::copy(b, piece, stage);
                } else {
                    source.load(b, stage);
                    source.store(piece);
                }
                copy_weights(b, piece + X_BYTES, strip0, stage);
            }
            cp_async_commit();
        }
#pragma unroll 1
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            cp_async_wait<STAGES - 2>();
            sync_block();
            const int next = chunk + STAGES - 1;
            uint8_t* free = b.shared + next % STAGES * STAGE_BYTES;
            if (next < CHUNKS) {
                if constexpr (Source::DIRECT) {
                    Source::copy(b, free, next);
                } else {
                    source.load(b, next);
                }
                copy_weights(b, free + X_BYTES, strip0, next);
            }
            cp_async_commit();
            const uint8_t* x = b.shared + chunk % STAGES * STAGE_BYTES;
            const uint8_t* w = x + X_BYTES + across * (NT * 512) + lane() * 16;
            uint32_t columns[NT][2][2];
#pragma unroll
            for (int n = 0; n < NT; n++) {
                const uint4 four = *(const uint4*)(w + n * 512);
                columns[n][0][0] = four.x;
                columns[n][0][1] = four.y;
                columns[n][1][0] = four.z;
                columns[n][1][1] = four.w;
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    const int row = (down * MT + m) * 16 + (int)lane() % 16;
                    uint32_t a[4];
                    ldmatrix_x4(a, x + row * 64 + ((half * 2 + (int)lane() / 16) ^ (row / 2 % 4)) * 16);
#pragma unroll
                    for (int n = 0; n < NT; n++) {
                        mma_bf16(sums[m][n], a, columns[n][half]);
                    }
                }
            }
            if constexpr (!Source::DIRECT) {
                if (next < CHUNKS) {
                    source.store(free);
                }
            }
        }
        cp_async_wait<0>();
        // Pairs of a lane: columns 2 t and 2 t + 1 of rows g and g + 8 of each 16 x 8 results.
        const int g = (int)lane() / 4, t = (int)lane() % 4;
        end_layer<END, N, MT * NT * 2>(b, [&](int pair) {
            const int m = pair / 2 / NT, n = pair / 2 % NT, half = pair % 2;
            const int row = (down * MT + m) * 16 + half * 8 + g, column = (strip0 + across * NT + n) * 8 + 2 * t;
            return Sums{row, column, sums[m][n][half * 2], sums[m][n][half * 2 + 1]};
        });
    }
};

template <class X, class END, int T, int K, int N, int64_t WEIGHTS>
struct WideF32 {
    static constexpr int BM = 16 * T, BN = 16 * T, DEPTH = 16, PIECES = parts(K, DEPTH), PADDED = (N + 3) / 4 * 4;
    // Floats from input to input of X: 4 more than the rows, so that threads that bring neighbouring inputs meet different banks.
    static constexpr int X_STEP = BM + 4, X_FLOATS = DEPTH * X_STEP, STAGE_BYTES = (X_FLOATS + DEPTH * BN) * 4, STAGES = 2;
    static constexpr int QUADS = BM * DEPTH / 4 / THREADS;

    DEV static void copy_weights(const Block& b, float* piece, int first_column, int chunk) {
        const float* weights = (const float*)(b.job.weights + WEIGHTS);
#pragma unroll
        for (int i = 0; i < DEPTH * BN / 4 / THREADS; i++) {
            const int at = i * THREADS + (int)thread_x(), k = chunk * DEPTH + at / (BN / 4), n = first_column + at % (BN / 4) * 4;
            const bool live = k < K && n < PADDED;
            cp_async16(piece + at * 4, weights + (live ? (size_t)k * PADDED + n : 0), live ? 16 : 0);
        }
    }
    DEV static void load(const Block& b, float (&held)[QUADS][4], int chunk) {
#pragma unroll
        for (int i = 0; i < QUADS; i++) {
            const int at = i * THREADS + (int)thread_x(), row = at / 4, k = chunk * DEPTH + at % 4 * 4;
            held[i][0] = held[i][1] = held[i][2] = held[i][3] = 0.0f;
            if (row < b.rows) {
                const auto* x = X::row(b, row);
                if (Same<typename X::Element, float>::value && Rows<X>::ALIGN >= 16 && k + 4 <= K) {
                    const float4 four = *(const float4*)(x + k);
                    held[i][0] = four.x;
                    held[i][1] = four.y;
                    held[i][2] = four.z;
                    held[i][3] = four.w;
                } else {
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        if (k + e < K) {
                            held[i][e] = (float)x[k + e];
                        }
                    }
                }
            }
        }
    }
    DEV static void store(const float (&held)[QUADS][4], float* piece) {
#pragma unroll
        for (int i = 0; i < QUADS; i++) {
            const int at = i * THREADS + (int)thread_x();
#pragma unroll
            for (int e = 0; e < 4; e++) {
                piece[(at % 4 * 4 + e) * X_STEP + at / 4] = held[i][e];
            }
        }
    }

    DEV static void run(const Block& b, int column_strip) {
        const int first_column = column_strip * BN;
        const int down = (int)thread_x() / 16 * 4, across = (int)thread_x() % 16 * 4;
        float* stages = (float*)b.shared;
        float sums[T][T] = {};
        float held[QUADS][4];
        sync_block();
        load(b, held, 0);
        store(held, stages);
        copy_weights(b, stages + X_FLOATS, first_column, 0);
        cp_async_commit();
#pragma unroll 1
        for (int chunk = 0; chunk < PIECES; chunk++) {
            cp_async_wait<0>();
            sync_block();
            float* free = stages + (chunk + 1) % STAGES * (STAGE_BYTES / 4);
            if (chunk + 1 < PIECES) {
                load(b, held, chunk + 1);
                copy_weights(b, free + X_FLOATS, first_column, chunk + 1);
            }
            cp_async_commit();
            const float* x = stages + chunk % STAGES * (STAGE_BYTES / 4);
            const float* w = x + X_FLOATS;
#pragma unroll 4
            for (int k = 0; k < DEPTH; k++) {
                float rows[T], columns[T];
#pragma unroll
                for (int part = 0; part < T / 4; part++) {
                    const float4 four = *(const float4*)(x + k * X_STEP + part * 64 + down);
                    rows[part * 4] = four.x;
                    rows[part * 4 + 1] = four.y;
                    rows[part * 4 + 2] = four.z;
                    rows[part * 4 + 3] = four.w;
                    const float4 other = *(const float4*)(w + k * BN + part * 64 + across);
                    columns[part * 4] = other.x;
                    columns[part * 4 + 1] = other.y;
                    columns[part * 4 + 2] = other.z;
                    columns[part * 4 + 3] = other.w;
                }
#pragma unroll
                for (int m = 0; m < T; m++) {
#pragma unroll
                    for (int n = 0; n < T; n++) {
                        sums[m][n] = fma_(rows[m], columns[n], sums[m][n]);
                    }
                }
            }
            if (chunk + 1 < PIECES) {
                store(held, free);
            }
        }
        end_layer<END, N, T * T / 2>(b, [&](int pair) {
            const int m = pair / (T / 2), n = pair % (T / 2) * 2;
            const int row = m / 4 * 64 + down + m % 4, column = first_column + n / 4 * 64 + across + n % 4;
            return Sums{row, column, sums[m][n], sums[m][n + 1]};
        });
    }
};
