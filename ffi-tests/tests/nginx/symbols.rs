//! Lua modules that come to nginx in unusual ways: replaced while it runs, and with a VM that is
//! made before anybody has read what this module is to do.

use std::fs;
use std::path::Path;

use crate::builds::Build;
use crate::config::{Config, Folder, Modules, modules_path};
use crate::ports::free_port;
use crate::server::{Nginx, beside, module};
use crate::status::{json, vms};

ebbtide_ffi_tests::long! {
    init_by_lua_of_the_stream_module_finds_resty_ebbtide
}

const LUA: [&str; 2] = ["ndk_http_module.so", "ngx_http_lua_module.so"];

/// Puts copies of Debian's modules there, each at once. They are as if linked with `-Bsymbolic`, as
/// some distributions do: of two that are loaded each has its own variables.
fn put_modules(folder: &Path) {
    for name in LUA {
        let new = folder.join("new");
        let mut bytes = fs::read(modules_path().join(name)).expect("it can be read");
        bind_to_itself(&mut bytes);
        fs::write(&new, bytes).expect("it can be written");
        fs::rename(new, folder.join(name)).expect("it takes the old one's place");
    }
}

/// Sets `DF_SYMBOLIC` in the flags of an ELF file's dynamic section.
fn bind_to_itself(file: &mut [u8]) {
    const DYNAMIC: u64 = 2;
    const FLAGS: u64 = 30;
    const SYMBOLIC: u8 = 2;
    let word = |file: &[u8], at: u64, bytes: usize| {
        let at = at as usize;
        file[at..at + bytes].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
    };
    let (headers, size, count) = (word(file, 32, 8), word(file, 54, 2), word(file, 56, 2));
    let header = (0..count).map(|i| headers + i * size).find(|at| word(file, *at, 4) == DYNAMIC);
    let header = header.expect("it has a dynamic section");
    let (start, bytes) = (word(file, header + 8, 8), word(file, header + 32, 8));
    let entries = (start..start + bytes).step_by(16);
    let flags = entries.into_iter().find(|at| word(file, *at, 8) == FLAGS).expect("it has flags");
    file[flags as usize + 8] |= SYMBOLIC;
}

fn with_modules_in(folder: &Path) -> Config {
    let load = |path: &Path| format!("load_module {};", path.display());
    let mut config = Config::new(Modules::Included).workers(1);
    for name in LUA {
        config = config.top(&load(&folder.join(name)));
    }
    // A VM of a request's own has what the Lua module was told to preload.
    config.server += "location /anew { lua_code_cache off; content_by_lua_block {
        ngx.say(type(require('resty.ebbtide').stats))
    } }";
    config.top(&load(&module()))
}

fn vm_is_on_a_heap(nginx: &Nginx) {
    assert!(nginx.get("/light").starts_with("row 20"));
    assert!(vms(&json(nginx)[0], "main", "live") > 100_000, "the VM is in no figure");
    assert_eq!(nginx.get("/anew"), "function\n");
    let errors = nginx.errors().into_iter();
    let errors = errors.filter(|error| !error.contains("lua_code_cache is off"));
    assert_eq!(errors.collect::<Vec<_>>(), Vec::<String>::new());
}

/// An upgrade of a package replaces the files, or puts new ones beside them.
#[test]
fn after_the_lua_module_was_replaced_new_workers_have_heaps() {
    let _beside = beside();
    let (old, new) = (Folder::new(), Folder::new());
    for folder in [&old, &new] {
        fs::create_dir_all(folder.file("")).expect("it can be made");
        put_modules(&folder.file(""));
    }
    let nginx = Nginx::start(&with_modules_in(&old.file("")));
    vm_is_on_a_heap(&nginx);
    put_modules(&old.file(""));
    nginx.reload();
    vm_is_on_a_heap(&nginx);
    for folder in [&new, &old] {
        nginx.write_config(&with_modules_in(&folder.file("")));
        nginx.reload();
        vm_is_on_a_heap(&nginx);
    }
}

/// The stream block's VM is made, and runs its first line, when that block ends, wherever it is.
fn init_by_lua_of_the_stream_module_finds_resty_ebbtide() {
    let _beside = beside();
    let port = free_port();
    let stream = format!(
        "stream {{
             stream_standin_init_by_lua '
                 local ebbtide = require(\"resty.ebbtide\")
                 found = type(ebbtide.stats) .. type(require(\"ebbtide\").attach)';
             server {{ listen 127.0.0.1:{port}; stream_standin_by_lua 'return found'; }}
         }}"
    );
    let config = || Config::new(Modules::Last).on(Build::CompiledIn).workers(1);
    for config in [config().bottom(&stream), config().top(&stream)] {
        let nginx = Nginx::start(&config);
        assert_eq!(nginx.stream(port), "functionfunction\n");
        nginx.reload();
        assert_eq!(nginx.stream(port), "functionfunction\n");
        assert_eq!(nginx.errors(), Vec::<String>::new());
    }
}
