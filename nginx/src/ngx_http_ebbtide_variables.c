
#include "ngx_http_ebbtide_variables.h"
#include "ngx_http_ebbtide_vm.h"
#include "ngx_http_ebbtide_stats.h"


static ngx_int_t ngx_http_ebbtide_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);


static ngx_http_variable_t  ngx_http_ebbtide_variables[] = {

    { ngx_string("ebbtide_live"), NULL, ngx_http_ebbtide_variable,
      offsetof(ngx_http_ebbtide_usage_t, live), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("ebbtide_resident"), NULL, ngx_http_ebbtide_variable,
      offsetof(ngx_http_ebbtide_usage_t, resident),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("ebbtide_free"), NULL, ngx_http_ebbtide_variable,
      offsetof(ngx_http_ebbtide_usage_t, free_resident),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("ebbtide_returned"), NULL, ngx_http_ebbtide_variable,
      offsetof(ngx_http_ebbtide_usage_t, returned),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


ngx_int_t
ngx_http_ebbtide_variables_add(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_ebbtide_variables; v->name.len; v++) {
        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_ebbtide_variable(ngx_http_request_t *r, ngx_http_variable_value_t *v,
    uintptr_t data)
{
    u_char                          *p;
    static ngx_http_ebbtide_stats_t  stats;

    ngx_http_ebbtide_stats_read_vms(&stats);

    p = ngx_pnalloc(r->pool, NGX_INT64_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    v->len = ngx_sprintf(p, "%uL", ngx_http_ebbtide_stats_total(&stats, data))
             - p;
    v->data = p;
    v->valid = 1;
    v->no_cacheable = 1;
    v->not_found = 0;

    return NGX_OK;
}
