/* The host's command line: see arguments.h. */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arguments.h"

void fail(int status, const char *format, ...)
{
  va_list arguments;

  fflush(stdout);
  fputs("host: ", stderr);
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  exit(status);
}

static void usage(const char *what, const char *value)
{
  fail(2, "%s%s; usage: host "
       "[--allocator builtin|malloc|ebbtide|attached|inplace|FILE] "
       "[--jit on|off] [--events] [--drop] script.lua [argument...]",
       what, value);
}

/* Which of the names value is. */
static int choose(const char *option, const char *value, const char **names)
{
  int i;

  for (i = 0; value != NULL && names[i] != NULL; i++) {
    if (strcmp(value, names[i]) == 0)
      return i;
  }
  usage("no such value for ", option);
  return -1;
}

static void choose_allocator(arguments *a, const char *value)
{
  static const char *names[] = { "builtin", "malloc", "ebbtide", "attached",
                                 "inplace", NULL };

  if (value == NULL || strchr(value, '/') == NULL) {
    a->allocator = choose("--allocator", value, names);
  } else {
    a->allocator = PEER;
    a->peer = value;
  }
}

void arguments_parse(arguments *a, int argc, char **argv)
{
  static const char *switches[] = { "off", "on", NULL };
  int i;

  memset(a, 0, sizeof(*a));
  a->argc = argc;
  a->argv = argv;
  a->jit = -1;
  for (i = 1; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
    if (strcmp(argv[i], "--allocator") == 0) {
      choose_allocator(a, argv[++i]);
    } else if (strcmp(argv[i], "--jit") == 0) {
      a->jit = choose(argv[i], argv[i + 1], switches);
      i++;
    } else if (strcmp(argv[i], "--events") == 0) {
      a->events = 1;
    } else if (strcmp(argv[i], "--drop") == 0) {
      a->drop = 1;
    } else if (strcmp(argv[i], "--version") == 0) {
      a->version = 1;
      return;
    } else {
      usage("no such option: ", argv[i]);
    }
  }
  if (i >= argc)
    usage("no script", "");
  a->script = i;
}
