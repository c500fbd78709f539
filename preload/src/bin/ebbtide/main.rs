//! The command `ebbtide`: runs a program with the preload library.
//!
//! | module      | knows                                              |
//! |-------------|----------------------------------------------------|
//! | `nearest`   | what a wrong name may have meant, as the library   |
//! | `options`   | the options of the library as flags                |
//! | `arguments` | what the command is to do                          |
//! | `preload`   | where the preload library is                       |
//! | `elf`       | a program or library, read from its file           |
//! | `libraries` | where the loader finds a program's libraries       |
//! | `inspect`   | why a program cannot be taken over                 |

mod arguments;
mod elf;
mod inspect;
mod libraries;
#[path = "../../../../src/options/nearest.rs"]
mod nearest;
mod options;
mod preload;
#[path = "../../report_signal.rs"]
mod report_signal;
#[path = "../../switch.rs"]
mod switch;

use std::convert::Infallible;
use std::io::{ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use arguments::{Run, Task};

/// The command itself failed; these are the exit codes of env(1).
const FAILED: u8 = 125;
/// The program is there and cannot be run.
const CANNOT_RUN: u8 = 126;
/// There is no such program.
const NOT_FOUND: u8 = 127;

/// Why a program does not run: an exit code, and one line.
struct Failure(u8, String);

impl From<String> for Failure {
    fn from(why: String) -> Failure {
        Failure(FAILED, why)
    }
}

fn main() -> ExitCode {
    let done = match arguments::read(std::env::args_os().skip(1)) {
        Ok(Task::Help) => print(&help()),
        Ok(Task::Version) => print(concat!("ebbtide ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Task::Run(task)) => run(task).map(|never| match never {}),
        Err(why) => Err(Failure::from(why)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(code, why)) => {
            // Nobody is left to be told if this fails.
            let _ = writeln!(std::io::stderr(), "ebbtide: {why}");
            ExitCode::from(code)
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::from(format!("cannot write: {error}")))
}

/// Becomes the program.
fn run(task: Run) -> Result<Infallible, Failure> {
    let own = std::env::current_exe().map_err(|e| format!("cannot find itself: {e}"))?;
    options::check_environment()?;
    let libraries = preload::find(std::env::var_os("EBBTIDE_PRELOAD"), &own)?;
    options::set(&task.options, &libraries.heap)?;
    let before = std::env::var_os("LD_PRELOAD");
    let (name, arguments) = task.command.split_first().ok_or("run: no command".to_owned())?;
    let mut command = Command::new(name);
    command.args(arguments).env("LD_PRELOAD", preload::variable(&libraries.preload, before)?);
    // The program keeps this process's number; one that it starts has another.
    command.env("_EBBTIDE_RUN", std::process::id().to_string());
    if task.report || task.report_signal.is_some() {
        command.env("EBBTIDE_REPORT", "1");
    }
    if let Some(signal) = task.report_signal {
        command.env("EBBTIDE_REPORT_SIGNAL", signal);
    }
    if task.verbose {
        command.env("EBBTIDE_VERBOSE", "1");
    }
    for obstacle in inspect::obstacles(&task.command) {
        // Whether anybody reads it does not matter: the program runs.
        let _ = writeln!(std::io::stderr(), "ebbtide: {obstacle}");
    }
    let error = command.exec();
    let name = name.to_string_lossy();
    Err(match error.kind() {
        ErrorKind::NotFound => Failure(NOT_FOUND, format!("{name}: no such program")),
        _ => Failure(CANNOT_RUN, format!("{name}: cannot be run: {error}")),
    })
}

fn help() -> String {
    let options = options::help();
    format!(
        "\
ebbtide gives the memory of LuaJIT programs back to the system.

Usage: ebbtide run [OPTIONS] [--] COMMAND [ARGUMENTS]
       ebbtide --help | --version

Runs COMMAND and gives each VM that COMMAND makes through a shared LuaJIT
(libluajit-5.1.so) a heap of its own. The heap gives back free memory while the
program works and while it waits. Programs without LuaJIT run as before. Where
preloading cannot work, or LuaJIT is linked into the program itself, as in the
luajit command of many systems, one line says so, and the program runs.

Options:
  --report                 a line on standard error for each VM: what the VM held
                           and gave back, when it is closed, when the program
                           ends, and on SIGTERM
  --report-signal SIGNAL   the same lines whenever the program gets this signal:
                           HUP, USR1, USR2, URG or WINCH, or 34 to 64
  --verbose                a line on standard error says which VMs were taken
                           over, or why none was

Options of the heaps, with their defaults; k, m, g and t behind a SIZE are
powers of 1024:
{options}
Each of these can be set in the environment too: --decay-ms is EBBTIDE_DECAY_MS.
EBBTIDE_PRELOAD names the file libebbtide_preload.so if ebbtide does not find it;
libebbtide.so is loaded from the same folder.

Exit status: that of COMMAND; 125 when ebbtide itself fails, 126 when COMMAND
cannot be run, 127 when there is no COMMAND of this name.

Examples:
  ebbtide run --report ./service
  ebbtide run --decay-ms 500 --limit-soft cgroup -- ./service --port 8080
"
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_has_the_version_of_the_library() {
        let manifest = include_str!("../../../../Cargo.toml");
        let line = format!("version = \"{}\"", env!("CARGO_PKG_VERSION"));
        assert_eq!(manifest.lines().find(|line| line.starts_with("version")), Some(line.as_str()));
    }
}
