// WideBf16 of wide.cuh for sm_90a, by products of warpgroups: Y[rows][N] = activation(X[rows][K] · W[K][N] + bias (+ addend)), and what END
// makes of it.
//
// A block of 3 warpgroups computes 128 x 128 results: one warpgroup brings pieces of 64 inputs into a ring of STAGES, each of the others
// multiplies 64 rows by 128 columns (m64n128k16, both operands in shared memory, 64 sums per thread). A piece is full once the copy of its
// weights has counted its bytes and all threads that bring X have arrived; it is empty once all warps that multiply are through with it.
//
// Operands lie as 8 x 8 matrices of 128 bytes (8 rows of 8 inputs), without swizzle. X: ALONG_K bytes to the next 8 inputs, 64 more than
// the rows take, so that neighbouring groups of inputs meet different banks; by cp.async where it is bf16 on 16 bytes, else through
// registers. W: packed by the host as a piece wants it, [column strips][pieces][8][128 columns][8 inputs] bf16, zeros beyond K and N: one
// bulk copy of 16 KiB.
//
// FLOPs and bytes are wide.cuh's: 128 x 128 x 64 takes 512 clocks of an SM's tensor cores (790 TFLOP/s were seen elsewhere) and 32 KiB from the
// L2. Registers (NVRTC 12.9): 125 to 162 of 168 at 384 threads, no spills, with and without tails. Not run on a device yet: the engine compares
// and times it against WideBf16 where it loads a model (src/engine/cuda/choice). Results differ only by the order of sums.
#pragma once
#include "hopper.cuh"
#include "wide.cuh"
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(EMU)

template <class X, class END, bool CANDIDATES, int STAGES, int K, int N, int64_t WEIGHTS>
struct WideHopper {
    static constexpr int BM = 128, BN = 128, PIECE = 64, PIECES = parts(K, PIECE), BRINGERS = 128;
    static constexpr int ALONG_K = BM * 16 + 64, X_BYTES = PIECE / 8 * ALONG_K, W_BYTES = BN * PIECE * 2, STAGE_BYTES = X_BYTES + W_BYTES;
    // Contexts and barriers lie before the ring. SHARED_BYTES is what generated launches ask for; their text compares.
    static constexpr int HEAD = 1024, SHARED_BYTES = HEAD + STAGES * STAGE_BYTES;
    using Source = WideRows<X, K, BM / 32>;

    struct Ring {
        uint8_t* pieces;
        uint64_t* full;
        uint64_t* empty;
        DEV uint8_t* at(uint32_t turn) const { return pieces + turn % STAGES * STAGE_BYTES; }
        // Parity of the phase that `turn` fills.
        DEV static uint32_t parity(uint32_t turn) { return turn / STAGES % 2; }
    };

    // Bringers: all pieces of a strip; `turn` counts the pieces of the block.
    DEV static void bring(const Block& b, const Ring& ring, int column_strip, uint32_t& turn) {
        const int thread = (int)thread_x() % BRINGERS;
        constexpr int BEHIND = 2;
        for (int piece = 0; piece < PIECES + BEHIND; piece++, turn++) {
            if (piece < PIECES) {
                if (turn >= STAGES) {
                    barrier_wait(ring.empty + turn % STAGES, Ring::parity(turn - STAGES));
                }
                uint8_t* to = ring.at(turn);
                if (thread == 0) {
                    uint64_t* full = ring.full + turn % STAGES;
                    barrier_expect(full, W_BYTES);
                    bulk_load(to + X_BYTES, b.job.weights + WEIGHTS + ((size_t)column_strip * PIECES + piece) * W_BYTES, W_BYTES, full);
                }
#pragma unroll(Source::DIRECT ? 8 : 2)
                for (int i = 0; i < BM * PIECE / 8 / BRINGERS; i++) {
                    // Pairs of neighbouring lanes read 32 bytes of a row.
                    const int at = i * BRINGERS + thread, row = at / 2 % BM, group = at % 2 + at / (2 * BM) * 2;
                    const int k = piece * PIECE + group * 8;
                    uint8_t* place = to + group * ALONG_K + row * 16;
                    if constexpr (Source::DIRECT) {
                        Source::copy_group(b, place, row, k);
                    } else {
                        *(uint4*)place = Source::inputs(b, row, k);
                    }
                }
            }
            cp_async_commit();
            // The piece before the one before last is there: products may read it.
            if (piece >= BEHIND) {
                cp_async_wait<BEHIND>();
                fence_async();
                barrier_arrive(ring.full + (turn - BEHIND) % STAGES);
            }
        }
        turn -= BEHIND;
    }

    // Multipliers: 64 rows of a strip.
    DEV static void multiply(const Block& b, const Ring& ring, int column_strip, uint32_t& turn) {
        const int group = (int)warp() / 4 - 1;
        float sums[64] = {};
        hold(sums);
        for (int piece = 0; piece < PIECES; piece++, turn++) {
            barrier_wait(ring.full + turn % STAGES, Ring::parity(turn));
            const uint8_t* x = ring.at(turn) + group * (64 * 16);
            const uint8_t* w = ring.at(turn) + X_BYTES;
            products_begin();
#pragma unroll
            for (int step = 0; step < PIECE / 16; step++) {
                const uint64_t rows = unswizzled(x + step * 2 * ALONG_K, ALONG_K, 128);
                const uint64_t columns = unswizzled(w + step * 2 * (BN * 16), BN * 16, 128);
                wgmma(sums, rows, columns, 1);
            }
            products_commit();
            // One piece's products are under way while the next one's are asked for.
            products_wait<1>();
            hold(sums);
            if (piece > 0 && lane() == 0) {
                barrier_arrive(ring.empty + (turn - 1) % STAGES);
            }
        }
        products_wait<0>();
        hold(sums);
        if (lane() == 0) {
            barrier_arrive(ring.empty + (turn - 1) % STAGES);
        }
        const int row = group * 64 + (int)warp() % 4 * 16 + (int)lane() / 4, column = column_strip * BN + (int)lane() % 4 * 2;
        end_layer<END, N, 32>(b, [&](int pair) {
            const int j = pair / 2, half = pair % 2;
            return Sums{row + half * 8, column + j * 8, sums[4 * j + half * 2], sums[4 * j + half * 2 + 1]};
        });
    }

    // All 384 threads of the block.
    DEV static void run(const Job& job, uint8_t* shared) {
        uint32_t* context = (uint32_t*)shared;
        uint64_t* barriers = (uint64_t*)(shared + BM * 4);
        const Ring ring{shared + HEAD, barriers, barriers + STAGES};
        if (thread_x() == 0) {
            for (int stage = 0; stage < STAGES; stage++) {
                barrier_init(ring.full + stage, BRINGERS + 1);
                barrier_init(ring.empty + stage, 8);
            }
            barriers_ready();
        }
        const int rows = (int)(CANDIDATES ? job.header->rows : job.header->contexts);
        uint32_t turn = 0;
        for (int strip = (int)block_x(); strip * BM < rows; strip += (int)blocks_x()) {
            Block b{job, nullptr, nullptr, context, strip * BM, 0};
            b.rows = rows - b.first < BM ? rows - b.first : BM;
            sync_block();
            if (CANDIDATES && thread_x() < BM) {
                context[thread_x()] = job.row_context[b.first + ((int)thread_x() < b.rows ? (int)thread_x() : 0)];
            }
            sync_block();
            if (thread_x() < BRINGERS) {
                bring(b, ring, (int)block_y(), turn);
            } else {
                multiply(b, ring, (int)block_y(), turn);
            }
        }
    }
};
#endif
