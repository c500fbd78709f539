//! The memory limits of the cgroup that the process is in.
//!
//! A cgroup lies in others, and each of them may have a limit: all of them are read, from the
//! process's own up to the root. In a container whose mount shows only its own part, or with a
//! path that starts outside of a cgroup namespace, directories on that way are not to be found.
//! They are passed over; the root that is mounted there is the container's own cgroup.
//!
//! The kernel ends every line with a newline, so one that has none was cut off. That and whatever
//! else does not look as the kernel writes it counts as absent: no limit rather than a wrong one.

#![forbid(unsafe_code)]

use core::ffi::CStr;
use core::{iter, str};

use crate::os::Os;

/// What the cgroups of this process allow and use, in bytes: those of the one that leaves the least
/// room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CgroupMemory {
    pub(crate) limit: u64,
    /// Without the page cache that the kernel drops before it lets a process die.
    pub(crate) used: u64,
}

/// `None`: there is no limit, or no cgroup can be read.
pub(crate) fn memory(os: &impl Os) -> Option<CgroupMemory> {
    let mut text = [0; TEXT_BYTES];
    let length = os.read_file(c"/proc/self/cgroup", &mut text)?;
    let (version, path) = own_cgroup(text.get(..length)?)?;
    let levels = way_up(path).filter_map(|path| Cgroup { os, version, path }.memory());
    levels.min_by_key(|memory| memory.limit.saturating_sub(memory.used))
}

/// How a version of cgroups shows them.
struct Version {
    /// As /proc/self/cgroup lists it: v2 is the line without any.
    controller: &'static str,
    root: &'static str,
    /// The lowest counts: above memory.high, processes stand still while the kernel reclaims.
    limits: &'static [&'static str],
    usage: &'static str,
    /// The line of memory.stat with the page cache that goes first. Where v1 has two, the one that
    /// counts a cgroup's children as well, as the usage does.
    cache: &'static str,
}

const V1: Version = Version {
    controller: "memory",
    root: "/sys/fs/cgroup/memory",
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    cache: "total_inactive_file",
};

const V2: Version = Version {
    controller: "",
    root: "/sys/fs/cgroup",
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    cache: "inactive_file",
};

/// A limit from here on is none: v1 has no word for that, but a number near 2^63.
const NO_LIMIT: u64 = 1 << 60;
/// Most directories that are looked at: the nearest, and the root.
const LEVELS_MAX: usize = 16;
/// Room for the path of a file, its end included. Where it does not suffice, no file is found.
const PATH_BYTES: usize = 512;
/// Room for a file of several lines; the end of a longer one is not looked at.
const TEXT_BYTES: usize = 4096;
/// Room for a file of one number: any of 64 bits has at most 20 digits.
const NUMBER_BYTES: usize = 32;

/// Where this process's memory is accounted. Hosts with both versions list both, but each
/// controller belongs to one: v1 has it where its line names it.
fn own_cgroup(text: &[u8]) -> Option<(&'static Version, &[u8])> {
    [&V1, &V2].into_iter().find_map(|version| {
        let path = lines(text).find_map(|line| version.path(line))?;
        Some((version, path))
    })
}

impl Version {
    /// The path in a line of /proc/self/cgroup that lists this version's controller. It may hold
    /// colons of its own.
    fn path<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        let mut fields = line.splitn(3, |byte| *byte == b':');
        let mut controllers = fields.nth(1)?.split(|byte| *byte == b',');
        let listed = controllers.any(|name| name == self.controller.as_bytes());
        fields.next().filter(|path| listed && path.starts_with(b"/"))
    }
}

/// A cgroup's path and those of the ones that it lies in, up to the root's, which is empty.
fn way_up(own: &[u8]) -> impl Iterator<Item = &[u8]> {
    let own = own.strip_suffix(b"/").unwrap_or(own);
    iter::successors(Some(own), |path| path.rsplitn(2, |byte| *byte == b'/').nth(1))
        .enumerate()
        .filter(|(level, path)| level + 1 < LEVELS_MAX || path.is_empty())
        .map(|(_, path)| path)
}

/// One directory of the hierarchy.
struct Cgroup<'a, S> {
    os: &'a S,
    version: &'static Version,
    /// From the root, which has an empty one.
    path: &'a [u8],
}

impl<S: Os> Cgroup<'_, S> {
    fn memory(&self) -> Option<CgroupMemory> {
        let limits = self.version.limits.iter().filter_map(|file| self.number(file));
        let limit = limits.min().filter(|limit| *limit < NO_LIMIT)?;
        let usage = self.number(self.version.usage)?;
        Some(CgroupMemory { limit, used: usage.saturating_sub(self.cache().unwrap_or(0)) })
    }

    fn cache(&self) -> Option<u64> {
        let mut text = [0; TEXT_BYTES];
        let value = |line: &[u8]| {
            number(line.strip_prefix(self.version.cache.as_bytes())?.strip_prefix(b" ")?)
        };
        lines(self.read("memory.stat", &mut text)?).find_map(value)
    }

    /// The number that is all of a file.
    fn number(&self, file: &str) -> Option<u64> {
        let mut text = [0; NUMBER_BYTES];
        number(self.read(file, &mut text)?.strip_suffix(b"\n")?)
    }

    fn read<'b>(&self, file: &str, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let mut room = [0; PATH_BYTES];
        let parts = [self.version.root.as_bytes(), self.path, b"/", file.as_bytes(), b"\0"];
        let length = self.os.read_file(c_string(&mut room, &parts)?, buffer)?;
        buffer.get(..length)
    }
}

/// Puts a C string together, the zero at its end being a part as well. `None` where it does not
/// fit, or has another zero.
fn c_string<'a>(room: &'a mut [u8], parts: &[&[u8]]) -> Option<&'a CStr> {
    let mut length = 0;
    for part in parts {
        room.get_mut(length..length + part.len())?.copy_from_slice(part);
        length += part.len();
    }
    CStr::from_bytes_with_nul(room.get(..length)?).ok()
}

/// The lines of a text that were not cut off.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"))
}

/// A number as the kernel writes it: nothing but digits.
fn number(text: &[u8]) -> Option<u64> {
    // A plus sign is all else that `parse` would take.
    let digits = str::from_utf8(text).ok().filter(|text| !text.starts_with('+'))?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests;
