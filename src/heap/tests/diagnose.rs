//! Pointers that are no live blocks.

use super::*;

/// What a child process that does `wrong` says before it aborts.
pub(super) fn last_words<T>(wrong: impl FnOnce() -> T) -> String {
    use std::io::Read;
    use std::os::fd::FromRawFd;
    let mut ends = [0; 2];
    // SAFETY: plain system calls; the child only runs `wrong`, which must not return, and the
    // parent owns the reading end.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        let child = libc::fork();
        if child == 0 {
            libc::dup2(ends[1], libc::STDERR_FILENO);
            wrong();
            libc::_exit(0);
        }
        libc::close(ends[1]);
        let mut words = String::new();
        let read = std::fs::File::from_raw_fd(ends[0]).read_to_string(&mut words);
        read.expect("the child's words");
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        let aborted = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT;
        assert!(aborted, "the child was not aborted; it said: {words}");
        words
    }
}

#[test]
fn a_pointer_that_is_no_live_block_stops_the_process_with_one_line() {
    let mut tested = Tested::new(FakeOs::new(4096), 16 << 20);
    assert!(tested.allocate(48) && tested.allocate(700) && tested.allocate(20_000));
    let [small, medium, large] = [0, 1, 2].map(|index| tested.live[index].at);
    let heap = tested.heap;
    // SAFETY: these calls break the contract on purpose, in a child that they stop.
    let call = |at: *mut u8, size: usize| unsafe { alloc(heap, at, 1, size) };
    let twice = |at: *mut u8, size: usize| {
        call(at, 0);
        call(at, size);
    };
    let expect = |words: String, wrong: &str| {
        assert!(words.contains(&format!("heap {heap:p}: pointer 0x")), "{words}");
        assert!(words.contains(wrong) && words.lines().count() == 1, "{words}");
    };
    let mut local = 0u8;
    for size in [0, 100] {
        expect(last_words(|| twice(small, size)), "is a block of 48 bytes that was freed before");
        expect(last_words(|| twice(medium, size)), "is a block of 704 bytes that was freed before");
        expect(last_words(|| twice(large, size)), "is not a live block: its page is free");
        expect(last_words(|| call(small.wrapping_add(8), size)), "inside a block of 48 bytes");
        expect(last_words(|| call(large.wrapping_add(16), size)), "inside a large block");
        expect(last_words(|| call(large.wrapping_add(8192), size)), "inside a large block");
        expect(last_words(|| call(heap.cast(), size)), "is in the heap's own tables");
        expect(last_words(|| call(&raw mut local, size)), "is not of this heap");
        expect(last_words(|| call(ptr::without_provenance_mut(8), size)), "is not of this");
    }
    tested.check_contents();
    tested.free_all();
}
