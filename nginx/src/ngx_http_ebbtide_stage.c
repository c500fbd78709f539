
#include "ngx_http_ebbtide_stage.h"

#include <pthread.h>


typedef struct {
    ngx_queue_t                queue;
    lua_State                 *lua;
} ngx_http_ebbtide_early_t;


static void ngx_http_ebbtide_stage_rollback(void *data);
static void ngx_http_ebbtide_early_drop(void);


static ngx_http_ebbtide_vm_config_t  ngx_http_ebbtide_vm_conf;
/* puts the settings before back; NULL: no configuration is being read */
static ngx_pool_cleanup_t           *ngx_http_ebbtide_rollback;
static ngx_queue_t                   ngx_http_ebbtide_early =
    { &ngx_http_ebbtide_early, &ngx_http_ebbtide_early };
/* pthread_self() stays the same in the children that the master forks */
static pthread_t                     ngx_http_ebbtide_event_thread;


/* How VMs are made from now on. The caller may change the settings. */

ngx_http_ebbtide_vm_config_t *
ngx_http_ebbtide_vm_config(void)
{
    return &ngx_http_ebbtide_vm_conf;
}


/*
 * The module is loaded, or the configuration is read anew. Until the settings
 * are known, VMs are made without heaps.
 */

ngx_int_t
ngx_http_ebbtide_stage_begin(ngx_cycle_t *cycle)
{
    ngx_pool_cleanup_t            *cln;
    ngx_http_ebbtide_vm_config_t  *before;

    cln = ngx_pool_cleanup_add(cycle->pool,
                               sizeof(ngx_http_ebbtide_vm_config_t));
    if (cln == NULL) {
        return NGX_ERROR;
    }

    /* early VMs of a configuration without this module are not of this one */
    ngx_http_ebbtide_early_drop();

    before = cln->data;
    *before = ngx_http_ebbtide_vm_conf;
    cln->handler = ngx_http_ebbtide_stage_rollback;
    ngx_http_ebbtide_rollback = cln;

    ngx_http_ebbtide_vm_conf.enabled = 0;
    ngx_http_ebbtide_vm_conf.off = 0;
    ngx_http_ebbtide_vm_conf.started = 0;
    ngx_http_ebbtide_event_thread = pthread_self();

    return NGX_OK;
}


/* Whether this thread is reading a configuration. */

ngx_uint_t
ngx_http_ebbtide_stage_is_open(void)
{
    return ngx_http_ebbtide_is_event_thread()
           && ngx_http_ebbtide_rollback != NULL;
}


/* The configuration is refused. Runs when its VMs are closed. */

static void
ngx_http_ebbtide_stage_rollback(void *data)
{
    ngx_http_ebbtide_vm_config_t  *before = data;

    ngx_http_ebbtide_vm_conf = *before;
    ngx_http_ebbtide_rollback = NULL;
    ngx_http_ebbtide_early_drop();
}


/* The configuration is complete. VMs that are still early get no heap. */

void
ngx_http_ebbtide_stage_commit(void)
{
    if (ngx_http_ebbtide_rollback) {
        ngx_http_ebbtide_rollback->handler = NULL;
        ngx_http_ebbtide_rollback = NULL;
    }

    ngx_http_ebbtide_early_drop();
}


/* Other threads are those of ngx.run_worker_thread. */

ngx_uint_t
ngx_http_ebbtide_is_event_thread(void)
{
    return pthread_equal(pthread_self(), ngx_http_ebbtide_event_thread);
}


void
ngx_http_ebbtide_early_add(lua_State *L)
{
    ngx_http_ebbtide_early_t  *early;

    early = ngx_alloc(sizeof(ngx_http_ebbtide_early_t), ngx_cycle->log);

    if (early) {
        early->lua = L;
        ngx_queue_insert_tail(&ngx_http_ebbtide_early, &early->queue);
    }
}


/* Takes the VM that was made first from the list. NULL: the list is empty. */

lua_State *
ngx_http_ebbtide_early_next(void)
{
    lua_State                 *L;
    ngx_queue_t               *q;
    ngx_http_ebbtide_early_t  *early;

    if (ngx_queue_empty(&ngx_http_ebbtide_early)) {
        return NULL;
    }

    q = ngx_queue_head(&ngx_http_ebbtide_early);
    ngx_queue_remove(q);

    early = ngx_queue_data(q, ngx_http_ebbtide_early_t, queue);
    L = early->lua;
    ngx_free(early);

    return L;
}


/* A VM is being closed, early or not. */

void
ngx_http_ebbtide_early_remove(lua_State *L)
{
    ngx_queue_t               *q;
    ngx_http_ebbtide_early_t  *early;

    for (q = ngx_queue_head(&ngx_http_ebbtide_early);
         q != ngx_queue_sentinel(&ngx_http_ebbtide_early);
         q = ngx_queue_next(q))
    {
        early = ngx_queue_data(q, ngx_http_ebbtide_early_t, queue);

        if (early->lua == L) {
            ngx_queue_remove(q);
            ngx_free(early);
            return;
        }
    }
}


static void
ngx_http_ebbtide_early_drop(void)
{
    while (ngx_http_ebbtide_early_next()) { /* void */ }
}
