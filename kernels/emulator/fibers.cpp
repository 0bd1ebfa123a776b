#include "fibers.h"
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <sys/mman.h>
#include <thread>
#include <ucontext.h>
#include <vector>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

// Saves what a call must keep on the running stack, its pointer at `save`, and goes on with the stack `load`.
extern "C" void emu_switch(void** save, void* load);
asm(R"(
.text
.globl emu_switch
.hidden emu_switch
.type emu_switch, @function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emu_switch, . - emu_switch
)");

namespace emu {

enum State : uint32_t { READY, AT_BLOCK_BARRIER, AT_WARP_MEETING, PASSING, ENDED };

constexpr uint32_t MAX_THREADS = 1024, WARP = 32, BARRIERS = 16;
constexpr size_t GUARD_BYTES = 4096;
// Two quiet 16-bit NaNs, which are a NaN as one f32, too, and no row of any table.
constexpr unsigned char POISON[2] = {0xff, 0x7f};

// A copy that was asked for and not made yet.
struct PendingCopy {
    void* to;
    const void* from;
    uint32_t bytes, source_bytes, group;
};

struct Copies {
    std::vector<PendingCopy> pending;
    uint32_t group;
};

// An OS thread's stacks and the block that it runs.
struct Worker {
    unsigned char* stacks = nullptr;
    Copies copies[MAX_THREADS];
    Exchange exchanges[MAX_THREADS / WARP];
    Random random{0};
    const Grid* grid = nullptr;
    uint32_t threads = 0;
    uint32_t arrived[BARRIERS] = {};
    uint32_t live = 0;
    // The warp that runs: its next lane is `position ^ order`.
    uint32_t warp = 0, position = 0, order = 0;
    void* scheduler = nullptr;
    bool failed = false, illegal_address = false;
    std::string fault;
    uint8_t* shared = nullptr;

    Worker();
    ~Worker() { munmap(stacks, MAX_THREADS * STACK_BYTES); }

