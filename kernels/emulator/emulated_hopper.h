// What hopper.cuh is under g++: barriers that count arrivals and bytes, bulk copies, products of warpgroups.
//
// A product is made when it is waited for, the latest moment that the hardware may take: a piece of a ring that is given free too early is
// overwritten first. A bulk copy is made at once. What is written without the fence that makes it visible to products is seen all the same.
#pragma once
#include "emulated.h"

namespace emu {

// The 64 bits of a barrier.
struct Barrier {
    uint16_t arrivals, missing;
    int32_t bytes : 31; // to come
    uint32_t phase : 1;
};
static_assert(sizeof(Barrier) == 8, "as on the device");

inline void look(Barrier* b) {
    if (b->missing == 0 && b->bytes == 0) {
        b->missing = b->arrivals;
        b->phase ^= 1;
    }
}

// Products of one thread that are under way.
struct Products {
    struct Product {
        float* d;
        int columns;
        uint64_t a, b;
        uint32_t add, group;
    };
    Product asked[64];
    uint32_t count, group;
};
inline thread_local Products products_of[1024];

// Element k of row `row` of an operand without swizzle.
inline float operand(uint64_t tile, uint32_t row, uint32_t k) {
    const uint32_t start = (uint32_t)(tile & 0x3fff) << 4;
    const uint32_t along_k = (uint32_t)(tile >> 16 & 0x3fff) << 4, along_rows = (uint32_t)(tile >> 32 & 0x3fff) << 4;
    const uint8_t* at = self()->shared + start + k / 8 * along_k + row / 8 * along_rows + row % 8 * 16 + k % 8 * 2;
    const uint32_t bits = (uint32_t)read<uint16_t>(at) << 16;
    return read<float>(&bits);
}

inline void make(const Products::Product& wanted) {
    const uint32_t warp = self()->linear / 32 % 4, g = self()->linear % 32 / 4, t = self()->linear % 4;
    float rows[2][16];
    for (uint32_t half = 0; half < 2; half++) {
        for (uint32_t k = 0; k < 16; k++) {
            rows[half][k] = operand(wanted.a, 16 * warp + g + 8 * half, k);
        }
    }
    for (int j = 0; j < wanted.columns / 8; j++) {
        for (uint32_t e = 0; e < 2; e++) {
            float sums[2] = {};
            for (uint32_t k = 0; k < 16; k++) {
                const float b = operand(wanted.b, (uint32_t)j * 8 + 2 * t + e, k);
                sums[0] += rows[0][k] * b;
                sums[1] += rows[1][k] * b;
            }
            for (uint32_t half = 0; half < 2; half++) {
                float& d = wanted.d[4 * j + 2 * half + e];
                d = (wanted.add != 0 ? d : 0.0f) + sums[half];
            }
        }
    }
}

} // namespace emu

DEV uint32_t smem_u32(const void* p) { return (uint32_t)((const uint8_t*)p - emu::self()->shared); }

DEV void barrier_init(uint64_t* b, uint32_t arrivals, EMU_SITE) {
    emu::aligned(b, 8, "a barrier is not on a boundary of 8 bytes", file, line);
    *(emu::Barrier*)b = emu::Barrier{(uint16_t)arrivals, (uint16_t)arrivals, 0, 0};
}
// No product is under way yet; those of a block that was broken off are none of this one's.
DEV void barriers_ready() {
    for (emu::Products& products : emu::products_of) {
        products.count = products.group = 0;
    }
}
DEV void barrier_arrive(uint64_t* b, EMU_SITE) {
    auto* barrier = (emu::Barrier*)b;
    if (barrier->missing == 0) {
        emu::self()->services->fault(emu::self(), "a barrier has more arrivals in a phase than it was made for", file, line);
    }
    barrier->missing--;
    emu::look(barrier);
}
DEV void barrier_expect(uint64_t* b, uint32_t bytes, EMU_SITE) {
    ((emu::Barrier*)b)->bytes += (int32_t)bytes;
    barrier_arrive(b, file, line);
}
DEV void barrier_wait(uint64_t* b, uint32_t parity, EMU_SITE) {
    for (uint32_t turn = 0; ((emu::Barrier*)b)->phase == parity; turn++) {
        emu::Thread* t = emu::self();
        if (turn == 200000) {
            t->services->fault(t, "deadlock: the phase of a barrier does not end", file, line);
        }
        t->services->pass(t);
    }
}
DEV void bulk_load(void* to, const void* from, uint32_t bytes, uint64_t* b, EMU_SITE) {
    emu::aligned((const void*)((uintptr_t)to | (uintptr_t)from | bytes), 16, "bulk_load: an address or a length is not a multiple of 16", file,
                 line);
    __builtin_memcpy(to, from, bytes);
    ((emu::Barrier*)b)->bytes -= (int32_t)bytes;
    emu::look((emu::Barrier*)b);
}
DEV void fence_async() {}

DEV void products_begin(EMU_SITE) { sync_warp(file, line); }
template <int SUMS> DEV void hold(float (&)[SUMS]) {}
template <int SUMS> DEV void wgmma(float (&d)[SUMS], uint64_t a, uint64_t b, uint32_t add, EMU_SITE) {
    sync_warp(file, line);
    emu::Thread* t = emu::self();
    emu::Products& products = emu::products_of[t->linear];
    if (products.count == 64) {
        t->services->fault(t, "more products are under way than the emulator has room for", file, line);
    }
    products.asked[products.count++] = {d, SUMS * 2, a, b, add, products.group};
}
DEV void products_commit() { emu::products_of[emu::self()->linear].group++; }
template <int LEFT> DEV void products_wait(EMU_SITE) {
    sync_warp(file, line);
    emu::Products& products = emu::products_of[emu::self()->linear];
    uint32_t kept = 0;
    for (uint32_t i = 0; i < products.count; i++) {
        if (products.asked[i].group + LEFT < products.group) {
            emu::make(products.asked[i]);
        } else {
            products.asked[kept++] = products.asked[i];
        }
    }
    products.count = kept;
}
