//! The builds of nginx under test: Debian's, and those with Lua compiled in, as OpenResty has it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use ebbtide_ffi_tests::{clean, make, scratch, text_of};
use ebbtide_runtimes::repository;

use crate::clock::comes_down;
use crate::config::{Config, Modules, material};
use crate::ports::free_port;
use crate::server::{Nginx, alone, beside, find, module, target};
use crate::workers::{children_of, title};

ebbtide_ffi_tests::long! {
    stock_nginx_with_lua_compiled_in_serves
    nginx_with_lua_compiled_in_has_a_privileged_agent
    the_module_loads_into_nginx_with_lua_compiled_in_and_exhales
}

/// Which nginx a server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Build {
    /// Debian's, with its Lua module as a file.
    #[default]
    Debian,
    /// The Lua module and a stand-in for the stream Lua module are compiled in, with a shared
    /// libluajit; this repository's module is a file, and so comes after Lua.
    CompiledIn,
    /// All of them are compiled in, this repository's module too, with a static libluajit.
    Static,
    /// The same, but this repository's module is a file: it cannot hook what the program calls.
    LuaInside,
}

/// Debian's nginx with the module before and after the Lua module, one with Lua compiled in and the
/// module as a file, and one with everything inside, LuaJIT too.
pub const WAYS: [(Build, Modules); 4] = [
    (Build::Debian, Modules::First),
    (Build::Debian, Modules::Last),
    (Build::CompiledIn, Modules::Last),
    (Build::Static, Modules::Last),
];

impl Build {
    /// The program. What is compiled in is built once, and kept in the target folder.
    pub fn program(self) -> PathBuf {
        static COMPILED_IN: OnceLock<PathBuf> = OnceLock::new();
        static STATIC: OnceLock<PathBuf> = OnceLock::new();
        static LUA_INSIDE: OnceLock<PathBuf> = OnceLock::new();
        match self {
            Build::Debian => find("nginx").expect("nginx is there"),
            Build::CompiledIn => COMPILED_IN.get_or_init(|| build(LUA_COMPILED_IN, &[])).clone(),
            Build::LuaInside => {
                let program = || build(LUA_COMPILED_IN, &["static".into()]);
                LUA_INSIDE.get_or_init(program).clone()
            }
            Build::Static => {
                let library = target().join("release/libebbtide.a");
                let mode = [PathBuf::from("static"), library];
                STATIC.get_or_init(|| build(LUA_COMPILED_IN, &mode)).clone()
            }
        }
    }

    /// Whether Lua modules are files that a configuration has to load.
    pub fn loads_lua(self) -> bool {
        self == Build::Debian
    }

    /// The module under test, if it is a file.
    pub fn module(self) -> Option<PathBuf> {
        (self != Build::Static).then(module)
    }
}

/// The folder of the builds with Lua compiled in, which have their objects in common.
const LUA_COMPILED_IN: &str = "nginx-compiled-in";

fn build(folder: &str, mode: &[PathBuf]) -> PathBuf {
    let mut command = clean(material().join("build-compiled-in.sh"));
    let program = text_of(command.arg(target().join(folder)).args(mode));
    program.trim_end().into()
}

/// A folder with `libluajit-5.1.so.2`: OpenResty's LuaJIT with the library inside, as docs/embedding.md
/// tells to build it.
pub fn linked_luajit() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let source = build("luajit2", &["luajit".into()]);
        let folder = target().join("luajit2");
        let built = folder.join("build");
        let variables = [("LUAJIT", &source), ("LUAJIT_BUILD", &built)];
        let variables = variables.map(|(name, path)| format!("{name}={}", path.display()));
        make(&["luajit", &variables[0], &variables[1]], Path::new("/"), "/x");
        let link = folder.join("libluajit-5.1.so.2");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(built.join("src/libluajit.so"), link).expect("it can be linked");
        folder
    })
}

/// A `stream` block whose server answers on this port with what the code returns, in a VM of the
/// stream's own. Compiled-in builds have it.
pub fn stream_block(port: u16, code: &str) -> String {
    format!(
        "stream {{ server {{
             listen 127.0.0.1:{port};
             stream_standin_by_lua '{code}';
         }} }}"
    )
}

const GARBAGE: &str = "calls = (calls or 0) + 1
    for i = 1, 100000 do local t = { i, tostring(i) } end
    return calls";

/// What `stream_block` answers to three connections, with garbage left behind.
fn stream_serves(nginx: &Nginx, port: u16) {
    for call in 1..=3 {
        assert_eq!(nginx.stream(port), format!("{call}\n"));
    }
}

