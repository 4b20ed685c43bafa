// Just enough of CUDA's execution model to run a kernel on the host: one std::thread a CUDA thread, std::barrier for
// __syncthreads and for the exchange in a shuffle, blocks one after the other. Slow, exact about synchronization, and
// visible to ThreadSanitizer.
#pragma once

#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __shared__
#define __align__(bytes) __attribute__((aligned(bytes)))

struct Index {
  unsigned x = 0;
};

inline thread_local Index threadIdx, blockIdx;
inline Index blockDim;

namespace execution {

constexpr int kWarp = 32;

struct Warp {
  std::barrier<> barrier{kWarp};
  std::uint64_t slots[kWarp];
};

struct Block {
  explicit Block(int threads) : barrier(threads), warps(threads / kWarp) {}
  std::barrier<> barrier;
  std::vector<Warp> warps;
  std::atomic<int> any[2] = {0, 0};  // alternates, so that the next vote never meets the last one
};

inline Block* block = nullptr;
inline thread_local int votes = 0;

template <typename Kernel>
void launch(int blocks, int threads, Kernel kernel) {
  blockDim.x = threads;
  for (int b = 0; b < blocks; ++b) {
    Block current(threads);
    block = &current;
    std::vector<std::thread> running;
    for (int t = 0; t < threads; ++t)
      running.emplace_back([=] {
        threadIdx.x = t;
        blockIdx.x = b;
        kernel();
      });
    for (std::thread& thread : running) thread.join();
  }
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
T __shfl_down_sync(unsigned, T value, int offset) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  const int lane = threadIdx.x % execution::kWarp;
  execution::Warp& warp = execution::block->warps[threadIdx.x / execution::kWarp];
  std::memcpy(&warp.slots[lane], &value, sizeof(T));
  warp.barrier.arrive_and_wait();
  if (lane + offset < execution::kWarp) std::memcpy(&value, &warp.slots[lane + offset], sizeof(T));
  warp.barrier.arrive_and_wait();
  return value;
}
