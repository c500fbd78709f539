
/*
 * A stand-in for the stream Lua module, which Debian does not package: it has
 * a Lua VM of its own, as that one has, and no more of it than tests need.
 *
 *   stream_standin_by_lua 'code';    in server: answers each connection with
 *                                    the string that the code returns
 *   stream_standin_init_by_lua 'code';    in stream: runs when the VM is made
 *
 * As in the stream Lua module the VM is made by luaL_newstate() when the
 * stream block is complete, is closed by a cleanup of the configuration's
 * pool, and earlier in processes that look after a cache, which run no Lua.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_stream.h>

#include <lua.h>
#include <lauxlib.h>
#include <lualib.h>


typedef struct {
    const char          *package;
    lua_CFunction        func;
} ngx_stream_standin_preload_t;


typedef struct {
    lua_State           *lua;
    ngx_pool_cleanup_t  *cleanup;
    ngx_str_t            init;
    /* of ngx_stream_standin_preload_t */
    ngx_array_t         *preloads;
    ngx_uint_t           used;     /* unsigned  used:1; */
} ngx_stream_standin_main_conf_t;


typedef struct {
    ngx_str_t            code;
} ngx_stream_standin_srv_conf_t;


lua_State *ngx_stream_lua_get_global_state(ngx_conf_t *cf);
ngx_int_t ngx_stream_lua_add_package_preload(ngx_conf_t *cf,
    const char *package, lua_CFunction func);


static void ngx_stream_standin_handler(ngx_stream_session_t *s);
static void ngx_stream_standin_write(ngx_event_t *wev);
static void ngx_stream_standin_preload(lua_State *L, const char *package,
    lua_CFunction func);
static ngx_int_t ngx_stream_standin_init(ngx_conf_t *cf);
static ngx_int_t ngx_stream_standin_init_process(ngx_cycle_t *cycle);
static void ngx_stream_standin_close(void *data);
static void *ngx_stream_standin_create_main_conf(ngx_conf_t *cf);
static void *ngx_stream_standin_create_srv_conf(ngx_conf_t *cf);
static char *ngx_stream_standin_by_lua(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


static ngx_command_t  ngx_stream_standin_commands[] = {

    { ngx_string("stream_standin_by_lua"),
      NGX_STREAM_SRV_CONF|NGX_CONF_TAKE1,
      ngx_stream_standin_by_lua,
      NGX_STREAM_SRV_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("stream_standin_init_by_lua"),
      NGX_STREAM_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      NGX_STREAM_MAIN_CONF_OFFSET,
      offsetof(ngx_stream_standin_main_conf_t, init),
      NULL },

      ngx_null_command
};


static ngx_stream_module_t  ngx_stream_standin_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_stream_standin_init,               /* postconfiguration */

    ngx_stream_standin_create_main_conf,   /* create main configuration */
    NULL,                                  /* init main configuration */

    ngx_stream_standin_create_srv_conf,    /* create server configuration */
    NULL                                   /* merge server configuration */
};


ngx_module_t  ngx_stream_standin_module = {
    NGX_MODULE_V1,
    &ngx_stream_standin_module_ctx,        /* module context */
    ngx_stream_standin_commands,           /* module directives */
    NGX_STREAM_MODULE,                     /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_stream_standin_init_process,       /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


/* the same name and contract as in the stream Lua module */

lua_State *
ngx_stream_lua_get_global_state(ngx_conf_t *cf)
{
    ngx_stream_standin_main_conf_t  *smcf;

    smcf = ngx_stream_conf_get_module_main_conf(cf, ngx_stream_standin_module);

    return smcf->lua;
}


/* before the VM is made it is for that one, too */

ngx_int_t
ngx_stream_lua_add_package_preload(ngx_conf_t *cf, const char *package,
    lua_CFunction func)
{
    ngx_stream_standin_preload_t    *preload;
    ngx_stream_standin_main_conf_t  *smcf;

    smcf = ngx_stream_conf_get_module_main_conf(cf, ngx_stream_standin_module);

    if (smcf->lua) {
        ngx_stream_standin_preload(smcf->lua, package, func);
    }

    if (smcf->preloads == NULL) {
        smcf->preloads = ngx_array_create(cf->pool, 4,
                                       sizeof(ngx_stream_standin_preload_t));
        if (smcf->preloads == NULL) {
            return NGX_ERROR;
        }
    }

    preload = ngx_array_push(smcf->preloads);
    if (preload == NULL) {
        return NGX_ERROR;
    }

    preload->package = package;
    preload->func = func;

    return NGX_OK;
}


static void
ngx_stream_standin_preload(lua_State *L, const char *package,
    lua_CFunction func)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_pushcfunction(L, func);
    lua_setfield(L, -2, package);
    lua_pop(L, 2);
}