    Thread* thread(uint32_t linear) const { return at((uintptr_t)stacks + linear * STACK_BYTES); }
    Thread* next_lane();
    bool run_warp(uint32_t which);
    void leave(Thread* t);
    void fail(const Thread* t, const std::string& why, const char* file, uint32_t line);
    void start_block(const uint32_t block[3]);
    void report_stuck();
    void run_block(uint64_t number);
};

static thread_local Worker* running;

static std::string place(const char* file, uint32_t line) {
    const char* slash = strrchr(file, '/');
    return std::string(slash ? slash + 1 : file) + ":" + std::to_string(line);
}

static std::string who(const Grid& grid, const Thread* t) {
    char text[160];
    snprintf(text, sizeof text, "kernel %.80s, block (%u, %u), thread %u", grid.name.c_str(), t->block[0], t->block[1], t->linear);
    return text;
}

Worker::Worker() {
    size_t bytes = MAX_THREADS * STACK_BYTES;
    void* raw = mmap(nullptr, bytes + STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) {
        throw std::bad_alloc();
    }
    uintptr_t from = (uintptr_t)raw, first = (from + STACK_BYTES - 1) & ~(STACK_BYTES - 1);
    if (first > from) {
        munmap(raw, first - from);
    }
    munmap((void*)(first + bytes), from + STACK_BYTES - first);
    stacks = (unsigned char*)first;
    for (uint32_t i = 0; i < MAX_THREADS; i++) {
        mprotect(stacks + i * STACK_BYTES, GUARD_BYTES, PROT_NONE);
    }
}

void Worker::fail(const Thread* t, const std::string& why, const char* file, uint32_t line) {
    if (!failed) {
        failed = true;
        fault = who(*grid, t) + ", " + place(file, line) + ": " + why;
    }
}

// The next lane of the running warp that can go on; nothing if the warp as a whole cannot.
Thread* Worker::next_lane() {
    for (;;) {
        while (position < WARP) {
            Thread* t = thread(warp * WARP + (position++ ^ order));
            if (t->state == READY) {
                return t;
            }
        }
        Thread* first = thread(warp * WARP);
        uint32_t meeting = 0;
        bool passing = false;
        for (uint32_t lane = 0; lane < WARP; lane++) {
            Thread* t = thread(warp * WARP + lane);
            meeting += t->state == AT_WARP_MEETING;
            if (t->state == PASSING) {
                t->state = READY;
                passing = true;
            }
        }
        if (passing || meeting < WARP) {
            return nullptr;
        }
        for (uint32_t lane = 0; lane < WARP; lane++) {
            Thread* t = thread(warp * WARP + lane);
            if (t->line != first->line || t->file != first->file) {
                fail(t, "lanes of a warp meet at different places, lane 0 at " + place(first->file, first->line), t->file, t->line);
                return nullptr;
            }
            t->state = READY;
        }
        position = 0;
        order = grid->seed == 0 ? 0 : random.below(WARP);
    }
}

// From a fiber that waits or ended to whatever runs next.
void Worker::leave(Thread* t) {
    Thread* next = failed ? nullptr : next_lane();
    if (next == t) {
        return;
    }
    emu_switch(&t->stack_pointer, next ? next->stack_pointer : scheduler);
}

bool Worker::run_warp(uint32_t which) {
    warp = which;
    position = 0;
    order = grid->seed == 0 ? 0 : random.below(WARP);
    Thread* first = next_lane();
    if (!first) {
        return false;
    }
    emu_switch(&scheduler, first->stack_pointer);
    return true;
}

static void meet_block(Thread* t, uint32_t barrier, uint32_t threads, const char* file, uint32_t line) {
    Worker& worker = *(Worker*)t->worker;
    t->state = AT_BLOCK_BARRIER;
    t->barrier = barrier;
    t->file = file;
    t->line = line;
    if (++worker.arrived[barrier] == threads) {
        worker.arrived[barrier] = 0;
        for (uint32_t i = 0; i < worker.threads; i++) {
            Thread* other = worker.thread(i);
            if (other->state != AT_BLOCK_BARRIER || other->barrier != barrier) {
                continue;
            }
            if (other->line != line || other->file != file) {
                std::string there = "thread " + std::to_string(i) + " waits at " + place(other->file, other->line);
                worker.fail(t, "divergent barrier: " + there, file, line);
            }
            other->state = READY;
        }
    }
    worker.leave(t);
}

static void meet_warp(Thread* t, const char* file, uint32_t line) {
    t->state = AT_WARP_MEETING;
    t->file = file;
    t->line = line;
    ((Worker*)t->worker)->leave(t);
}

static void pass(Thread* t) {
    t->state = PASSING;
    ((Worker*)t->worker)->leave(t);
}

static void make(const PendingCopy& copy) {
    memcpy(copy.to, copy.from, copy.source_bytes);
    memset((char*)copy.to + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
}

static void fault(Thread* t, const char* why, const char* file, uint32_t line) {
    Worker& worker = *(Worker*)t->worker;
    worker.fail(t, why, file, line);
    t->state = ENDED;
    worker.leave(t);
    abort(); // never resumed
}

// The hardware makes the copy at any moment until it is waited for. Either end of that is a trap: an early copy for who still reads the old
// contents, a late one for who does not wait.
static void copy(Thread* t, void* to, const void* from, uint32_t bytes, uint32_t source_bytes, const char* file, uint32_t line) {
    Worker& worker = *(Worker*)t->worker;
    t->file = file;
    t->line = line;
    if ((uintptr_t)to % bytes != 0 || (uintptr_t)from % bytes != 0) {
        fault(t, "cp.async: an address is not on a boundary of its size", file, line);
    }
    if (source_bytes > bytes) {
        fault(t, "cp.async: more bytes to read than to write", file, line);
    }
    PendingCopy wanted = {to, from, bytes, source_bytes, worker.copies[t->linear].group};
    if (worker.grid->seed != 0 && worker.random.below(2) == 0) {
        make(wanted);
    } else {
        worker.copies[t->linear].pending.push_back(wanted);
    }
}

static void commit(Thread* t) { ((Worker*)t->worker)->copies[t->linear].group++; }

static void settle(Thread* t, uint32_t groups_left) {
    Copies& copies = ((Worker*)t->worker)->copies[t->linear];
    size_t kept = 0;
    for (const PendingCopy& wanted : copies.pending) {
        if (wanted.group + groups_left < copies.group) {
            make(wanted);
        } else {
            copies.pending[kept++] = wanted;
        }
    }
    copies.pending.resize(kept);
}

static const Services SERVICES = {meet_block, meet_warp, pass, copy, commit, settle, fault};

static void fiber() {
    Thread* t = self();
    Worker& worker = *(Worker*)t->worker;
    worker.grid->kernel->call(worker.grid->arguments);
    t->state = ENDED;
    worker.live--;
    worker.leave(t);
    abort(); // never resumed
}

void Worker::start_block(const uint32_t block[3]) {
    const uint32_t* size = grid->threads;
    live = threads;
    memset(arrived, 0, sizeof arrived);
    for (uint32_t i = 0; i < threads; i++) {
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(stacks + i * STACK_BYTES + GUARD_BYTES, STACK_BYTES - GUARD_BYTES); // frames that were never left
#endif
        Thread* t = thread(i);
        t->services = &SERVICES;
        t->thread[0] = i % size[0];
        t->thread[1] = i / size[0] % size[1];
        t->thread[2] = i / size[0] / size[1];
        for (int axis = 0; axis < 3; axis++) {
            t->threads[axis] = size[axis];
            t->block[axis] = block[axis];
            t->blocks[axis] = grid->blocks[axis];
        }
        t->linear = i;
        t->turn = 0;
        t->exchange = &exchanges[i / WARP];
        t->shared = shared;
        t->worker = this;
        t->file = nullptr;
        t->line = 0;
        t->state = READY;
        copies[i].pending.clear();
        copies[i].group = 0;
        void** top = (void**)((uintptr_t)t & ~(uintptr_t)63);
        *--top = nullptr; // where a caller would have its return address
        *--top = (void*)fiber;
        for (int saved = 0; saved < 6; saved++) {
            *--top = nullptr;
        }
        t->stack_pointer = top;
    }
}

// Nobody can go on: some wait for threads that ended or wait elsewhere.
void Worker::report_stuck() {
    std::string places;
    const Thread* first = nullptr;
    uint32_t ended = 0;
    for (uint32_t i = 0; i < threads; i++) {
        const Thread* t = thread(i);
        if (t->state == ENDED) {
            ended++;
            continue;
        }
        std::string here = place(t->file, t->line);
        if (places.find(here) == std::string::npos && places.size() < 200) {
            const char* what = t->state == AT_WARP_MEETING ? " for its warp" : " for its block";
            places += (places.empty() ? "" : "; ") + ("thread " + std::to_string(i) + " waits at " + here + what);
        }
        first = first ? first : t;
    }
    std::string gone = ended != 0 ? "; " + std::to_string(ended) + " threads ended" : "";
    fail(first, "deadlock (divergent barrier): " + places + gone, first->file, first->line);
}

void Worker::run_block(uint64_t number) {
    const uint32_t* blocks = grid->blocks;
    const uint32_t block[3] = {
        uint32_t(number % blocks[0]),
        uint32_t(number / blocks[0] % blocks[1]),
        uint32_t(number / blocks[0] / blocks[1]),
    };
    random = Random{grid->seed + number * 7919};
    for (uint32_t byte = 0; byte < grid->shared_bytes; byte++) {
        shared[byte] = POISON[byte % 2];
    }
    start_block(block);
    uint32_t warps = threads / WARP, order_of_warps[MAX_THREADS / WARP];
    std::iota(order_of_warps, order_of_warps + warps, 0);
    while (live != 0 && !failed) {
        for (uint32_t i = warps; grid->seed != 0 && i > 1; i--) {
            std::swap(order_of_warps[i - 1], order_of_warps[random.below(i)]);
        }
        bool any_ran = false;
        for (uint32_t i = 0; i < warps && !failed; i++) {
            any_ran |= run_warp(order_of_warps[i]);
        }
        // A pass over warps that only turned passing lanes ready is progress, too: the next pass runs them.
        for (uint32_t i = 0; i < threads && !any_ran; i++) {
            any_ran = thread(i)->state == READY;
        }
        if (!any_ran && !failed) {
            report_stuck();
        }
    }
}

// Fresh for every block, and poisoned. Of the exact size, so that an address sanitizer sees what lies outside.
static uint8_t* new_shared(uint32_t bytes) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 1024, bytes ? bytes : 1) != 0) {
        throw std::bad_alloc();
    }
    return (uint8_t*)memory;
}

