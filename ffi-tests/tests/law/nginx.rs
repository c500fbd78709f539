//! Debian's nginx, whose worker runs `law.lua` in a request handler or in a timer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use ebbtide_ffi_tests::{clean, make, release, scratch};
use ebbtide_runtimes::repository;

use crate::programs::{Door, ebbtide};

/// Debian's.
pub const NGINX: &str = "/usr/sbin/nginx";

/// The command that runs `law.lua` with this command line. The nginx ends when the program does.
pub fn command(law: &[String], door: Option<Door>) -> Command {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let number = RUNS.fetch_add(1, Ordering::Relaxed);
    let folder = scratch("law-nginx").join(number.to_string());
    // The socket of an nginx that was killed would be in the way.
    if folder.exists() {
        fs::remove_dir_all(&folder).expect("a folder of an earlier run");
    }
    fs::create_dir_all(&folder).expect("a folder");
    let template = repository().join("ffi-tests/nginx/law.conf");
    let mut config = fs::read_to_string(template).expect("the template");
    if door == Some(Door::NginxModule) {
        config.insert_str(0, &format!("load_module {};\n", module().display()));
    }
    let file = folder.join("nginx.conf");
    fs::write(&file, config).expect("a file");
    let mut command = if door == Some(Door::NginxPreload) {
        let mut command = clean(ebbtide());
        command.arg("run").arg(NGINX);
        command
    } else {
        clean(NGINX)
    };
    // The paths of sockets are short, so the one of this nginx is relative.
    command.current_dir(&folder).arg("-p").arg(&folder).arg("-c").arg(file);
    command.env("LAW_LINE", law.join("\n"));
    command
}

/// The module, built for the nginx that is installed.
pub fn module() -> &'static Path {
    static MODULE: OnceLock<PathBuf> = OnceLock::new();
    MODULE.get_or_init(|| {
        make(&["nginx"], Path::new("/"), "/x");
        release().join("../nginx/ngx_http_ebbtide_module.so")
    })
}
