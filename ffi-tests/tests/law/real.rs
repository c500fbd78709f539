//! Debian's programs with the shared LuaJIT, under `ebbtide run` with default options; and its nginx
//! with the module.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ebbtide_ffi_tests::{clean, finish, installed, scratch};
use ebbtide_runtimes::repository;

use crate::course::{Course, Sample};
use crate::driven::{Load, Port, Run, Way, drive};
use crate::nginx::{NGINX, module};
use crate::ports::free_port;
use crate::side_by_side::side_by_side;
use crate::{TRIES_ALONE, alone, breach};

/// The programs of this test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Neovim,
    Recursor,
    Dnsdist,
    KnotResolver,
    Minetest,
    Nginx,
    /// The same nginx, which loads ebbtide as a module of its own.
    NginxModule,
    Lupa,
    Wrk,
}
use Program::{Dnsdist, KnotResolver, Lupa, Minetest, Neovim, Nginx, NginxModule, Recursor, Wrk};

/// Those of the long tests.
const QUICK: [Program; 7] = [Neovim, Recursor, Dnsdist, KnotResolver, Nginx, NginxModule, Wrk];
/// Those of the full tests besides: a world to build, and a package from PyPI.
const OTHERS: [Program; 2] = [Minetest, Lupa];

/// Where a run finds its files and its ports.
struct Place {
    folder: PathBuf,
    port: Port,
}

impl Place {
    /// A folder with nothing in it.
    fn new(program: Program) -> Place {
        let folder = scratch("law-real").join(format!("{program:?}"));
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("a folder of an earlier run");
        }
        fs::create_dir_all(&folder).expect("a folder");
        Place { folder, port: Port::new(program.way()) }
    }

    fn path(&self, name: &str) -> String {
        text(&self.folder.join(name))
    }

    /// Writes a file into the folder, and returns its path.
    fn file(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        fs::create_dir_all(Path::new(&path).parent().expect("a folder")).expect("a folder");
        fs::write(&path, content).expect("a file");
        path
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("paths here are UTF-8").to_owned()
}

/// A file of the repository's for these programs.
fn material(name: &str) -> String {
    text(&repository().join("ffi-tests/real").join(name))
}

impl Program {
    fn way(self) -> Way {
        match self {
            Recursor | Dnsdist | KnotResolver => Way::Dns,
            Nginx | NginxModule => Way::Http,
            Neovim | Minetest | Lupa => Way::Lines,
            Wrk => Way::Bodies,
        }
    }

    fn file(self) -> PathBuf {
        let file = match self {
            Neovim => "/usr/bin/nvim",
            Recursor => "/usr/sbin/pdns_recursor",
            Dnsdist => "/usr/bin/dnsdist",
            KnotResolver => "/usr/sbin/kresd",
            // The one in /usr/games is a script.
            Minetest => "/usr/lib/minetest/minetestserver",
            Nginx | NginxModule => NGINX,
            Lupa => return lupa(),
            Wrk => "/usr/bin/wrk",
        };
        file.into()
    }

    /// What setup should have installed and has not, in words.
    fn missing(self) -> Option<String> {
        let is_nginx = matches!(self, Nginx | NginxModule);
        let lua = is_nginx.then(|| "/usr/lib/nginx/modules/ngx_http_lua_module.so".into());
        let mut files = [Some(self.file()), lua].into_iter().flatten();
        let file: PathBuf = files.find(|file| !file.exists())?;
        let file = file.display();
        Some(format!("{file} is missing: install it (ffi-tests/setup.sh does, where it may)"))
    }

