//! A share of a processor for a program: a control group of the machine's.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::clean;

/// A program may run for this time in each period, and stands still for the rest of it.
const QUOTA_US: u32 = 10_000;
const PERIOD_US: u32 = 50_000;

/// A control group with a quota, removed in the end.
pub struct Quota(PathBuf);

impl Quota {
    /// For a program of this name. `None`: the machine does not allow it.
    pub fn new(name: &str) -> Option<Quota> {
        let (v2, v1) = (Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup/cpu"));
        let period = PERIOD_US.to_string();
        let limit = format!("{QUOTA_US} {PERIOD_US}");
        let quota = QUOTA_US.to_string();
        let made = Quota::below(v2, name, &[("cpu.max", &limit)]);
        made.or_else(|| {
            Quota::below(v1, name, &[("cpu.cfs_period_us", &period), ("cpu.cfs_quota_us", &quota)])
        })
    }

    fn below(root: &Path, name: &str, files: &[(&str, &str)]) -> Option<Quota> {
        let folder = root.join(format!("ebbtide-{name}-{}", std::process::id()));
        fs::create_dir(&folder).ok()?;
        let quota = Quota(folder);
        let is_set = files.iter().all(|(name, value)| {
            let file = quota.0.join(name);
            // In a folder that is none of the kernel's no such file is to be made.
            file.exists() && fs::write(file, value).is_ok()
        });
        is_set.then_some(quota)
    }

    /// Whether processes of the test may enter the group.
    pub fn lets_in(&self) -> bool {
        let status = self.command(Path::new("true")).status();
        status.is_ok_and(|status| status.success())
    }

    /// A command that runs a program in the group, and fails where that cannot be.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = clean("sh");
        let mut script = OsString::from("echo $$ > ");
        script.push(self.0.join("cgroup.procs"));
        script.push(" && exec \"$0\"");
        command.arg("-c").arg(script).arg(program);
        command
    }

    /// In how many periods the program had used up its time.
    pub fn stops(&self) -> u64 {
        let text = fs::read_to_string(self.0.join("cpu.stat")).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        count.and_then(|count| count.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
