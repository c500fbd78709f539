/* The least that a program needs: it knows the library from pkg-config. */

#include <ebbtide.h>

#include <stdio.h>
#include <string.h>

int main(void)
{
  ebb_heap *heap = ebb_heap_new(NULL);
  char *text;

  if (heap == NULL) {
    fprintf(stderr, "no heap: %s\n", ebb_strerror(0));
    return 1;
  }
  text = ebb_alloc(heap, NULL, 0, 100);
  if (text == NULL) {
    fprintf(stderr, "no block\n");
    return 1;
  }
  strcpy(text, ebb_version());
  printf("ebbtide %s\n", text);
  ebb_alloc(heap, text, 100, 0);
  ebb_heap_delete(heap);
  return strcmp(EBB_VERSION, ebb_version()) != 0;
}
