//! What results name so that others know where they are from.
#![forbid(unsafe_code)]

/// The processor, its cores, and the kernel.
pub fn machine() -> String {
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown CPU", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

/// The command by which one of the binaries was run, without where its results go.
pub fn command(binary: &str) -> String {
    shown(binary, std::env::args().skip(1))
}

fn shown(binary: &str, mut args: impl Iterator<Item = String>) -> String {
    let mut text = format!("cargo run --release -p ebbtide-programs --bin {binary}");
    let mut separator = " --";
    while let Some(arg) = args.next() {
        if ["--json", "--markdown"].contains(&arg.as_str()) {
            args.next();
            continue;
        }
        text.push_str(separator);
        text.push(' ');
        text.push_str(&arg);
        separator = "";
    }
    text
}

/// The memory that programs may still take.
pub fn available_bytes() -> Option<u64> {
    available(&read("/proc/meminfo"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_bytes() {
        let text = "MemTotal:  24 kB\nMemAvailable:       12 kB\n";
        assert_eq!(available(text), Some(12 * 1024));
        assert_eq!(available("MemTotal: 24 kB\n"), None);
    }

    #[test]
    fn commands_do_not_say_where_results_go() {
        let shown = |line: &str| shown("scale", line.split_whitespace().map(str::to_owned));
        let plain = "cargo run --release -p ebbtide-programs --bin scale";
        assert_eq!(shown("--json a/b --markdown c"), plain);
        assert_eq!(shown("--quick --json a --check"), format!("{plain} -- --quick --check"));
    }

    #[test]
    fn this_machine_has_a_name() {
        assert!(machine().contains("cores, Linux"));
    }
}
