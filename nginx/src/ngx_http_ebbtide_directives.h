
/*
 * The directives, and the values that each takes.
 *
 * Uses conf, status.
 */


#ifndef _NGX_HTTP_EBBTIDE_DIRECTIVES_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_DIRECTIVES_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/* hidden: another version of the module, if loaded as well, has its own */
extern ngx_command_t  ngx_http_ebbtide_commands[]
    __attribute__((visibility("hidden")));


#endif /* _NGX_HTTP_EBBTIDE_DIRECTIVES_H_INCLUDED_ */
