//! Heaps that are full, and sizes that no heap has.

use super::*;

#[test]
fn a_full_heap_says_so_and_goes_on() {
    let mut tested = Tested::new(FakeOs::new(4096), 1 << 20);
    while tested.allocate(3000) {}
    tested.heap().check();
    assert!(tested.live.len() > 150, "{} blocks fit", tested.live.len());
    for index in 0..tested.live.len() {
        tested.resize(index, 10, OldSize::Right);
    }
    tested.heap().check();
    tested.free_all();
    assert!(tested.allocate(200_000));
    tested.free_all();
}

#[test]
fn heaps_of_odd_sizes_fill_up_on_every_kernel_page() {
    for kernel_page in KERNEL_PAGES {
        for reserve in [1 << 20, 1_200_000, 3 << 20, 5_000_000] {
            let mut tested = Tested::new(FakeOs::new(kernel_page), reserve);
            while tested.allocate(12_000) {}
            while tested.allocate(100) {}
            tested.heap().check();
            tested.free_all();
        }
    }
}

#[test]
fn sizes_beyond_the_heap_are_refused() {
    let mut tested = Tested::new(FakeOs::new(4096), 2 << 20);
    for size in [usize::MAX, usize::MAX - 4095, usize::MAX / 2, 1 << 47, 1 << 44, 3 << 20] {
        assert!(!tested.allocate(size), "{size}");
        assert!(tested.allocate(5000) && tested.allocate(20_000));
        for index in 0..tested.live.len() {
            let (at, old) = (tested.live[index].at, tested.live[index].size);
            assert!(tested.call(at, old, size).is_null(), "{size}");
        }
        tested.check_contents();
        tested.heap().check();
    }
    tested.free_all();
}

#[test]
fn size_nought_is_nothing() {
    let mut tested = Tested::new(FakeOs::new(4096), 2 << 20);
    assert!(tested.call(ptr::null_mut(), 0, 0).is_null());
    assert!(tested.call(ptr::null_mut(), 17, 0).is_null());
    tested.heap().check();
}