    fn arguments(self, place: &Place, with_ebbtide: bool) -> Vec<String> {
        let line = match self {
            Neovim => format!("--headless -n -u NONE -i NONE -S {}", material("neovim.lua")),
            Recursor => {
                let folder = place.folder.display();
                let (port, script) = (place.port.number, material("recursor.lua"));
                format!(
                    "--config-dir={folder} --socket-dir={folder} --daemon=no --threads=1 \
                     --local-address=127.0.0.1 --local-port={port} --lua-dns-script={script} \
                     --hint-file=no --security-poll-suffix= --setuid= --setgid="
                )
            }
            Dnsdist => format!("--supervised --disable-syslog -C {}", material("dnsdist.lua")),
            KnotResolver => {
                format!("-n -c {} {}", material("kresd.lua"), place.folder.display())
            }
            Minetest => self.minetest(place),
            Nginx | NginxModule => {
                let template = fs::read_to_string(material("nginx.conf")).expect("the template");
                let mut config = template.replace("PORT", &place.port.number.to_string());
                if self == NginxModule && with_ebbtide {
                    config.insert_str(0, &format!("load_module {};\n", text(module())));
                }
                format!("-p {} -c {}", place.folder.display(), place.file("nginx.conf", &config))
            }
            Lupa => material("python.py"),
            Wrk => {
                let (script, port) = (material("wrk.lua"), place.port.number);
                format!("-t1 -c1 -d1h --timeout 2m -s {script} http://127.0.0.1:{port}/")
            }
        };
        line.split_whitespace().map(str::to_owned).collect()
    }

    /// A world without land in the game of the repository's.
    fn minetest(self, place: &Place) -> String {
        let config = "secure.enable_security = false\nbind_address = 127.0.0.1\n\
                      mg_name = singlenode\nserver_announce = false\n";
        let config = place.file("minetest.conf", config);
        place.file("world/world.mt", "gameid = law\nbackend = dummy\n");
        let (world, port) = (place.path("world"), free_port());
        format!("--config {config} --world {world} --gameid law --port {port}")
    }

    /// The program in a place, without ebbtide or with.
    fn command(self, place: &Place, with_ebbtide: bool) -> Command {
        let mut command = if with_ebbtide && self != NginxModule {
            let mut command = clean(installed().lib().join("../bin/ebbtide"));
            command.arg("run").arg(self.file());
            command
        } else {
            clean(self.file())
        };
        if with_ebbtide {
            command.env("LAW_EBBTIDE", "1");
        }
        let modules = installed().lib().join("lua/5.1/?.so");
        command
            .args(self.arguments(place, with_ebbtide))
            .current_dir(&place.folder)
            .env("HOME", &place.folder)
            .env("MINETEST_SUBGAME_PATH", material("games"))
            .env("LAW_WORK", material("work.lua"))
            .env("LAW_PORT", place.port.number.to_string())
            .env("LUA_PATH", format!("{};;", repository().join("lua/?.lua").display()))
            .env("LUA_CPATH", format!("{};;", modules.display()));
        command
    }

    fn run(self, load: Load, with_ebbtide: bool) -> Run {
        let place = Place::new(self);
        let log = place.folder.join("log");
        drive(&mut self.command(&place, with_ebbtide), &place.port, load, &log)
    }
}

