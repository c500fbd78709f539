/* A service with an event loop, as one writes it without having heard of
 * ebbtide: it waits for ever, in the function that the first argument names,
 * for lines on its standard input; each is a request to the Lua script that is
 * the second argument, and what that returns is printed. Ends with its input.
 *
 * The wait may return for a request only: anything else ends the program. */

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <unistd.h>

static int epoll_fd;

static int in_epoll_wait(void)
{
  struct epoll_event event;

  return epoll_wait(epoll_fd, &event, 1, -1);
}

static int in_epoll_pwait(void)
{
  struct epoll_event event;

  return epoll_pwait(epoll_fd, &event, 1, -1, NULL);
}

static int in_poll(void)
{
  struct pollfd descriptor = { 0, POLLIN, 0 };

  return poll(&descriptor, 1, -1);
}

static int in_select(void)
{
  fd_set readable;

  FD_ZERO(&readable);
  FD_SET(0, &readable);
  return select(1, &readable, NULL, NULL, NULL);
}

static const struct {
  const char *name;
  int (*wait)(void);
} ways[] = {
  { "epoll_wait", in_epoll_wait },
  { "epoll_pwait", in_epoll_pwait },
  { "poll", in_poll },
  { "select", in_select },
};

static int (*way(const char *name))(void)
{
  size_t i;

  for (i = 0; i < sizeof ways / sizeof *ways; i++) {
    if (strcmp(ways[i].name, name) == 0) {
      return ways[i].wait;
    }
  }
  fprintf(stderr, "no way to wait: %s\n", name);
  exit(2);
}

/* One request, at most; 0 at the end of the input. */
static int request(char *text, size_t size)
{
  size_t length = 0;

  while (length + 1 < size && read(0, text + length, 1) == 1) {
    if (text[length] == '\n') {
      text[length] = '\0';
      return 1;
    }
    length++;
  }
  return 0;
}

static void serve(lua_State *L, const char *text)
{
  lua_getglobal(L, "handle");
  lua_pushstring(L, text);
  if (lua_pcall(L, 1, 1, 0) != 0) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    exit(1);
  }
  puts(lua_tostring(L, -1));
  fflush(stdout);
  lua_pop(L, 1);
}

int main(int argc, char **argv)
{
  struct epoll_event event = { .events = EPOLLIN };
  int (*wait)(void) = way(argc > 2 ? argv[1] : "");
  lua_State *L = luaL_newstate();
  char text[64];

  epoll_fd = epoll_create1(0);
  if (L == NULL || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &event) != 0) {
    perror("no loop");
    return 1;
  }
  luaL_openlibs(L);
  if (luaL_dofile(L, argv[2])) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    return 1;
  }
  for (;;) {
    int ready = wait();

    if (ready != 1) {
      fprintf(stderr, "the wait returned %d\n", ready);
      return 1;
    }
    if (!request(text, sizeof text)) {
      break;
    }
    serve(L, text);
  }
  lua_close(L);
  puts("closed");
  return 0;
}
