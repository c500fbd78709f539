/* The host's command line, and its end with an error. */

#ifndef EBBTIDE_ARGUMENTS_H
#define EBBTIDE_ARGUMENTS_H

typedef enum {
  BUILTIN, MALLOC, EBBTIDE, ATTACHED, IN_PLACE, PEER
} allocator_kind;

typedef struct {
  allocator_kind allocator;
  const char *peer; /* the path of the FILE; NULL unless on a FILE */
  int jit;          /* 1 on, 0 off, -1 as the runtime has it */
  int events;
  int drop;
  int version;      /* nothing else is asked for */
  int script;       /* index into argv */
  int argc;
  char **argv;
} arguments;

/* Ends the process with a line on standard error, which is formatted as by
 * printf. */
void fail(int status, const char *format, ...);

/* Reads the command line: see host.c. Ends the process with status 2 if the
 * line is wrong. */
void arguments_parse(arguments *a, int argc, char **argv);

#endif