static void
ngx_stream_standin_handler(ngx_stream_session_t *s)
{
    size_t                           len;
    const char                      *text;
    lua_State                       *L;
    ngx_buf_t                       *b;
    ngx_connection_t                *c;
    ngx_stream_standin_srv_conf_t   *sscf;
    ngx_stream_standin_main_conf_t  *smcf;

    c = s->connection;
    smcf = ngx_stream_get_module_main_conf(s, ngx_stream_standin_module);
    sscf = ngx_stream_get_module_srv_conf(s, ngx_stream_standin_module);
    L = smcf->lua;

    if (luaL_loadbuffer(L, (char *) sscf->code.data, sscf->code.len, "=standin")
        || lua_pcall(L, 0, 1, 0))
    {
        ngx_log_error(NGX_LOG_ERR, c->log, 0, "stream_standin_by_lua: %s",
                      lua_tostring(L, -1));
        lua_settop(L, 0);
        ngx_stream_finalize_session(s, NGX_STREAM_INTERNAL_SERVER_ERROR);
        return;
    }

    text = lua_tolstring(L, -1, &len);
    if (text == NULL) {
        text = "";
        len = 0;
    }

    b = ngx_create_temp_buf(c->pool, len + 1);
    if (b == NULL) {
        lua_settop(L, 0);
        ngx_stream_finalize_session(s, NGX_STREAM_INTERNAL_SERVER_ERROR);
        return;
    }

    b->last = ngx_cpymem(b->pos, text, len);
    *b->last++ = LF;
    lua_settop(L, 0);

    c->data = s;
    ngx_stream_set_ctx(s, b, ngx_stream_standin_module);
    c->write->handler = ngx_stream_standin_write;
    ngx_stream_standin_write(c->write);
}


static void
ngx_stream_standin_write(ngx_event_t *wev)
{
    ssize_t                n;
    ngx_buf_t             *b;
    ngx_connection_t      *c;
    ngx_stream_session_t  *s;

    c = wev->data;
    s = c->data;
    b = ngx_stream_get_module_ctx(s, ngx_stream_standin_module);

    while (b->pos < b->last) {
        n = c->send(c, b->pos, b->last - b->pos);

        if (n == NGX_AGAIN) {
            if (ngx_handle_write_event(wev, 0) != NGX_OK) {
                break;
            }
            return;
        }

        if (n == NGX_ERROR) {
            break;
        }

        b->pos += n;
    }

    ngx_stream_finalize_session(s, NGX_STREAM_OK);
}


static ngx_int_t
ngx_stream_standin_init(ngx_conf_t *cf)
{
    ngx_uint_t                       i;
    ngx_pool_cleanup_t              *cln;
    ngx_stream_standin_preload_t    *preload;
    ngx_stream_standin_main_conf_t  *smcf;

    smcf = ngx_stream_conf_get_module_main_conf(cf, ngx_stream_standin_module);

    if (!smcf->used) {
        return NGX_OK;
    }

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    smcf->lua = luaL_newstate();
    if (smcf->lua == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_stream_standin_close;
    cln->data = smcf->lua;
    smcf->cleanup = cln;

    luaL_openlibs(smcf->lua);

    preload = smcf->preloads ? smcf->preloads->elts : NULL;

    for (i = 0; preload && i < smcf->preloads->nelts; i++) {
        ngx_stream_standin_preload(smcf->lua, preload[i].package,
                                   preload[i].func);
    }

    if (smcf->init.len
        && (luaL_loadbuffer(smcf->lua, (char *) smcf->init.data,
                            smcf->init.len, "=init")
            || lua_pcall(smcf->lua, 0, 0, 0)))
    {
        ngx_log_error(NGX_LOG_ERR, cf->log, 0, "stream_standin_init_by_lua: %s",
                      lua_tostring(smcf->lua, -1));
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_stream_standin_init_process(ngx_cycle_t *cycle)
{
    ngx_stream_standin_main_conf_t  *smcf;

    if (ngx_process != NGX_PROCESS_HELPER || ngx_is_privileged_agent) {
        return NGX_OK;
    }

    smcf = ngx_stream_cycle_get_module_main_conf(cycle,
                                                 ngx_stream_standin_module);

    if (smcf && smcf->lua) {
        smcf->cleanup->handler = NULL;
        lua_close(smcf->lua);
        smcf->lua = NULL;
    }

    return NGX_OK;
}


static void
ngx_stream_standin_close(void *data)
{
    lua_close(data);
}


static void *
ngx_stream_standin_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_stream_standin_main_conf_t));
}


static void *
ngx_stream_standin_create_srv_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_stream_standin_srv_conf_t));
}


static char *
ngx_stream_standin_by_lua(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_stream_standin_srv_conf_t *sscf = conf;

    ngx_str_t                       *value;
    ngx_stream_core_srv_conf_t      *cscf;
    ngx_stream_standin_main_conf_t  *smcf;

    if (sscf->code.data) {
        return "is duplicate";
    }

    value = cf->args->elts;
    sscf->code = value[1];

    cscf = ngx_stream_conf_get_module_srv_conf(cf, ngx_stream_core_module);
    cscf->handler = ngx_stream_standin_handler;

    smcf = ngx_stream_conf_get_module_main_conf(cf, ngx_stream_standin_module);
    smcf->used = 1;

    return NGX_CONF_OK;
}
