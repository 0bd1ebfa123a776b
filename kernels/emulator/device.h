// The stand-in device: streams of operations, run by a thread of its own in an order drawn from a seed.
#pragma once
#include "fibers.h"
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace emu {

// Codes of the driver's interface.
enum Code : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_HANDLE = 400,
    ILLEGAL_STATE = 401,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    HOST_MEMORY_ALREADY_REGISTERED = 712,
    HOST_MEMORY_NOT_REGISTERED = 713,
    LAUNCH_FAILED = 719,
    NOT_PERMITTED = 800,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

using Clock = std::chrono::steady_clock;

// Something that a stream does: `run` once `ready` (if there is one) says so. `run` returns a code; any but SUCCESS breaks the device.
struct Operation {
    std::function<bool()> ready;
    std::function<int()> run;
    Clock::time_point not_before = {}; // unless somebody waits for its stream
};

struct Module {
    void* library;
    int file; // open as long as the library: the loader takes a file of the same number for the same library
};

struct Function {
    const Kernel* kernel;
    std::string name;
    uint32_t max_dynamic_shared;
};

struct KernelCall {
    Function* function;
    uint32_t blocks[3], threads[3], shared_bytes;
    std::vector<std::vector<unsigned char>> arguments;
};

struct Graph {
    std::vector<Operation> nodes;
};

// Launches hold it: destroying it while it runs is allowed, and stops nothing.
struct GraphExec {
    std::vector<Operation> nodes;
    uint64_t launched = 0, finished = 0; // launches of one graph follow each other
};

struct Event {
    uint64_t recorded = 0, reached = 0;
    Clock::time_point time; // when it was reached
    bool timed = true;
    Graph* in_capture = nullptr;
};

struct Stream {
    std::deque<Operation> queue;
    bool busy = false;
    bool blocking = false; // in order with the default stream
    unsigned wanted = 0;   // how many wait for it
    uint64_t pushed = 0;
    std::shared_ptr<uint64_t> done = std::make_shared<uint64_t>(0);
    Graph* capture = nullptr;
    bool began_capture = false;
    bool capture_broken = false;
    int capture_mode = 0;
    std::thread::id capture_thread;
};

class Device {
  public:
    static Device& get();

    std::mutex mutex;

    // All with the mutex held.
    void push(Stream* stream, Operation operation);
    // Puts an operation into the default stream that the host's call does not wait for: it runs late.
    void push_late(Operation operation);
    int wait(std::unique_lock<std::mutex>& lock, const std::function<bool()>& done);
    // Until nothing is in the stream.
    int wait_for(std::unique_lock<std::mutex>& lock, Stream* stream);
    // Until nothing is in any stream.
    int wait_for_all(std::unique_lock<std::mutex>& lock);
    // The stream's handle is gone; what is in it still runs.
    void orphan(Stream* stream);
    void let_run_a_little();
    // After an error that stays: until what runs has returned, or for a while if it waits for the host.
    void let_finish(std::unique_lock<std::mutex>& lock);
    // As a new process would find it, but for memory and handles.
    void reset(std::unique_lock<std::mutex>& lock);
    bool idle() const;
    Stream* stream(void* handle); // null if there is none such
    int allocate(void** memory, size_t bytes, bool on_host);
    int release(void* memory, bool on_host);
    bool holds(const void* memory, size_t bytes) const;   // device memory, or host memory that the device sees
    bool pinned(const void* memory, size_t bytes) const;  // host memory that the device sees

    int sticky = SUCCESS;
    std::string fault;
    Stream null_stream;
    std::set<Stream*> streams, orphans;
    std::set<Event*> events;
    std::map<GraphExec*, std::shared_ptr<GraphExec>> execs;
    std::map<uintptr_t, size_t> device_memory, host_memory, registered;
    int objects = 0; // modules, graphs, instances of graphs
    size_t used_bytes = 0, total_bytes;
    int capability;
    Random random;

    int run_kernel(const KernelCall& call);

    // Faults asked for: "NAME:nth:code,..."; "kernel:NAME:nth:code" for executions.
    void plan_faults(const char* text);
    int planned(const std::string& name);

  private:
    Device();
    void serve();
    bool step(std::unique_lock<std::mutex>& lock);
    bool busy() const;
    void drop_queues();
    std::vector<Stream*> all_streams() const;
    void bury();

    struct Planned {
        uint64_t countdown;
        int code;
    };
    std::map<std::string, std::vector<Planned>> plans;
    std::vector<void*> given_back; // poisoned, but not the system's again before nothing runs
    std::condition_variable work, changed;
    bool lazy;
    uint32_t max_delay_us;
    unsigned waiting = 0, credits = 0;
    uint64_t seed, workers, kernels_run = 0;
};

// Whether this thread runs operations of the device, and so may not call the driver.
bool on_device_thread();

inline bool quiet(const Stream* stream) { return stream->queue.empty() && !stream->busy; }

// An error that only a new process gets rid of.
bool is_sticky(int code);

} // namespace emu
