/* A LuaJIT command whose threads hand one VM on: the script is a coroutine, and
 * what it yields is the number of seconds until the next thread goes on with it.
 * A thread in whose turn the script yields, or ends, leaves the VM to the others
 * and waits for its next turn, as the threads of a pool wait for work. */

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include <pthread.h>
#include <stdio.h>
#include <time.h>

#include "new_vm.h"

#define THREADS 4

struct pool {
  pthread_mutex_t mutex;
  pthread_cond_t handed_on;
  lua_State *script;
  unsigned turn; /* the number of the thread that is next */
  struct timespec due;
  int result; /* LUA_YIELD: the script goes on */
};

static struct pool pool = { .mutex = PTHREAD_MUTEX_INITIALIZER,
                            .handed_on = PTHREAD_COND_INITIALIZER,
                            .result = LUA_YIELD };

static int is_due(void)
{
  struct timespec now;

  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec > pool.due.tv_sec
         || (now.tv_sec == pool.due.tv_sec && now.tv_nsec >= pool.due.tv_nsec);
}

static void due_after(double seconds)
{
  clock_gettime(CLOCK_REALTIME, &pool.due);
  pool.due.tv_sec += (time_t)seconds;
  pool.due.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
  pool.due.tv_sec += pool.due.tv_nsec / 1000000000;
  pool.due.tv_nsec %= 1000000000;
}

/* One turn. The mutex is locked. */
static void go_on(void)
{
  pool.result = lua_resume(pool.script, 0);
  if (pool.result == LUA_YIELD) {
    due_after(lua_tonumber(pool.script, -1));
    lua_settop(pool.script, 0);
  }
  pool.turn = (pool.turn + 1) % THREADS;
  pthread_cond_broadcast(&pool.handed_on);
}

static void *work(void *number)
{
  unsigned me = *(unsigned *)number;

  pthread_mutex_lock(&pool.mutex);
  while (pool.result == LUA_YIELD) {
    if (pool.turn != me) {
      pthread_cond_wait(&pool.handed_on, &pool.mutex);
    } else if (!is_due()) {
      pthread_cond_timedwait(&pool.handed_on, &pool.mutex, &pool.due);
    } else {
      go_on();
    }
  }
  pthread_mutex_unlock(&pool.mutex);
  return NULL;
}

static void set_arguments(lua_State *L, int argc, char **argv)
{
  int i;

  lua_createtable(L, argc, 1);
  for (i = 1; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i - 1);
  }
  lua_setglobal(L, "arg");
}

int main(int argc, char **argv)
{
  lua_State *L = new_vm();
  pthread_t threads[THREADS];
  unsigned numbers[THREADS], i;

  if (L == NULL || argc < 2) {
    fprintf(stderr, "no VM, or no script\n");
    return 2;
  }
  luaL_openlibs(L);
  set_arguments(L, argc, argv);
  pool.script = lua_newthread(L);
  if (luaL_loadfile(pool.script, argv[1]) != 0) {
    fprintf(stderr, "%s\n", lua_tostring(pool.script, -1));
    return 2;
  }
  for (i = 0; i < THREADS; i++) {
    numbers[i] = i;
    if (pthread_create(&threads[i], NULL, work, &numbers[i]) != 0) {
      fprintf(stderr, "no thread\n");
      return 2;
    }
  }
  for (i = 0; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
  }
  if (pool.result != 0) {
    fprintf(stderr, "%s\n", lua_tostring(pool.script, -1));
  }
  close_vm(L);
  return pool.result != 0;
}
