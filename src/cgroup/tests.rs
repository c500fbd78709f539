//! Limits and usage of cgroups of both versions, and files of which nothing can be read.

use super::*;
use crate::os::fake::FakeOs;
use proptest::prelude::*;
use std::ffi::CString;

const OWN: &str = "/proc/self/cgroup";

fn put(os: &FakeOs, path: &str, text: &[u8]) {
    os.state().files.insert(CString::new(path).expect("a path"), text.to_vec());
}

/// These files, and where the memory is limited in them.
fn memory_in(files: &[(&str, &str)]) -> Option<(u64, u64)> {
    let os = FakeOs::new(4096);
    for (path, text) in files {
        put(&os, path, text.as_bytes());
    }
    memory(&os).map(|memory| (memory.limit, memory.used))
}

/// The limit that counts, of v2 cgroups with these values of memory.max.
fn limit_in_v2(own: &str, limits: &[(&str, &str)]) -> Option<u64> {
    let os = FakeOs::new(4096);
    put(&os, OWN, format!("0::{own}\n").as_bytes());
    for (path, max) in limits {
        let file = |name: &str| format!("{}{path}/{name}", V2.root);
        put(&os, &file("memory.max"), max.as_bytes());
        put(&os, &file("memory.current"), b"100\n");
    }
    memory(&os).map(|memory| memory.limit)
}

#[test]
fn v2_is_read_where_the_process_is() {
    let files = [
        (OWN, "0::/user.slice/app.scope\n"),
        ("/sys/fs/cgroup/user.slice/app.scope/memory.max", "1000\n"),
        ("/sys/fs/cgroup/user.slice/app.scope/memory.high", "max\n"),
        ("/sys/fs/cgroup/user.slice/app.scope/memory.current", "300\n"),
    ];
    assert_eq!(memory_in(&files), Some((1000, 300)));
    assert_eq!(memory_in(&files[1..]), None);
}

#[test]
fn the_root_of_a_namespace_is_read() {
    let files = [
        (OWN, "0::/\n"),
        ("/sys/fs/cgroup/memory.max", "1000\n"),
        ("/sys/fs/cgroup/memory.current", "1300\n"),
    ];
    assert_eq!(memory_in(&files), Some((1000, 1300)));
}

#[test]
fn the_one_with_the_least_room_counts() {
    let pod = |used| {
        memory_in(&[
            (OWN, "0::/pod/app\n"),
            ("/sys/fs/cgroup/pod/app/memory.max", "1000\n"),
            ("/sys/fs/cgroup/pod/app/memory.current", "300\n"),
            ("/sys/fs/cgroup/pod/memory.max", "2000\n"),
            ("/sys/fs/cgroup/pod/memory.current", used),
        ])
    };
    assert_eq!(pod("1299\n"), Some((1000, 300)));
    assert_eq!(pod("1301\n"), Some((2000, 1301)));
    assert_eq!(pod("9999\n"), Some((2000, 9999)));
    assert_eq!(limit_in_v2("/a/b", &[("/a/b", "max\n"), ("/a", "max\n")]), None);
    assert_eq!(limit_in_v2("/a/b", &[("/a/b", "max\n"), ("/a", "500\n")]), Some(500));
    assert_eq!(limit_in_v2("/a/b", &[("/a/b", "700\n"), ("", "500\n")]), Some(500));
}

#[test]
fn the_lower_of_two_limits_counts() {
    for (max, high, limit) in [
        ("1000\n", "800\n", Some(800)),
        ("800\n", "1000\n", Some(800)),
        ("max\n", "800\n", Some(800)),
        ("800\n", "max\n", Some(800)),
        ("max\n", "max\n", None),
        ("0\n", "max\n", Some(0)),
    ] {
        let found = memory_in(&[
            (OWN, "0::/a\n"),
            ("/sys/fs/cgroup/a/memory.max", max),
            ("/sys/fs/cgroup/a/memory.high", high),
            ("/sys/fs/cgroup/a/memory.current", "9\n"),
        ]);
        assert_eq!(found, limit.map(|limit| (limit, 9)), "{max:?} {high:?}");
    }
}

#[test]
fn page_cache_that_goes_first_is_not_used_memory() {
    let used = |stat: &str| {
        memory_in(&[
            (OWN, "0::/\n"),
            ("/sys/fs/cgroup/memory.max", "1000\n"),
            ("/sys/fs/cgroup/memory.current", "300\n"),
            ("/sys/fs/cgroup/memory.stat", stat),
        ])
        .map(|(_, used)| used)
    };
    assert_eq!(used("anon 40\nactive_file 30\ninactive_file 120\nslab 7\n"), Some(180));
    assert_eq!(used("inactive_file 301\n"), Some(0));
    assert_eq!(used("total_inactive_file 120\ninactive_file_x 7\n"), Some(300));
    assert_eq!(used("inactive_file 120"), Some(300));
    assert_eq!(used("inactive_file\ninactive_file -1\n"), Some(300));
    assert_eq!(used(""), Some(300));
    // Cut off behind the first digit of the value, and right behind the line.
    let lines = |filler: usize| format!("{}\ninactive_file 120\n", "x".repeat(filler));
    assert_eq!(used(&lines(TEXT_BYTES - 16)), Some(300));
    assert_eq!(used(&lines(TEXT_BYTES - 19)), Some(180));
}

