/* Allocates and frees COUNT blocks of SIZE bytes, in a ring of 16, few enough
 * for any word of a span: what hot_path.rs counts the instructions of.
 * Usage: alloc_free_loop SIZE COUNT */

#include <ebbtide.h>

#include <stdlib.h>

#define RING 16

int main(int argc, char **argv)
{
  size_t size = argc > 2 ? strtoul(argv[1], NULL, 10) : 0;
  unsigned long count = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
  ebb_heap *heap = ebb_heap_new(NULL);
  void *blocks[RING] = {NULL};
  if (heap == NULL || size == 0) {
    return 1;
  }
  for (unsigned long i = 0; i < RING; i++) {
    blocks[i] = ebb_alloc(heap, NULL, 0, size);
  }
  for (unsigned long i = 0; i < count; i++) {
    void **block = &blocks[i % RING];
    ebb_alloc(heap, *block, size, 0);
    *block = ebb_alloc(heap, NULL, 0, size);
    if (*block == NULL) {
      return 1;
    }
  }
  ebb_heap_delete(heap);
  return 0;
}
