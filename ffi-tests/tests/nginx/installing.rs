//! `make install-nginx` and `make uninstall-nginx` on a system that keeps `load_module` lines in files
//! of their own, as Debian does.

use std::fs;
use std::path::{Path, PathBuf};

use ebbtide_ffi_tests::{PREFIX, clean, make, scratch, text_of};
use ebbtide_runtimes::repository;

use crate::config::{Config, Folder, Modules, modules_path};
use crate::ports::free_port;
use crate::server::{Nginx, beside, module, text};

/// Folders of a system, empty but for the lines that load Debian's Lua modules.
struct System {
    root: PathBuf,
}

impl System {
    fn new(name: &str) -> System {
        // Built before this, or it would be built twice at once.
        module();
        let root = scratch(name);
        fs::remove_dir_all(&root).expect("the folder was just made");
        let system = System { root };
        for folder in [system.enabled(), system.available(), system.modules()] {
            fs::create_dir_all(folder).expect("it can be written");
        }
        let lines = [("10-mod-http-ndk", "ndk_http"), ("50-mod-http-lua", "ngx_http_lua")];
        for (file, module) in lines {
            let module = modules_path().join(format!("{module}_module.so"));
            let line = format!("load_module {};\n", module.display());
            let file = system.enabled().join(file).with_extension("conf");
            fs::write(file, line).expect("it can be written");
        }
        system
    }

    fn enabled(&self) -> PathBuf {
        self.root.join("etc/nginx/modules-enabled")
    }

    fn available(&self) -> PathBuf {
        self.root.join("usr/share/nginx/modules-available")
    }

    fn modules(&self) -> PathBuf {
        self.root.join("usr/lib/nginx/modules")
    }

    /// Runs `make` for this system itself, not for a copy of it below `DESTDIR`.
    fn make(&self, target: &str, further: &[&str]) {
        let variable = |name: &str, folder: &Path| format!("{name}={}", folder.display());
        let variables = [
            variable("NGINX_ENABLED", &self.enabled()),
            variable("NGINX_AVAILABLE", &self.available()),
            variable("NGINX_MODULES", &self.modules()),
        ];
        // make hands its own variables on in the environment.
        let mut words = vec![target];
        words.extend(variables.iter().map(String::as_str));
        words.extend(further);
        make(&words, Path::new(""), PREFIX);
    }

    /// A configuration that includes the lines.
    fn config(&self) -> Config {
        let include = format!("include {}/*.conf;", self.enabled().display());
        Config::new(Modules::Included).workers(1).top(&include)
    }

    fn files(&self) -> Vec<String> {
        let mut find = clean("find");
        let found = text_of(find.arg(&self.root).args(["!", "-type", "d", "-printf", "%P\n"]));
        let mut files: Vec<String> = found.lines().map(str::to_owned).collect();
        files.sort();
        files
    }
}

#[test]
fn installing_leaves_a_line_that_works_and_uninstalling_takes_it_away() {
    let _beside = beside();
    let system = System::new("nginx-installing");
    let before = system.files();
    for _ in 0..2 {
        system.make("install-nginx", &[]);
        let nginx = Nginx::start(&system.config());
        assert!(nginx.log().contains("the Lua VM was made on a heap"), "{}", nginx.log());
        assert!(nginx.get("/light").starts_with("row 20"));
        assert!(nginx.get("/status?format=json").contains("\"workers\":["));
        assert_eq!(nginx.errors(), Vec::<String>::new());
    }
    system.make("uninstall-nginx", &[]);
    assert_eq!(system.files(), before);
    let refused = Folder::new().nginx(&system.config(), free_port()).output();
    let said = text(&refused.expect("nginx can be run"));
    assert!(said.contains("unknown directive \"ebbtide_status\""), "{said}");
}

/// One who has written the line into nginx.conf gets no second one, which nginx would refuse.
#[test]
fn a_line_in_nginx_conf_is_enough() {
    let _beside = beside();
    let system = System::new("nginx-installing-by-hand");
    let before = system.files().len();
    let line = format!("load_module {}/ngx_http_ebbtide_module.so;", system.modules().display());
    let conf = system.root.join("etc/nginx/nginx.conf");
    fs::write(&conf, format!("user nobody;\n  {line}\n")).expect("it can be written");
    system.make("install-nginx", &[&format!("NGINX_CONF={}", conf.display())]);
    // The configuration and the module.
    assert_eq!(system.files().len(), before + 2);
    let nginx = Nginx::start(&system.config().top(&line));
    assert!(nginx.get("/light").starts_with("row 20"));
}

/// The first block of nginx/README.md, in the nginx.conf of a Debian.
#[test]
fn what_the_readme_shows_first_works() {
    let _beside = beside();
    let system = System::new("nginx-installing-readme");
    system.make("install-nginx", &[]);
    let readme = fs::read_to_string(repository().join("nginx/README.md")).expect("it is there");
    let block = readme.split("```nginx\n").nth(1).and_then(|rest| rest.split("```").next());
    let block = block.expect("nginx/README.md has a block of configuration");
    // Only where the server listens, and what it does beside, is the test's.
    let config = system.config().lua("lua", "ngx.say('here')");
    let ours = format!("location /ebbtide {{{}", between(block, "location /ebbtide {", "}"));
    let nginx =
        Nginx::start(&Config { server: format!("{}\n{ours}}}\n", config.server), ..config });
    assert_eq!(nginx.get("/lua"), "here\n");
    assert!(nginx.get("/ebbtide?format=json").contains("\"workers\":[{"));
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let rest = text.split_once(start).expect("it begins").1;
    rest.split_once(end).expect("it ends").0
}

#[test]
fn a_package_has_the_line_below_destdir() {
    let _beside = beside();
    module();
    let root = scratch("nginx-installing-package");
    fs::remove_dir_all(&root).expect("the folder was just made");
    fs::create_dir_all(root.join("etc/nginx/modules-enabled")).expect("it can be written");
    let variables = [
        "NGINX_ENABLED=/etc/nginx/modules-enabled",
        "NGINX_AVAILABLE=/usr/share/nginx/modules-available",
        "NGINX_MODULES=/usr/lib/nginx/modules",
    ];
    make(&[&["install-nginx"], &variables[..]].concat(), &root, PREFIX);
    let link = root.join("etc/nginx/modules-enabled/40-mod-http-ebbtide.conf");
    assert!(link.is_symlink());
    let line = fs::read_to_string(link).expect("the link leads to the line");
    assert_eq!(line, "load_module /usr/lib/nginx/modules/ngx_http_ebbtide_module.so;\n");
    make(&[&["uninstall-nginx"], &variables[..]].concat(), &root, PREFIX);
    let left = text_of(clean("find").arg(&root).args(["!", "-type", "d"]));
    assert_eq!(left, "");
}
