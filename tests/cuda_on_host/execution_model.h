// Just enough of CUDA's execution model to run a kernel on the host: one std::thread a CUDA thread, a barrier for
// __syncthreads, for the exchange in a shuffle and for a cluster; the blocks of a cluster run together, the clusters one
// after the other. Slow, exact about synchronization, and visible to ThreadSanitizer.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)

struct Index {
  unsigned x = 0;
};

inline thread_local Index threadIdx, blockIdx;
inline Index blockDim;

namespace execution {

constexpr int kWarp = 32;
constexpr std::size_t kGuard = 256;  // bytes after the shared memory that was asked for
constexpr unsigned char kUntouched = 0xA5;

inline int lost = -1;  // the barrier, by number, that this run does without

// Not std::barrier: those of libstdc++ wait in pools that they share, which orders more than the barrier does, and hides
// races.
class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads), missing_(threads) {}

  long arrive() {
    const std::lock_guard<std::mutex> lock(mutex_);
    const long phase = phase_;
    if (--missing_ == 0) {
      missing_ = threads_;
      ++phase_;
      complete_.notify_all();
    }
    return phase;
  }
  void wait(long phase) {
    std::unique_lock<std::mutex> lock(mutex_);
    complete_.wait(lock, [&] { return phase_ != phase; });
  }
  void arrive_and_wait() { wait(arrive()); }

 private:
  std::mutex mutex_;
  std::condition_variable complete_;
  const int threads_;
  int missing_;
  long phase_ = 0;
};

struct Warp {
  Barrier barrier{kWarp};
  std::uint64_t slots[kWarp];
};

class Block {
 public:
  Block(int threads, std::size_t bytes) : barrier(threads), warps(threads / kWarp), running(threads), bytes_(bytes) {
    fill(0, bytes + kGuard);
  }
  unsigned char* memory() { return storage_.get(); }
  bool kept_within() const {
    return std::all_of(storage_.get() + bytes_, storage_.get() + bytes_ + kGuard, [](auto b) { return b == kUntouched; });
  }
  // The next block gets this memory: whoever still reads it races with this.
  void leave() {
    if (running.fetch_sub(1) == 1) fill(0, bytes_);
  }

  Barrier barrier;
  std::vector<Warp> warps;
  std::atomic<int> any[2] = {0, 0};  // alternates, so that the next vote never meets the last one
  std::atomic<int> running;

 private:
  void fill(std::size_t begin, std::size_t end) { std::fill(storage_.get() + begin, storage_.get() + end, kUntouched); }

  struct Free {
    void operator()(unsigned char* memory) const { ::operator delete[](memory, std::align_val_t(16)); }
  };
  std::size_t bytes_;
  std::unique_ptr<unsigned char[], Free> storage_{
      static_cast<unsigned char*>(::operator new[](bytes_ + kGuard, std::align_val_t(16)))};
};

struct Cluster {
  Cluster(int blocks, int threads, std::size_t bytes) : barrier(blocks * threads) {
    for (int b = 0; b < blocks; ++b) members.push_back(std::make_unique<Block>(threads, bytes));
  }
  Barrier barrier;
  std::vector<std::unique_ptr<Block>> members;
};

inline thread_local Cluster* cluster = nullptr;
inline thread_local Block* block = nullptr;
inline thread_local int rank = 0, votes = 0;
inline thread_local long arrival = 0;

// False where a block wrote past the shared memory that it asked for.
template <typename Kernel>
bool launch(int blocks, int blocks_a_cluster, int threads, std::size_t bytes, const Kernel& kernel) {
  blockDim.x = threads;
  bool kept_within = true;
  for (int first = 0; first < blocks; first += blocks_a_cluster) {
    Cluster current(blocks_a_cluster, threads, bytes);
    std::vector<std::thread> running;
    for (int b = 0; b < blocks_a_cluster; ++b)
      for (int t = 0; t < threads; ++t)
        running.emplace_back([=, &current, &kernel] {
          cluster = &current;
          block = current.members[b].get();
          rank = b;
          threadIdx.x = t;
          blockIdx.x = first + b;
          kernel();
          block->leave();
        });
    for (std::thread& thread : running) thread.join();
    for (const auto& member : current.members) kept_within &= member->kept_within();
  }
  return kept_within;
}

}  // namespace execution

inline void __syncthreads() {
  execution::block->barrier.arrive_and_wait();
}

inline int __syncthreads_or(int predicate) {
  const int turn = execution::votes++ % 2;
  std::atomic<int>& any = execution::block->any[turn];
  any.fetch_or(predicate != 0);
  execution::block->barrier.arrive_and_wait();
  const int result = any.load();
  execution::block->barrier.arrive_and_wait();
  any.store(0);
  return result;
}

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  const int lane = threadIdx.x % execution::kWarp;
  execution::Warp& warp = execution::block->warps[threadIdx.x / execution::kWarp];
  std::memcpy(&warp.slots[lane], &value, sizeof(T));
  warp.barrier.arrive_and_wait();
  std::memcpy(&value, &warp.slots[lane ^ mask], sizeof(T));
  warp.barrier.arrive_and_wait();
  return value;
}

namespace camfast {

inline unsigned char* shared_memory() {
  return execution::block->memory();
}

namespace cluster {

inline int rank() {
  return execution::rank;
}
inline int size() {
  return static_cast<int>(execution::cluster->members.size());
}
inline void arrive() {
  execution::arrival = execution::cluster->barrier.arrive();
}
inline void wait() {
  execution::cluster->barrier.wait(execution::arrival);
}
inline void sync() {
  arrive();
  wait();
}
template <typename T>
const T* map(const T* own, int rank) {
  const auto offset = reinterpret_cast<const unsigned char*>(own) - execution::block->memory();
  return reinterpret_cast<const T*>(execution::cluster->members[rank]->memory() + offset);
}

}  // namespace cluster
}  // namespace camfast