/// A Python with lupa from PyPI, which brings LuaJIT 2.1 in a module.
fn lupa() -> PathBuf {
    let folder = scratch("lupa");
    let interpreter = folder.join("bin/python3");
    let has_lupa = || {
        let output = clean(&interpreter).args(["-c", "import lupa.luajit21"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !has_lupa() {
        finish(clean("python3").args(["-m", "venv", "--clear"]).arg(&folder));
        let pip = ["-m", "pip", "install", "--quiet", "--only-binary", ":all:", "lupa==2.8"];
        finish(clean(&interpreter).args(pip));
        assert!(has_lupa(), "lupa without its LuaJIT module");
    }
    interpreter
}

/// What a run held, in words: MB at the end of the load, 2 s, 6 s and 60 s after, and from the end
/// of the collection on.
fn row(run: &Run, load: Load) -> String {
    let (idle_s, rest_s) = (run.pss.start_of("idle"), run.pss.start_of("rest"));
    let after = [0_u32, 2, 6, 60].into_iter().filter(|s| u64::from(*s) <= load.idle.as_secs());
    let idle: String = after
        .map(|s| format!("  {s} s {:.1}", run.pss.mb_at(idle_s + f64::from(s) - 0.05)))
        .collect();
    format!(
        "peak {:.1} (Rss {:.1}); after the load{idle}; collected {:.1}  2 s {:.1}; reclaimed {:.1}",
        run.pss.most_mb(),
        run.rss.most_mb(),
        run.pss.mb_at(rest_s),
        run.pss.mb_at(rest_s + 2.0),
        run.pss.mb_at(run.pss.start_of("end"))
    )
}

/// What a program held too much beside stock, in words.
fn breaches(ours: &Run, stock: &Run, below_stock: bool) -> Option<String> {
    let figures = [("Pss", &ours.pss, &stock.pss), ("Rss", &ours.rss, &stock.rss)];
    let breach = figures.into_iter().find_map(|(name, ours, stock)| {
        breach(ours, stock).map(|breach| format!("{name}: {breach}"))
    });
    if breach.is_some() || !below_stock {
        return breach;
    }
    // At the end of the idle time. Not Pss, which falls by some MB while any other process on the
    // machine has the same files mapped.
    let held_mb = |run: &Run| run.rss.mb_at(run.rss.start_of("collect") - 0.05);
    let (ours_mb, stock_mb) = (held_mb(ours), held_mb(stock));
    (ours_mb >= stock_mb)
        .then(|| format!("Rss: {ours_mb:.1} MB after a minute, stock {stock_mb:.1} MB"))
}

/// Runs a program on stock LuaJIT and with ebbtide. What it held too much.
fn breach_of(program: Program, load: Load, below_stock: bool) -> Option<String> {
    let (stock, ours) = (program.run(load, false), program.run(load, true));
    println!("{program:?}, MB (Pss)\n  stock   {}", row(&stock, load));
    println!("  ebbtide {}", row(&ours, load));
    assert!(stock.pss.most_mb() > LOAD_MB, "{program:?}: no load is seen");
    let breach = breaches(&ours, &stock, below_stock)?;
    println!("  BREACH: {breach}");
    Some(breach)
}

/// Holds a program that has broken the law to it again. What each try held too much, if all did.
fn breaks_it_again(
    program: Program,
    load: Load,
    below_stock: bool,
    breach: String,
) -> Option<String> {
    let mut said = vec![breach];
    for _ in 0..TRIES_ALONE {
        said.push(breach_of(program, load, below_stock)?);
    }
    Some(format!("{program:?}: {}", said.join("; ")))
}

/// Holds programs to the law.
fn all_keep(programs: &[Program], load: Load, below_stock: bool) {
    let _alone = alone();
    let missing: Vec<String> = programs.iter().filter_map(|program| program.missing()).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    let first = side_by_side(programs, AT_ONCE, |program| breach_of(*program, load, below_stock));
    let again = |(program, breach): (&Program, Option<String>)| {
        breaks_it_again(*program, load, below_stock, breach?)
    };
    let breaches: Vec<String> = programs.iter().zip(first).filter_map(again).collect();
    assert!(breaches.is_empty(), "{breaches:#?}");
}

/// Programs wait for most of the time, so some of them run at once. Pss is some MB lower then, for
/// they share libraries; Rss is not.
const AT_ONCE: usize = 3;
/// A load holds more.
const LOAD_MB: f64 = 60.0;

const fn load(idle_s: u64) -> Load {
    Load { commands: 2000, idle: Duration::from_secs(idle_s) }
}

#[test]
fn within_the_law_is_not_yet_below_stock() {
    let run = |mb| {
        let phases = [(0.0, "collect"), (4.0, "rest"), (8.0, "end")];
        let course = Course {
            phases: phases.map(|(at_s, name)| (at_s, name.to_owned())).to_vec(),
            samples: [0.0, 8.0].map(|at_s| Sample { at_s, mb }).to_vec(),
        };
        Run { pss: course.clone(), rss: course }
    };
    assert_eq!(breaches(&run(104.0), &run(100.0), false), None);
    assert!(breaches(&run(104.0), &run(100.0), true).is_some());
    assert_eq!(breaches(&run(96.0), &run(100.0), true), None);
    assert!(breaches(&run(116.0), &run(100.0), false).is_some());
}

mod long {
    use super::*;

    #[test]
    #[ignore = "takes a minute"]
    fn real_programs() {
        all_keep(&QUICK, load(3), false);
    }
}

mod full {
    use super::*;

    #[test]
    #[ignore = "takes longer"]
    fn all_real_programs() {
        all_keep(&[&QUICK[..], &OTHERS].concat(), load(6), false);
    }

    /// Minetest's game makes little garbage when idle. One that makes 0.16 MB in a second holds
    /// 10 MB of garbage more after the minute, as long as LuaJIT's collector waits.
    #[test]
    #[ignore = "takes longer"]
    fn real_programs_a_minute_after_the_load() {
        all_keep(&[Dnsdist, Minetest], load(60), true);
    }
}