fn stock_nginx_with_lua_compiled_in_serves() {
    let _beside = beside();
    let port = free_port();
    let config = Config::new(Modules::Stock)
        .on(Build::CompiledIn)
        .workers(1)
        .top("thread_pool pool threads=2;")
        .bottom(&stream_block(port, GARBAGE))
        .lua("regex", "ngx.say(ngx.re.match('row 20', [[\\d+]])[0])")
        .lua("sum", "ngx.say((ngx.run_worker_thread('pool', 'thread_work', 'sum', 1)))");
    let nginx = Nginx::start(&config);
    assert!(nginx.get("/light").starts_with("row 20"));
    assert_eq!(nginx.get("/regex"), "20\n");
    assert_eq!(nginx.get("/sum"), "true\n");
    stream_serves(&nginx, port);
    nginx.reload();
    stream_serves(&nginx, port);
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

/// The process that OpenResty adds to nginx: it runs no requests.
fn nginx_with_lua_compiled_in_has_a_privileged_agent() {
    let _beside = beside();
    let config = Config::new(Modules::Stock).on(Build::CompiledIn).http(
        "init_by_lua_block { assert(require('ngx.process').enable_privileged_agent(100)) }
         init_worker_by_lua_block { ngx.log(ngx.NOTICE, 'I am ', require('ngx.process').type()) }",
    );
    let nginx = Nginx::start(&config);
    let agents = |nginx: &Nginx| {
        let children = children_of(nginx.pid().expect("it runs"));
        children.filter(|pid| title(*pid).contains("privileged agent process")).count()
    };
    for _ in 0..2 {
        let patience = Duration::from_secs(60);
        nginx.wait_until("the agent runs", patience, |nginx| agents(nginx) == 1);
        assert!(nginx.log().contains("I am privileged agent"), "{}", nginx.log());
        assert_eq!(nginx.running().len(), 2);
        nginx.reload();
    }
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

fn the_module_loads_into_nginx_with_lua_compiled_in_and_exhales() {
    let _alone = alone();
    let nginx = Nginx::start(&Config::new(Modules::Last).on(Build::CompiledIn).workers(1));
    let full_kb = nginx.fill("/litter?megabytes=40");
    comes_down(&nginx, nginx.running()[0], full_kb / 3, "the worker breathes out");
    assert!(nginx.get("/light").starts_with("row 20"));
    assert_eq!(nginx.errors(), Vec::<String>::new());
}

/// A source of nginx's whose module is made at once.
const CONFIGURE: &str = "#!/bin/sh
mkdir objs
printf 'objs/ngx_http_ebbtide_module.so:\\n\\techo module > $@\\n' > objs/Makefile
";

#[test]
fn builds_of_the_module_in_one_folder_wait_for_each_other() {
    let folder = scratch("module-builds");
    fs::remove_dir_all(&folder).expect("it can be removed");
    let source = folder.join("nginx");
    fs::create_dir_all(&source).expect("it can be written");
    fs::write(source.join("configure"), CONFIGURE).expect("it can be written");
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(source.join("configure"), executable).expect("it is there");
    fs::write(folder.join("library.a"), "").expect("it can be written");
    let target = folder.join("target");
    fs::create_dir_all(&target).expect("it can be written");

    // Another build, as far as this one can tell, which ends when its input does.
    let mut other = Command::new("flock");
    other.arg(target.join("lock")).args(["sh", "-c", "echo held; cat"]);
    let mut other = other.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("flock");
    let mut said = BufReader::new(other.stdout.take().expect("a pipe"));
    said.read_line(&mut String::new()).expect("it holds the lock");

    let mut build = clean("sh");
    build.arg(repository().join("nginx/build.sh")).arg(folder.join("library.a")).arg(&target);
    let build = build.env("NGINX_SRC", &source).stdout(Stdio::piped());
    let mut build = build.spawn().expect("a shell");
    let mut said = BufReader::new(build.stdout.take().expect("a pipe"));
    let mut line = String::new();
    said.read_line(&mut line).expect("it says that it waits");
    let expected = format!("another build in {} is under way: waiting until", target.display());
    assert!(line.starts_with(&expected), "{line}");
    assert!(!target.join("source").exists(), "it has not waited");

    drop(other.stdin.take());
    assert!(other.wait().expect("it was started").success());
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("it ends");
    assert!(build.wait().expect("it was started").success(), "{rest}");
    let module = target.join("ngx_http_ebbtide_module.so");
    assert_eq!(fs::read_to_string(module).expect("it is built"), "module\n");
}
