// What the threads of a block share, and what the blocks of a cluster share: dynamic shared memory, which the blocks of
// a cluster can read from one another, and a barrier over all their threads. Before compute capability 9.0 there are no
// clusters, and every block is one of its own. On the host the tests' execution model has the same functions.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)

namespace camfast {

__device__ inline unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];
  return dynamic_shared_memory;
}

namespace cluster {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

__device__ inline int rank() {
  int value;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(value));
  return value;
}

__device__ inline int size() {
  int value;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(value));
  return value;
}

// What this thread wrote before it arrived is seen by every thread of the cluster that has waited.
__device__ inline void arrive() {
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}

__device__ inline void wait() {
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

__device__ inline void sync() {
  arrive();
  wait();
}

// Where in the shared memory of block `rank` lies what `own` is in this block's.
template <typename T>
__device__ inline const T* map(const T* own, int rank) {
  uint64_t theirs;
  asm("mapa.u64 %0, %1, %2;" : "=l"(theirs) : "l"(own), "r"(rank));
  return reinterpret_cast<const T*>(theirs);
}

#else

__device__ inline int rank() {
  return 0;
}
__device__ inline int size() {
  return 1;
}
__device__ inline void arrive() {}
__device__ inline void wait() {}
__device__ inline void sync() {
  __syncthreads();
}
template <typename T>
__device__ inline const T* map(const T* own, int) {
  return own;
}

#endif

}  // namespace cluster
}  // namespace camfast

#endif
