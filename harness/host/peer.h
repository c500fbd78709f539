/* Other allocators that the host runs scripts on, and what each can give back.
 */

#ifndef EBBTIDE_PEER_H
#define EBBTIDE_PEER_H

#include <lua.h>

typedef struct {
  lua_Alloc alloc;
  /* Gives back to the kernel what can be. Returns 0 when there is no such
   * call. */
  int (*purge)(void);
} peer;

/* Loads a library with an allocator of its own, in the functions peer_alloc and
 * peer_purge. Returns NULL, or why it cannot. */
const char *peer_load(peer *p, const char *path);

/* The C library's allocator, or whatever is preloaded in its place. */
void peer_libc(peer *p);

#endif