#[test]
fn v1_is_read_where_there_is_no_other() {
    let memory = |limit, parent_limit| {
        memory_in(&[
            (OWN, "9:name=systemd:/\n8:memory_x:/x\n4:cpu,memory,pids:/docker/app\n1:cpu:/\n"),
            ("/sys/fs/cgroup/memory/docker/app/memory.limit_in_bytes", limit),
            ("/sys/fs/cgroup/memory/docker/app/memory.usage_in_bytes", "300\n"),
            (
                "/sys/fs/cgroup/memory/docker/app/memory.stat",
                "cache 70\ninactive_file 1\ntotal_cache 80\ntotal_inactive_file 50\n",
            ),
            ("/sys/fs/cgroup/memory/docker/memory.limit_in_bytes", parent_limit),
            ("/sys/fs/cgroup/memory/docker/memory.usage_in_bytes", "400\n"),
        ])
    };
    let none = "9223372036854771712\n";
    assert_eq!(memory("1000\n", none), Some((1000, 250)));
    assert_eq!(memory("1000\n", "600\n"), Some((600, 400)));
    assert_eq!(memory("1152921504606846975\n", none), Some(((1 << 60) - 1, 250)));
    assert_eq!(memory("1152921504606846976\n", none), None);
}

#[test]
fn a_host_with_both_has_memory_where_v1_lists_it() {
    let memory = |own| {
        memory_in(&[
            (OWN, own),
            ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1000\n"),
            ("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "100\n"),
            ("/sys/fs/cgroup/b/memory.max", "2000\n"),
            ("/sys/fs/cgroup/b/memory.current", "200\n"),
        ])
    };
    assert_eq!(memory("0::/b\n4:memory:/a\n"), Some((1000, 100)));
    assert_eq!(memory("4:memory:/a\n0::/b\n"), Some((1000, 100)));
    assert_eq!(memory("4:pids:/a\n1:name=memory:/a\n0::/b\n"), Some((2000, 200)));
}

#[test]
fn a_mount_that_shows_only_the_container_is_read_at_its_root() {
    for own in ["/docker/abc", "/../abc", "/docker/abc (deleted)", "/a/", "//"] {
        assert_eq!(limit_in_v2(own, &[("", "1000\n")]), Some(1000), "{own}");
    }
    let files = [
        (OWN, "4:memory:/docker/abc\n"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1000\n"),
        ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "300\n"),
    ];
    assert_eq!(memory_in(&files), Some((1000, 300)));
}

#[test]
fn a_path_may_hold_anything() {
    for own in ["/a:b/c d:e", "/:", "/0::/x", "/memory", "/ä"] {
        assert_eq!(limit_in_v2(own, &[(own, "1000\n")]), Some(1000), "{own}");
    }
}

#[test]
fn each_level_is_looked_at_once() {
    let levels = |own| way_up(own).collect::<Vec<&[u8]>>();
    assert_eq!(levels(b"/a/b"), [b"/a/b".as_slice(), b"/a", b""]);
    assert_eq!(levels(b"/"), [b""]);
    assert_eq!(levels(&b"/x".repeat(40)).len(), LEVELS_MAX);
}

#[test]
fn of_a_deep_path_the_nearest_and_the_root_are_read() {
    let level = |depth| "/x".repeat(depth);
    let deep = level(40);
    let limit = |at: usize| limit_in_v2(&deep, &[(&level(at), "1000\n")]);
    assert_eq!(limit(40), Some(1000));
    assert_eq!(limit(26), Some(1000));
    assert_eq!(limit(25), None);
    assert_eq!(limit(1), None);
    assert_eq!(limit(0), Some(1000));
}

#[test]
fn of_a_long_path_those_are_read_that_fit() {
    let rest = "/sys/fs/cgroup".len() + "/memory.current".len() + 1;
    let fits = format!("/{}", "x".repeat(PATH_BYTES - rest - 1));
    assert_eq!(limit_in_v2(&fits, &[(&fits, "1000\n")]), Some(1000));
    let long = format!("{fits}x");
    assert_eq!(limit_in_v2(&long, &[(&long, "500\n"), ("", "1000\n")]), Some(1000));
    let longer = format!("{fits}/{}", "x".repeat(1000));
    assert_eq!(limit_in_v2(&longer, &[(&longer, "500\n"), (&fits, "1000\n")]), Some(1000));
    // Its line is cut off, and what is left of it is another cgroup's name.
    let endless = format!("/{}", "x".repeat(TEXT_BYTES));
    assert_eq!(limit_in_v2(&endless, &[("", "1000\n")]), None);
}

#[rustfmt::skip]
const NO_NUMBERS: [&str; 21] = [
    "", "\n", "12", "12abc\n", "abc\n", " 12\n", "12 \n", "-12\n", "+12\n", "1.5\n", "12\n\n",
    "12\n34\n", "12\r\n", "0x12\n", "12\0\n", "1_000\n", "١٢\n", "Max\n",
    "18446744073709551616\n", "999999999999999999999999999999\n",
    // Longer than what is read of it.
    "00000000000000000000000000000000000000\n",
];

#[test]
fn a_number_that_is_malformed_is_absent() {
    for text in NO_NUMBERS {
        assert_eq!(limit_in_v2("/a", &[("/a", text)]), None, "{text:?}");
        assert_eq!(limit_in_v2("/a", &[("/a", text), ("", "1000\n")]), Some(1000), "{text:?}");
        let usage = [
            (OWN, "0::/\n"),
            ("/sys/fs/cgroup/memory.max", "1000\n"),
            ("/sys/fs/cgroup/memory.current", text),
        ];
        assert_eq!(memory_in(&usage), None, "{text:?}");
    }
}

#[test]
fn a_list_of_cgroups_that_is_malformed_is_absent() {
    let memory = |own| {
        memory_in(&[
            (OWN, own),
            ("/sys/fs/cgroup/memory.max", "1000\n"),
            ("/sys/fs/cgroup/memory.current", "100\n"),
        ])
    };
    for own in ["", "\n", "0\n", "0:/\n", ":\n", "::", "::\n", "0::\n", "0::a\n", "0::/"] {
        assert_eq!(memory(own), None, "{own:?}");
    }
    assert_eq!(memory("\n:\n4:pids:/a\n0::/\n4:memo"), Some((1000, 100)));
}

#[test]
fn a_zero_in_a_path_does_not_end_it() {
    assert_eq!(limit_in_v2("/a\0b", &[("/a", "500\n"), ("", "1000\n")]), Some(1000));
    assert_eq!(c_string(&mut [0; 8], &[b"a", b"/memory", b"\0"]), None);
    assert_eq!(c_string(&mut [0; 9], &[b"a", b"/memory", b"\0"]), Some(c"a/memory"));
}

/// A file for a number, and the number that it holds.
fn number_file() -> impl Strategy<Value = (Vec<u8>, Option<u64>)> {
    let some = |number: u64| (format!("{number}\n").into_bytes(), Some(number));
    let bytes = prop::collection::vec(any::<u8>(), 0..60);
    let is_none = |text: &Vec<u8>| text.iter().any(|byte| !byte.is_ascii_digit() && *byte != b'\n');
    prop_oneof![
        3 => (0..NO_LIMIT * 2).prop_map(some),
        1 => (0u64..1000).prop_map(some),
        1 => any::<u64>().prop_map(some),
        1 => Just((b"max\n".to_vec(), None)),
        1 => bytes.prop_filter("no number", is_none).prop_map(|text| (text, None)),
    ]
}

/// Bytes of a line, but none that ends it.
fn line() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>().prop_filter("a line", |byte| *byte != b'\n'), 0..200)
}

