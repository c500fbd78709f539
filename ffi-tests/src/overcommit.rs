//! Strict overcommit for a moment: a setting of the whole machine.

use std::fs;
use std::io;
use std::path::PathBuf;

/// More than any machine has: nothing is refused while mappings are charged.
const LIMIT_KIB: u64 = 1 << 50;

fn file(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys/vm").join(format!("overcommit_{name}"))
}

fn read(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(file(name))?.trim().to_owned())
}

/// The kernel charges every writable mapping that is made from now on, and refuses none. Dropped,
/// the machine is set as before.
pub struct StrictOvercommit {
    memory: String,
    ratio: String,
    kbytes: String,
}

impl StrictOvercommit {
    /// `None`: the machine does not allow it.
    pub fn new() -> Option<StrictOvercommit> {
        let [memory, ratio, kbytes] = ["memory", "ratio", "kbytes"].map(|name| read(name).ok());
        let before = StrictOvercommit { memory: memory?, ratio: ratio?, kbytes: kbytes? };
        fs::write(file("kbytes"), LIMIT_KIB.to_string()).ok()?;
        // Dropped here if that fails.
        fs::write(file("memory"), "2").ok().map(|()| before)
    }
}

impl Drop for StrictOvercommit {
    fn drop(&mut self) {
        // Of the last two the kernel sets one to 0 when the other is written.
        let limit = match self.ratio.as_str() {
            "0" => ("kbytes", &self.kbytes),
            _ => ("ratio", &self.ratio),
        };
        for (name, value) in [("memory", &self.memory), limit] {
            fs::write(file(name), value).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}
