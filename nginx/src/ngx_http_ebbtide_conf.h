
/*
 * The configuration of the module: what its directives set.
 *
 * Uses nginx alone.
 */


#ifndef _NGX_HTTP_EBBTIDE_CONF_H_INCLUDED_
#define _NGX_HTTP_EBBTIDE_CONF_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <ebbtide.h>


/* the smallest limit: a VM and its libraries need some megabytes */
#define NGX_HTTP_EBBTIDE_LIMIT_MIN  (8 * 1024 * 1024)


typedef struct {
    /* bytes, EBB_ZERO for off, or EBB_CGROUP */
    int64_t                        bytes;
    /* of the memory that the cgroup allows; 0: not given as a share */
    ngx_uint_t                     percent;
} ngx_http_ebbtide_limit_t;


/* Where a directive stands, and whether it has any effect. */

typedef struct ngx_http_ebbtide_directive_s  ngx_http_ebbtide_directive_t;

struct ngx_http_ebbtide_directive_s {
    ngx_http_ebbtide_directive_t  *next;
    ngx_str_t                      file;
    ngx_uint_t                     line;
    ngx_uint_t                     used;
};


typedef struct {
    ngx_flag_t                     enable;
    ngx_msec_t                     idle;
    ngx_uint_t                     step_us;
    ebb_options                    options;
    ngx_http_ebbtide_limit_t       limit_soft;
    ngx_http_ebbtide_limit_t       limit_hard;
    size_t                         zone_size;
    ngx_shm_zone_t                *zone;
    /* counts the configurations that the master has completed, from 1 */
    uint32_t                       generation;
    /* the directives that are given, with commas between them, for the log */
    ngx_str_t                      given;
    /* where ebbtide_status_reclaim is switched on */
    ngx_http_ebbtide_directive_t  *reclaims;
    /* "env" directives that were checked */
    ngx_uint_t                     env_checked;
} ngx_http_ebbtide_main_conf_t;


typedef struct {
    ngx_flag_t                     reclaim;
    /* the directive that switched it on */
    ngx_http_ebbtide_directive_t  *reclaim_directive;
    /* whether the page is here */
    ngx_uint_t                     status;
} ngx_http_ebbtide_loc_conf_t;


void *ngx_http_ebbtide_create_main_conf(ngx_conf_t *cf);
ngx_int_t ngx_http_ebbtide_conf_note_given(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf);
void ngx_http_ebbtide_conf_defaults(ngx_http_ebbtide_main_conf_t *emcf);
void *ngx_http_ebbtide_create_loc_conf(ngx_conf_t *cf);
char *ngx_http_ebbtide_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
ngx_http_ebbtide_directive_t *ngx_http_ebbtide_directive_here(ngx_conf_t *cf);
void ngx_http_ebbtide_warn_reclaims_unused(ngx_conf_t *cf,
    ngx_http_ebbtide_main_conf_t *emcf);


extern ngx_module_t  ngx_http_ebbtide_module;


#endif /* _NGX_HTTP_EBBTIDE_CONF_H_INCLUDED_ */