#if !defined(__SANITIZE_ADDRESS__) // the sanitizer has its own handlers, and better reports

// A signal while a fiber runs: go on in `illegal` on the fiber's stack, as if it had been called.
static void illegal() {
    Thread* t = self();
    Worker& worker = *(Worker*)t->worker;
    worker.illegal_address = true;
    worker.fail(t, "illegal address, after this place", t->file ? t->file : "its first line", t->line);
    t->state = ENDED;
    worker.leave(t);
    abort(); // never resumed
}

static struct sigaction previous[NSIG];

static void on_signal(int number, siginfo_t* info, void* context) {
    auto* machine = (ucontext_t*)context;
    uintptr_t pointer = (uintptr_t)machine->uc_mcontext.gregs[REG_RSP];
    bool on_fiber = running && pointer >= (uintptr_t)running->stacks && pointer < (uintptr_t)running->stacks + MAX_THREADS * STACK_BYTES;
    if (!on_fiber) {
        sigaction(number, &previous[number], nullptr); // happens again on return, and is its former owner's
        return;
    }
    (void)info;
    // A stack that overflowed has no room to report on: use its upper end.
    Thread* t = at(pointer);
    machine->uc_mcontext.gregs[REG_RSP] = (greg_t)(((uintptr_t)t & ~(uintptr_t)63) - 8);
    machine->uc_mcontext.gregs[REG_RIP] = (greg_t)illegal;
}

