//! What an nginx is started with: its configuration, and the folder in which it runs.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use ebbtide_ffi_tests::clean;
use ebbtide_runtimes::repository;

use crate::builds::Build;

/// A folder of the repository's, with Lua code for the servers.
pub fn material() -> PathBuf {
    repository().join("ffi-tests/nginx")
}

/// Where Debian's own modules are, as nginx was configured.
pub fn modules_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let said = Command::new("nginx").arg("-V").output().expect("nginx is there").stderr;
        let said = String::from_utf8_lossy(&said).into_owned();
        let path = said.split_whitespace().find_map(|word| word.strip_prefix("--modules-path="));
        path.expect("nginx has dynamic modules").into()
    })
}

/// In which order nginx loads its modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modules {
    /// The Lua module alone.
    Stock,
    /// The module of this repository, then the Lua module.
    First,
    /// The Lua module, then that of this repository.
    Last,
    /// The module of this repository alone.
    Alone,
    /// What the files load that the configuration includes at the top.
    Included,
}

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct Config {
    pub build: Build,
    pub modules: Modules,
    pub workers: u32,
    /// Whether the number of workers stands behind `http`.
    pub workers_last: bool,
    /// At the top level.
    pub top: String,
    /// At the top level, after `http`.
    pub bottom: String,
    /// In the block `http`.
    pub http: String,
    /// In the block `server`.
    pub server: String,
    /// In the environment of the processes.
    pub environment: Vec<(&'static str, PathBuf)>,
    /// A command and its arguments, which starts nginx; none if nginx is started as it is.
    pub launcher: Vec<OsString>,
}

impl Config {
    /// Two workers of the service, with the status page where the module is loaded.
    pub fn new(modules: Modules) -> Config {
        let mut server = String::new();
        if modules != Modules::Alone {
            for name in ["heavy", "light", "slow", "wait", "litter"] {
                server += &location(name, &format!("require('service').{name}()"));
            }
        }
        if modules != Modules::Stock {
            server += "location /status { ebbtide_status; }\n";
            server += "location /open { ebbtide_status; ebbtide_status_reclaim on; }\n";
        }
        Config {
            build: Build::Debian,
            modules,
            workers: 2,
            workers_last: false,
            top: String::new(),
            bottom: String::new(),
            http: String::new(),
            server,
            environment: Vec::new(),
            launcher: Vec::new(),
        }
    }

    /// None: the only process does everything (with `master_process off`).
    pub fn workers(mut self, workers: u32) -> Config {
        self.workers = workers;
        self
    }

    pub fn on(mut self, build: Build) -> Config {
        self.build = build;
        self
    }

    pub fn bottom(mut self, text: &str) -> Config {
        self.bottom += &format!("{text}\n");
        self
    }

    pub fn top(mut self, text: &str) -> Config {
        self.top += &format!("{text}\n");
        self
    }

    pub fn http(mut self, text: &str) -> Config {
        self.http += &format!("{text}\n");
        self
    }

    /// A location that runs this Lua code.
    pub fn lua(mut self, name: &str, code: &str) -> Config {
        self.server += &location(name, code);
        self
    }

    pub fn environment(mut self, name: &'static str, value: impl Into<PathBuf>) -> Config {
        self.environment.push((name, value.into()));
        self
    }

    /// The text of the configuration file.
    pub fn text(&self, port: u16) -> String {
        let ours = self.build.module();
        let debian = |name: &str| modules_path().join(name);
        let lua = [debian("ndk_http_module.so"), debian("ngx_http_lua_module.so")];
        let mut modules: Vec<PathBuf> = Vec::new();
        modules.extend(ours.clone().filter(|_| self.modules == Modules::First));
        let without = matches!(self.modules, Modules::Alone | Modules::Included);
        let loads_lua = !without && self.build.loads_lua();
        modules.extend(loads_lua.then_some(lua).into_iter().flatten());
        let last = matches!(self.modules, Modules::Last | Modules::Alone);
        modules.extend(ours.filter(|_| last));
        let mut top = String::new();
        for module in modules {
            writeln!(top, "load_module {};", module.display()).expect("a string takes it");
        }
        let mut http = self.http.clone();
        if self.modules != Modules::Alone && !http.contains("lua_package_path") {
            let folder = material();
            let path = format!("{}/?.lua;/usr/share/lua/5.1/?.lua", folder.display());
            http += &format!("lua_package_path '{path}';\n");
        }
        let base = fs::read_to_string(material().join("base.conf")).expect("base.conf");
        let number = "worker_processes @WORKERS@;\n";
        let (first, last) = if self.workers_last { ("", number) } else { (number, "") };
        base.replace(number, first)
            .replace("@BOTTOM@", &format!("@BOTTOM@\n{last}"))
            .replace("@TOP@", &(top + &self.top))
            .replace("@WORKERS@", &self.workers.max(1).to_string())
            .replace("@HTTP@", &http)
            .replace("@PORT@", &port.to_string())
            .replace("@SERVER@", &self.server)
            .replace("@BOTTOM@", &self.bottom)
    }
}

fn location(name: &str, code: &str) -> String {
    format!("location /{name} {{ content_by_lua_block {{ {code} }} }}\n")
}

/// A folder of the temporary ones, for nginx to run in, removed in the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ebbtide-nginx-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("temporary files can be written");
        Folder(folder)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// `nginx` with its configuration in this folder.
    pub fn nginx(&self, config: &Config, port: u16) -> Command {
        fs::write(self.file("nginx.conf"), config.text(port)).expect("it can be written");
        // By its path, for it starts that anew in a binary upgrade.
        let program = config.build.program();
        let mut words = config.launcher.iter().cloned().chain([program.into()]);
        let mut command = clean(words.next().expect("the program at least"));
        command.args(words);
        command.arg("-p").arg(&self.0).arg("-c").arg(self.file("nginx.conf"));
        command.arg("-e").arg(self.file("error.log"));
        for (name, value) in &config.environment {
            command.env(name, value);
        }
        command
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
