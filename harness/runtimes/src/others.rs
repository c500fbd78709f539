//! The Lua runtimes that only tests of `make test-long` run. Their package is built at the first
//! use of one of them.

use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::{LUAJIT, Runtime, repository};

/// The source of [`LUAJIT`] with LuaJIT's assertions and API checks on.
pub fn luajit_checked() -> Runtime {
    runtime("luajit-checked", "libluajit.a")
}

/// PUC Lua 5.1.
pub fn lua51() -> Runtime {
    runtime("lua5.1", "liblua5.1.a")
}

/// PUC Lua 5.2.
pub fn lua52() -> Runtime {
    runtime("lua5.2", "liblua5.2.a")
}

/// PUC Lua 5.3.
pub fn lua53() -> Runtime {
    runtime("lua5.3", "liblua5.3.a")
}

/// PUC Lua 5.4.
pub fn lua54() -> Runtime {
    runtime("lua5.4", "liblua5.4.a")
}

fn runtime(name: &'static str, library: &str) -> Runtime {
    let folder = folder();
    // A few short strings for each use, until the tests end.
    let path = |path: &str| -> &'static str { format!("{folder}/{name}/{path}").leak() };
    let include_dir = path("include");
    Runtime { name, include_dir, library: path(&format!("lib/{library}")), ..LUAJIT }
}

/// The folder that the package's program names. Panics unless the package can be built.
fn folder() -> &'static str {
    static FOLDER: OnceLock<String> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["run", "--quiet", "--package", "ebbtide-other-runtimes"]);
        let output = cargo.current_dir(repository()).stderr(Stdio::inherit()).output();
        let output = output.expect("cargo runs");
        assert!(output.status.success(), "the other runtimes were not built: {}", output.status);
        let folder = String::from_utf8(output.stdout).expect("the path is UTF-8");
        folder.trim_end().to_owned()
    })
}
