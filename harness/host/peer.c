/* Other allocators: see peer.h. */

#define _GNU_SOURCE

#include <dlfcn.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "../include/libc_alloc.h"
#include "peer.h"

/* ISO C has no cast from the pointer that dlsym returns to a function. */
static int find(void *library, const char *name, void *function)
{
  void *address = dlsym(library, name);

  memcpy(function, &address, sizeof(address));
  return address != NULL;
}

const char *peer_load(peer *p, const char *path)
{
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);

  if (library == NULL)
    return dlerror();
  if (!find(library, "peer_alloc", &p->alloc)
      || !find(library, "peer_purge", &p->purge))
    return "it has no functions peer_alloc and peer_purge";
  return NULL;
}

/* A preloaded tcmalloc has a function of its own. */
static int libc_purge(void)
{
  void (*release)(void);

  if (find(RTLD_DEFAULT, "MallocExtension_ReleaseFreeMemory", &release))
    release();
  else
    malloc_trim(0);
  return 1;
}

void peer_libc(peer *p)
{
  p->alloc = libc_alloc;
  p->purge = libc_purge;
}
