// Runs a grid on fibers: one per CUDA thread, blocks shared out among OS threads.
#pragma once
#include "emulated.h"
#include <string>

namespace emu {

struct Grid {
    const Kernel* kernel;
    std::string name;
    uint32_t blocks[3], threads[3];
    uint32_t shared_bytes;
    void** arguments;
    // 0: threads in order, in step. Others: warps run ahead as far as barriers let them, in an order drawn from the seed.
    uint64_t seed;
    uint64_t workers = 1; // OS threads that run blocks
};

// Empty if it ran to its end, else what the kernel did wrong. `illegal_address` says that it touched memory that it may not.
std::string run(const Grid& grid, bool& illegal_address);

// Small and fast random numbers.
struct Random {
    uint64_t state;

    uint64_t next() {
        uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }
    uint32_t below(uint32_t bound) { return (uint32_t)((next() >> 32) * bound >> 32); }
};

} // namespace emu
