/* The C library's allocator as a lua_Alloc: for VMs whose allocator is neither
 * LuaJIT's own nor the library's. */

#ifndef LIBC_ALLOC_H
#define LIBC_ALLOC_H

#include <stddef.h>
#include <stdlib.h>

static inline void *libc_alloc(void *ud, void *ptr, size_t osize, size_t nsize)
{
  (void)ud;
  (void)osize;
  if (nsize == 0) {
    free(ptr);
    return NULL;
  }
  return realloc(ptr, nsize);
}

#endif
