/*
 * A module of nginx that makes a Lua VM as soon as its directive is read, as
 * the stream Lua module does in a `stream` block: before `http`, or after it.
 *
 *   early_vm SCRIPT;    runs the script in a VM of its own, and keeps the VM
 */

#include <ngx_config.h>
#include <ngx_core.h>

typedef struct lua_State lua_State;

lua_State *luaL_newstate(void);
void luaL_openlibs(lua_State *L);
int luaL_loadfile(lua_State *L, const char *file);
int lua_pcall(lua_State *L, int args, int results, int handler);
void lua_close(lua_State *L);

static char *read_directive(ngx_conf_t *cf, ngx_command_t *command, void *conf);
static void close_vm(void *data);

static ngx_command_t commands[] = {
    {ngx_string("early_vm"), NGX_MAIN_CONF | NGX_DIRECT_CONF | NGX_CONF_TAKE1,
     read_directive, 0, 0, NULL},
    ngx_null_command,
};

static ngx_core_module_t context = {ngx_string("early"), NULL, NULL};

ngx_module_t ngx_early_module = {
    NGX_MODULE_V1,   &context, commands, NGX_CORE_MODULE, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NGX_MODULE_V1_PADDING,
};

/* What nginx looks for in a module's file. */
ngx_module_t *ngx_modules[] = {&ngx_early_module, NULL};
char *ngx_module_names[] = {"ngx_early_module", NULL};
char *ngx_module_order[] = {NULL};

static char *read_directive(ngx_conf_t *cf, ngx_command_t *command, void *conf)
{
    ngx_str_t *words = cf->args->elts;
    ngx_pool_cleanup_t *cleanup = ngx_pool_cleanup_add(cf->cycle->pool, 0);
    lua_State *L = luaL_newstate();

    if (cleanup == NULL || L == NULL) {
        return NGX_CONF_ERROR;
    }
    cleanup->handler = close_vm;
    cleanup->data = L;
    luaL_openlibs(L);
    if (luaL_loadfile(L, (char *) words[1].data) || lua_pcall(L, 0, 0, 0)) {
        return "has a script that fails";
    }
    return NGX_CONF_OK;
}

static void close_vm(void *data)
{
    lua_close(data);
}