proptest! {
    /// The numbers that are some count, and nothing else does.
    #[test]
    fn whatever_the_files_hold_the_numbers_among_it_count(
        own in line(),
        version in 0usize..3,
        numbers in [(); 5].map(|()| number_file()),
        caches in [(); 2].map(|()| prop::option::of(0..NO_LIMIT)),
        other in line(),
    ) {
        let os = FakeOs::new(4096);
        let start: &[u8] = [b"7:pids:/".as_slice(), b"4:memory:/", b"0::/"][version];
        put(&os, OWN, &[start, &own, b"\n"].concat());
        let names = [V1.limits, V2.limits, &[V1.usage, V2.usage]].concat();
        let mut stat = [&other, b"\n".as_slice()].concat();
        for (name, cache) in [V1.cache, V2.cache].iter().zip(caches) {
            stat.extend(cache.iter().flat_map(|n| format!("{name} {n}\n").into_bytes()));
        }
        for root in [V1.root, V2.root] {
            for (name, (text, _)) in names.iter().zip(&numbers) {
                put(&os, &format!("{root}/{name}"), text);
            }
            put(&os, &format!("{root}/memory.stat"), &stat);
        }
        let [limit_v1, max, high, usage_v1, usage_v2] = numbers.map(|(_, number)| number);
        let (limit, usage, cache) = match version {
            0 => (None, None, None),
            1 => (limit_v1, usage_v1, caches[0]),
            _ => (max.into_iter().chain(high).min(), usage_v2, caches[1]),
        };
        let limit = limit.filter(|limit| *limit < NO_LIMIT);
        let expected = limit.zip(usage).map(|(limit, usage)| CgroupMemory {
            limit,
            used: usage.saturating_sub(cache.unwrap_or(0)),
        });
        prop_assert_eq!(memory(&os), expected);
    }
}
