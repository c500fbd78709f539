// A C++11 program: the heap behind standard containers, through an allocator.

#include <ebbtide.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>

namespace
{

struct HeapDeleter {
  void operator()(ebb_heap *heap) const
  {
    ebb_heap_delete(heap);
  }
};

using Heap = std::unique_ptr<ebb_heap, HeapDeleter>;

template <typename T> struct Allocator {
  using value_type = T;

  ebb_heap *heap;

  explicit Allocator(ebb_heap *h) : heap(h)
  {
  }
  template <typename U> Allocator(const Allocator<U> &other) : heap(other.heap)
  {
  }

  T *allocate(std::size_t n)
  {
    void *block = ebb_alloc(heap, nullptr, 0, n * sizeof(T));
    if (block == nullptr) {
      throw std::bad_alloc();
    }
    return static_cast<T *>(block);
  }

  void deallocate(T *block, std::size_t n)
  {
    ebb_alloc(heap, block, n * sizeof(T), 0);
  }
};

template <typename T, typename U>
bool operator==(const Allocator<T> &a, const Allocator<U> &b)
{
  return a.heap == b.heap;
}

template <typename T, typename U>
bool operator!=(const Allocator<T> &a, const Allocator<U> &b)
{
  return !(a == b);
}

using String =
    std::basic_string<char, std::char_traits<char>, Allocator<char>>;
using Entry = std::pair<const int, String>;
using Map = std::map<int, String, std::less<int>, Allocator<Entry>>;
using Vector = std::vector<int, Allocator<int>>;

bool containers_hold_what_they_are_given(ebb_heap *heap)
{
  Map map((Map::key_compare()), Allocator<Entry>(heap));
  Vector vector((Allocator<int>(heap)));

  for (int i = 0; i < 20000; i++) {
    map.emplace(i, String(100 + i % 50, 'x', Allocator<char>(heap)));
    vector.push_back(i);
  }
  for (int i = 0; i < 20000; i += 2) {
    map.erase(i);
  }
  if (ebb_reclaim(heap, nullptr, nullptr) != EBB_OK) {
    return false;
  }
  for (int i = 1; i < 20000; i += 2) {
    if (map.at(i).size() != std::size_t(100 + i % 50) || vector[i] != i) {
      return false;
    }
  }
  return true;
}

bool exhaustion_throws(ebb_heap *heap)
{
  try {
    Allocator<char>(heap).allocate(std::size_t(1) << 46);
  } catch (const std::bad_alloc &) {
    return true;
  }
  return false;
}

bool holds_nothing(ebb_heap *heap)
{
  ebb_stats stats{};
  stats.size = sizeof stats;
  return ebb_stats_read(heap, &stats) == EBB_OK && stats.blocks == 0;
}

bool check(const char *name, bool passed)
{
  std::fprintf(passed ? stdout : stderr, "%s %s\n", passed ? "ok" : "failed",
               name);
  return passed;
}

} // namespace

int main()
{
  Heap heap(ebb_heap_new(nullptr));
  bool passed = true;

  if (!check("heap", heap != nullptr)) {
    return 1;
  }
  passed &= check("version", !std::strcmp(EBB_VERSION, ebb_version()));
  passed &=
      check("containers", containers_hold_what_they_are_given(heap.get()));
  passed &= check("exhaustion", exhaustion_throws(heap.get()));
  passed &= check("empty", holds_nothing(heap.get()));
  return passed ? 0 : 1;
}
