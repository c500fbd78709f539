//! The lock of a heap that threads share: the owner and others never meet in the heap.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering, fence};
use loom::thread::{self, yield_now};

#[path = "../../../src/vm/lock.rs"]
#[allow(dead_code)]
mod lock;

use lock::BiasedLock;

/// A spin lock whose waiting the model need not follow.
mod spin {
    use loom::sync::{Condvar, Mutex};

    #[derive(Default)]
    pub struct SpinLock {
        is_locked: Mutex<bool>,
        unlocked: Condvar,
    }

    impl SpinLock {
        pub fn lock(&self) {
            let mut is_locked = self.is_locked.lock().expect("no panic");
            while *is_locked {
                is_locked = self.unlocked.wait(is_locked).expect("no panic");
            }
            *is_locked = true;
        }

        pub fn try_lock(&self) -> bool {
            !std::mem::replace(&mut *self.is_locked.lock().expect("no panic"), true)
        }

        pub fn unlock(&self) {
            *self.is_locked.lock().expect("no panic") = false;
            self.unlocked.notify_one();
        }

        pub fn is_locked(&self) -> bool {
            *self.is_locked.lock().expect("no panic")
        }
    }
}

use crate::explore;

/// In the library the compiler keeps the order and the kernel's interrupt comes on top. A fence on
/// both sides does what the two do together.
fn keep_order() {
    fence(Ordering::SeqCst);
}

fn order_threads() -> bool {
    fence(Ordering::SeqCst);
    true
}

/// A heap is a number that threads count up.
struct Heap {
    lock: BiasedLock,
    count: UnsafeCell<u64>,
}

// SAFETY: the model is to show that the lock keeps the threads apart.
unsafe impl Sync for Heap {}

impl Heap {
    fn new(is_favoured: bool) -> Arc<Heap> {
        let heap = Heap { lock: BiasedLock::default(), count: UnsafeCell::new(0) };
        if is_favoured {
            heap.lock.favour();
        }
        Arc::new(heap)
    }

    fn add(&self) {
        // SAFETY: this is what the model checks.
        self.count.with_mut(|count| unsafe { *count += 1 });
    }

    fn allocate(&self) {
        let entry = self.lock.enter();
        self.add();
        self.lock.leave(entry);
    }

    fn tick(&self, order_threads: fn() -> bool) {
        self.lock.lock(order_threads);
        self.add();
        self.lock.unlock();
    }

    fn count(&self) -> u64 {
        // SAFETY: the other threads have ended.
        self.count.with(|count| unsafe { *count })
    }
}

#[test]
fn the_owner_and_another_thread_keep_apart() {
    for is_favoured in [true, false] {
        explore(move || {
            let heap = Heap::new(is_favoured);
            let other = Arc::clone(&heap);
            let thread = thread::spawn(move || other.tick(order_threads));
            heap.allocate();
            heap.allocate();
            thread.join().expect("the other thread");
            assert_eq!(heap.count(), 3);
        });
    }
}

#[test]
fn the_owner_and_two_visits_keep_apart() {
    explore(|| {
        let heap = Heap::new(true);
        let other = Arc::clone(&heap);
        let thread = thread::spawn(move || {
            other.tick(order_threads);
            other.tick(order_threads);
        });
        heap.allocate();
        thread.join().expect("the other thread");
        assert_eq!(heap.count(), 3);
    });
}

#[test]
fn other_threads_keep_apart() {
    explore(|| {
        let heap = Heap::new(true);
        let other = Arc::clone(&heap);
        let thread = thread::spawn(move || other.tick(order_threads));
        if heap.lock.try_lock(order_threads) {
            heap.add();
            heap.lock.unlock();
        }
        heap.allocate();
        thread.join().expect("the other thread");
    });
}

/// Afterwards the owner takes the lock each time.
#[test]
fn a_kernel_that_refuses_to_order_threads_is_asked_once() {
    explore(|| {
        let heap = Heap::new(true);
        // The owner is not inside, and sees what happens here.
        heap.tick(|| false);
        let other = Arc::clone(&heap);
        let thread = thread::spawn(move || other.tick(|| panic!("asked again")));
        heap.allocate();
        thread.join().expect("the other thread");
        assert_eq!(heap.count(), 3);
    });
}

#[test]
fn a_child_does_not_wait_for_an_owner_that_it_has_not() {
    explore(|| {
        let heap = Heap::new(true);
        heap.lock.lock(order_threads);
        heap.lock.approach();
        heap.lock.unlock_in_child();
        heap.tick(order_threads);
        heap.allocate();
        assert_eq!(heap.count(), 2);
    });
}
