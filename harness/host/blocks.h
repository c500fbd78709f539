/* A VM's allocator at work without Lua and its collector.
 */

#ifndef EBBTIDE_BLOCKS_H
#define EBBTIDE_BLOCKS_H

#include <lua.h>

/* syntax: ns = replace_blocks(live, count)
 *
 * Keeps live blocks of 16 to 152 bytes, written once, and replaces count of
 * them at random. Returns the nanoseconds of CPU time that a replacement takes.
 * What a program would do with its blocks is left out: it costs the same on
 * every allocator, and at ten million blocks more than all of them. */
int blocks_replace(lua_State *L);

#endif
