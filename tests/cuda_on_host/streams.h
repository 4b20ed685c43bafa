// How a driver reads a case from its standard input and writes results to its standard output: raw values, in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <vector>

namespace streams {

// As a device allocates: at an address that suits every vector.
template <typename T>
struct Aligned {
  using value_type = T;
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(256))); }
  void deallocate(T* p, std::size_t) { ::operator delete(p, std::align_val_t(256)); }
  bool operator==(const Aligned&) const = default;
};

template <typename T>
using Values = std::vector<T, Aligned<T>>;

template <typename T>
Values<T> read(std::int64_t count) {
  static_assert(std::is_trivially_copyable_v<T>);
  Values<T> values(count);
  if (count > 0 && std::fread(values.data(), sizeof(T), count, stdin) != std::size_t(count)) std::exit(2);
  return values;
}

template <typename T>
void write(const Values<T>& values) {
  if (!values.empty()) std::fwrite(values.data(), sizeof(T), values.size(), stdout);
}

}  // namespace streams
