//! Lists of mappings as the kernel writes them, and not.

use std::ffi::CString;

use super::super::mappings::{Mappings, MemoryMap};
use super::model::{Heap, Shape};
use super::survey;
use crate::error::{Error, last_text};
use crate::os::fake::FakeOs;

fn os_with(text: &str, part_bytes: usize) -> FakeOs {
    let os = FakeOs::new(4096);
    os.state().files.insert(CString::from(c"/proc/self/maps"), text.as_bytes().to_vec());
    os.state().part_bytes = part_bytes;
    os
}

/// The memory in a list, from the lowest address on.
fn memory_in(text: &str, part_bytes: usize) -> Option<Vec<(usize, usize)>> {
    let os = os_with(text, part_bytes);
    let mappings = Mappings::read(&os).ok()?;
    let mut found: Vec<(usize, usize)> = Vec::new();
    for at in (0..0x20_0000).step_by(0x1000) {
        match mappings.find(at, 0x1000) {
            Some(_) if found.last().is_some_and(|last| last.1 == at) => {
                found.last_mut().expect("one").1 = at + 0x1000;
            }
            Some(_) => found.push((at, at + 0x1000)),
            None => {}
        }
    }
    Some(found)
}

const TEXT: &str = "\
00010000-00012000 rw-p 00000000 00:00 0 
00020000-00021000 rw-p 00000000 00:00 0                                  [heap]
00021000-00022000 rw-p 00000000 00:00 0                                  [anon:some of it]
00030000-00031000 r--p 00000000 00:00 0 
00031000-00032000 -w-p 00000000 00:00 0 
00032000-00033000 rw-s 00000000 00:00 0 
00033000-00034000 rw-p 00000000 08:01 77                                 /usr/lib/x.so
00034000-00035000 rw-p 00000000 00:00 0                                  [stack]
00035000-00036000 ---p 00000000 00:00 0 
00100000-00101000 rwxp 00000000 00:00 0 
";

#[test]
fn private_anonymous_memory_is_found() {
    let expected = vec![(0x10000, 0x12000), (0x20000, 0x22000), (0x10_0000, 0x10_1000)];
    for part_bytes in [0, 1, 7, 64, 100] {
        assert_eq!(memory_in(TEXT, part_bytes), Some(expected.clone()), "{part_bytes}");
    }
}

#[test]
fn a_range_is_found_only_if_all_of_it_is_memory() {
    let os = os_with(TEXT, 0);
    let mappings = Mappings::read(&os).expect("a list");
    let found = |at, bytes| mappings.find(at, bytes).is_some();
    assert!(found(0x10000, 0x2000) && found(0x20800, 0x1000) && found(0x21ff8, 8));
    assert!(!found(0x10000, 0x2001) && !found(0xfff8, 8) && !found(0x12000, 8));
    assert!(!found(0x1fff8, 16) && !found(0x21ff8, 9) && !found(0x10000, usize::MAX));
    assert!(!found(usize::MAX - 7, 8) && !found(0, 8));
    let memory = mappings.find(0x10000, 0x1000).expect("memory");
    // Nothing is mapped there in fact, but nothing is read either.
    assert_eq!(
        (memory.word(0xfff8), memory.word(0x10ffc), memory.word(0x11000)),
        (None, None, None)
    );
    assert_eq!(memory.word(0x10004), None);
}

#[test]
fn mappings_that_change_meanwhile_may_overlap() {
    let text = "1000-3000 rw-p 0 00:00 0 \n2000-4000 rw-p 0 00:00 0 \n3000-3800 rw-p 0 00:00 0 \n";
    assert_eq!(memory_in(text, 0), Some(vec![(0x1000, 0x4000)]));
    let text = "2000-3000 rw-p 0 00:00 0 \n1000-4000 rw-p 0 00:00 0 \n";
    assert_eq!(memory_in(text, 0), Some(vec![(0x2000, 0x4000)]));
}

#[test]
fn a_list_that_makes_no_sense_is_refused() {
    for text in [
        "",
        "\n",
        "1000-2000\n",
        "1000-2000 rw-p 00000000 00:00\n",
        "1000-2000 rw 00000000 00:00 0\n",
        "2000-1000 rw-p 00000000 00:00 0\n",
        "1000-1000 rw-p 00000000 00:00 0\n",
        "1000 rw-p 00000000 00:00 0\n",
        "-2000 rw-p 00000000 00:00 0\n",
        "1x00-2000 rw-p 00000000 00:00 0\n",
        "1000-12000000000000000000 rw-p 00000000 00:00 0\n",
        "1000-2000 rw-p 00000000 00:00 0\n3000-4000 rw-p 00000000 00:00 0",
        "3000-4000 rw-p 00000000 00:00 0\n1000-2000 rw-p 00000000 00:00 0\n",
        "1000-2000 r--p 00000000 00:00 0\n",
    ] {
        assert_eq!(memory_in(text, 0), None, "{text:?}");
        assert!(last_text().contains("is not as Linux writes it"), "{}", last_text());
    }
}

#[test]
fn a_list_that_cannot_be_read_is_the_systems_fault() {
    let heap = Heap::new(1, 4096, Shape::Usual(2));
    heap.os.state().files.clear();
    assert_eq!(survey(&heap.os, heap.state()), Err(Error::System));
    assert_eq!(last_text(), format!("/proc/self/maps cannot be read: errno {}", libc::ENOENT));
}

#[test]
fn a_heap_in_other_memory_is_refused() {
    for seed in 0..20 {
        let heap = Heap::new(seed, 4096, Shape::Usual(3));
        let path = CString::from(c"/proc/self/maps");
        let text = String::from_utf8(heap.os.state().files[&path].clone()).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            if !line.contains("rw-p") || line.contains("stack") {
                continue;
            }
            for (from, to) in
                [("rw-p", "r--p"), ("rw-p", "---p"), ("rw-p", "rw-s"), ("00:00 0 ", "00:01 7 ")]
            {
                let mut changed: Vec<String> = lines.iter().map(|line| line.to_string()).collect();
                changed[index] = line.replace(from, to);
                let changed = changed.join("\n") + "\n";
                heap.os.state().files.insert(path.clone(), changed.into_bytes());
                assert_eq!(survey(&heap.os, heap.state()), Err(Error::Unknown), "{line}");
            }
        }
    }
}