// Signals of fibers are handled on a stack of their own: the fiber's may be the fault.
static void catch_signals() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        for (int number : {SIGSEGV, SIGBUS, SIGFPE}) {
            sigaction(number, &action, &previous[number]);
        }
    });
    static thread_local struct Stack {
        unsigned char bytes[64 * 1024];
        Stack() {
            stack_t stack = {};
            stack.ss_sp = bytes;
            stack.ss_size = sizeof bytes;
            sigaltstack(&stack, nullptr);
        }
        ~Stack() {
            stack_t none = {};
            none.ss_flags = SS_DISABLE;
            sigaltstack(&none, nullptr);
        }
    } stack;
    (void)stack;
}

#else
static void catch_signals() {}
#endif

// Workers are kept: their stacks take a while to set up.
static std::mutex pool_lock;
static std::vector<std::unique_ptr<Worker>> pool;

static std::unique_ptr<Worker> take_worker() {
    std::lock_guard<std::mutex> held(pool_lock);
    if (pool.empty()) {
        return std::make_unique<Worker>();
    }
    std::unique_ptr<Worker> worker = std::move(pool.back());
    pool.pop_back();
    return worker;
}

// The blocks of a grid, as they are taken by the workers: start + i * step, with a step that has no divisor in common with their number.
struct Blocks {
    uint64_t count, start = 0, step = 1;
    std::atomic<uint64_t> next{0};
    std::atomic<bool> stop{false};

    explicit Blocks(const Grid& grid) : count(uint64_t(grid.blocks[0]) * grid.blocks[1] * grid.blocks[2]) {
        if (grid.seed == 0) {
            return;
        }
        Random random{grid.seed};
        start = random.next() % count;
        step = random.next() % count % 0xffffffff + 1;
        while (std::gcd(step, count) != 1) {
            step++;
        }
    }
};

// Runs blocks until there are none left; the worker tells how it went.
static void work(Worker& worker, const Grid& grid, Blocks& blocks) {
    catch_signals();
    running = &worker;
    worker.grid = &grid;
    worker.threads = grid.threads[0] * grid.threads[1] * grid.threads[2];
    worker.failed = worker.illegal_address = false;
    worker.shared = new_shared(grid.shared_bytes);
    while (!blocks.stop) {
        uint64_t i = blocks.next++;
        if (i >= blocks.count) {
            break;
        }
        worker.run_block((blocks.start + i * blocks.step) % blocks.count);
        if (worker.failed) {
            blocks.stop = true;
        }
    }
    free(worker.shared);
    running = nullptr;
}

std::string run(const Grid& grid, bool& illegal_address) {
    uint32_t threads = grid.threads[0] * grid.threads[1] * grid.threads[2];
    if (threads == 0 || threads > MAX_THREADS || threads % WARP != 0) {
        return "kernel " + grid.name + ": blocks of " + std::to_string(threads) + " threads are not whole warps";
    }
    Blocks blocks(grid);
    std::vector<std::unique_ptr<Worker>> workers;
    for (uint64_t i = 0; i < grid.workers && i < blocks.count; i++) {
        workers.push_back(take_worker());
    }
    std::vector<std::thread> others;
    for (size_t i = 1; i < workers.size(); i++) {
        others.emplace_back([&, i] { work(*workers[i], grid, blocks); });
    }
    work(*workers[0], grid, blocks);
    for (std::thread& other : others) {
        other.join();
    }
    std::string fault;
    for (std::unique_ptr<Worker>& worker : workers) {
        if (worker->failed && fault.empty()) {
            fault = worker->fault;
            illegal_address = worker->illegal_address;
        }
        std::lock_guard<std::mutex> held(pool_lock);
        pool.push_back(std::move(worker));
    }
    return fault;
}

} // namespace emu
