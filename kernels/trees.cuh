// Ensembles of decision trees: OUT [TARGETS] = sum over trees of the numbers of the leaf that each reaches. Sums are made in f64, in an order that
// depends neither on the number of rows nor on the size of the tile.
//
// A thread takes one row down the trees part, part + PARTS, ..: SIDE_BY_SIDE of them at once, so that their loads overlap; neighbouring threads take
// neighbouring rows, which share what they read near the roots. Then a thread per row and target adds up the parts.
// Nodes: 16 bytes each, one load: u32 feature << 5 | outcomes for which the second way is taken (LESS, EQUAL, GREATER, MISSING; LEAF alone at a
// leaf), f32 threshold, u32 the next node otherwise, u32 the next node; at a leaf the third is its first number. Children lie behind their parents.
// ROOTS: [TREES] u32. LEAVES: [leaves][TARGETS] f32. ROOM: [PARTS][TILE][TARGETS] f64.
// Bytes per row: 16 per level and tree, from the L1 or L2: latency of dependent loads bounds it, not bytes.
// 200 trees of depth 8: 1,800 FLOPs, 400 bytes of inputs and 26 KB of nodes a row, 4.7 ns if all are from the L2 (5.5 TB/s); not yet run on hardware.
#pragma once
#include "tile.cuh"

enum TreeOutcome : uint32_t { LESS = 1, EQUAL = 2, GREATER = 4, MISSING = 8, LEAF = 16 };

// Which outcome a comparison has. A threshold is a number: NaN alone is none of the three.
DEV uint32_t tree_outcome(float x, float threshold) { return x < threshold ? LESS : x == threshold ? EQUAL : x > threshold ? GREATER : MISSING; }

template <class X, class OUT, class ROOM, int TILE, int TREES, int TARGETS, int PARTS, int64_t NODES, int64_t ROOTS, int64_t LEAVES>
DEV void trees(const Block& b) {
    constexpr int SIDE_BY_SIDE = 4;
    const uint8_t* nodes = b.job.weights + NODES;
    const uint8_t* roots = b.job.weights + ROOTS;
    const float* leaves = (const float*)(b.job.weights + LEAVES);
    double* room = (double*)ROOM::row(b, 0);

    // ---- parts ----
    for (int item = (int)thread_x(); item < b.rows * PARTS; item += THREADS) {
        const int r = item % b.rows, part = item / b.rows;
        const auto* x = X::row(b, r);
        double* sums = room + (part * TILE + r) * TARGETS;
        for (int t = 0; t < TARGETS; t++) {
            sums[t] = 0.0;
        }
        for (int tree = part; tree < TREES; tree += PARTS * SIDE_BY_SIDE) {
            uint32_t at[SIDE_BY_SIDE], leaf[SIDE_BY_SIDE];
            bool goes[SIDE_BY_SIDE], going = true;
#pragma unroll
            for (int i = 0; i < SIDE_BY_SIDE; i++) {
                goes[i] = tree + i * PARTS < TREES;
                at[i] = goes[i] ? load_nc4(roots + (tree + i * PARTS) * 4) : 0;
                leaf[i] = 0;
            }
            while (going) {
                going = false;
#pragma unroll
                for (int i = 0; i < SIDE_BY_SIDE; i++) {
                    if (goes[i]) {
                        const uint4 node = load_nc16(nodes + (size_t)at[i] * 16);
                        const uint32_t outcomes = node.x & 31;
                        if (outcomes == LEAF) {
                            leaf[i] = node.z;
                            goes[i] = false;
                        } else {
                            at[i] = outcomes & tree_outcome(x[node.x >> 5], bits_f32(node.y)) ? node.w : node.z;
                            going = true;
                        }
                    }
                }
            }
#pragma unroll
            for (int i = 0; i < SIDE_BY_SIDE; i++) {
                if (tree + i * PARTS < TREES) {
                    for (int t = 0; t < TARGETS; t++) {
                        sums[t] += (double)leaves[leaf[i] + t];
                    }
                }
            }
        }
    }
    sync_block();

    // ---- their sums ----
    for (int item = (int)thread_x(); item < b.rows * TARGETS; item += THREADS) {
        const int r = item / TARGETS, t = item % TARGETS;
        double sum = 0.0;
        for (int part = 0; part < PARTS; part++) {
            sum += room[(part * TILE + r) * TARGETS + t];
        }
        OUT::row(b, r)[t] = (float)sum;
    }
}
