//! What a thread does for the VMs that it used last while it has nothing else to do: it returns
//! what is due in their heaps, and collects their garbage in steps.

use std::cell::Cell;

use super::{LIST, ThreadOwner, each, first, order_threads};
use crate::heap::checked::ApiCall;
use crate::os::{Kernel, Os, this_thread};
use crate::vm::VmHeap;
use crate::vm::collect::{self, Due};
use core::sync::atomic::Ordering;

/// A thread looks after its heaps once in this many microseconds at most, or in 32 times as long as
/// the look takes: a busy event loop waits ten thousand times a second.
const LOOK_US: u64 = 10_000;
const LOOK_SHARE: u64 = 32;

/// Microseconds that the thread waits for at least after a step of a collection: the rest of the
/// machine has a share too.
const PAUSE_US: u64 = 1_000;

thread_local! {
    /// When this thread looks after its heaps again.
    static NEXT_LOOK_US: Cell<u64> = const { Cell::new(0) };
    /// The number of the VM that had the last step of a collection.
    static LAST_STEP: Cell<u64> = const { Cell::new(0) };
}

/// Does what is due in the heaps of the VMs that the calling thread used last, within a budget for
/// all; and in one of these VMs a step of a collection, with a budget of its own. Returns after how
/// many microseconds it makes sense to call again; `None`: never, unless one of them is used.
pub(crate) fn idle(budget_us: u64) -> Option<u64> {
    collect::note_wait();
    let start_us = Kernel.now_us();
    let wait_us = NEXT_LOOK_US.get().saturating_sub(start_us);
    if wait_us > 0 {
        return Some(wait_us);
    }
    if !LIST.try_lock() {
        return Some(LOOK_US);
    }
    // The list stays locked while what is due is done, for the budget and one step of a heap more.
    // VMs that other threads make or close wait for that, and so does a fork. A child must not find
    // a heap in the midst of a tick: to the program nobody uses a VM whose thread waits, so the
    // child may use the VM. The share of [`LOOK_SHARE`] bounds how often the others wait.
    let mut next_us: Option<u64> = None;
    let mut turns = Turns::after(LAST_STEP.get());
    each(|vm_heap| {
        let pending = run_due(vm_heap, start_us, start_us + budget_us);
        next_us = [next_us, pending.next_us].into_iter().flatten().min();
        if pending.wants_step {
            turns.add(vm_heap.owner.number);
        }
    });
    LIST.unlock();
    let looked_us = Kernel.now_us().saturating_sub(start_us);
    if make_steps(&turns, budget_us) {
        let pause_us = PAUSE_US.max(looked_us * LOOK_SHARE);
        NEXT_LOOK_US.set(Kernel.now_us() + pause_us);
        return Some(pause_us);
    }
    NEXT_LOOK_US.set(start_us + LOOK_US.max(looked_us * LOOK_SHARE));
    next_us.map(|us| us.max(1))
}

/// Makes a step in each of these VMs, until the budget is spent. Whether any was made.
fn make_steps(turns: &Turns, budget_us: u64) -> bool {
    let deadline_us = Kernel.now_us() + budget_us;
    let mut is_any_made = false;
    for number in turns.in_order() {
        let left_us = deadline_us.saturating_sub(Kernel.now_us());
        if left_us == 0 || !LIST.try_lock() {
            break;
        }
        let vm_heap = locked(number);
        LIST.unlock();
        let Some(vm_heap) = vm_heap else { continue };
        LAST_STEP.set(number);
        // SAFETY: this thread has the VM and is not in it, and the lock keeps others out, one that
        // closes the VM too. The list is open.
        is_any_made |= unsafe { collect::step(vm_heap, left_us) };
        vm_heap.owner.lock.unlock();
    }
    is_any_made
}

/// Whose turn it is among VMs that want a step, by their numbers: those below the last that had
/// one, downwards, then those from the highest on.
struct Turns {
    last: u64,
    /// Whether it is below the last, and its number, the highest first.
    wanting: [(bool, u64); Turns::MOST],
    count: usize,
}

impl Turns {
    const MOST: usize = 16;

    fn after(last: u64) -> Turns {
        Turns { last, wanting: [(false, 0); Turns::MOST], count: 0 }
    }

    /// Adds a VM, unless there are enough before it.
    fn add(&mut self, number: u64) {
        let turn = (number < self.last, number);
        let at = self.wanting[..self.count].partition_point(|before| *before > turn);
        if at < Turns::MOST {
            self.count = Turns::MOST.min(self.count + 1);
            self.wanting[at..self.count].rotate_right(1);
            self.wanting[at] = turn;
        }
    }

    fn in_order(&self) -> impl Iterator<Item = u64> {
        self.wanting[..self.count].iter().map(|turn| turn.1)
    }
}

/// The `VmHeap` of a number, with its lock taken, if the calling thread has its VM. The list is
/// locked.
fn locked<'vm_heap>(number: u64) -> Option<&'vm_heap VmHeap> {
    let mut next = first();
    // SAFETY: as in `each`. A `VmHeap` ends after its VM has freed its last block, for which
    // another thread has to wait for the lock.
    while let Some(vm_heap) = unsafe { next.as_ref() } {
        let ThreadOwner { thread, lock, .. } = &vm_heap.owner;
        if vm_heap.owner.number == number {
            if !lock.try_lock(order_threads) {
                return None;
            }
            if thread.load(Ordering::Relaxed) == this_thread() {
                return Some(vm_heap);
            }
            lock.unlock();
            return None;
        }
        next = vm_heap.owner.next.get();
    }
    None
}

/// What is left to do in a VM.
#[derive(Default)]
struct Pending {
    /// In how many microseconds more will be due; `None`: not before the VM is used.
    next_us: Option<u64>,
    /// A step of a collection is due in the VM.
    wants_step: bool,
}

/// Does what is due in one heap if the calling thread has its VM.
fn run_due(vm_heap: &VmHeap, now_us: u64, deadline_us: u64) -> Pending {
    let ThreadOwner { thread, lock, .. } = &vm_heap.owner;
    if thread.load(Ordering::Relaxed) != this_thread() || !lock.try_lock(order_threads) {
        return Pending::default();
    }
    let mut pending = Pending::default();
    if thread.load(Ordering::Relaxed) == this_thread() {
        // SAFETY: this thread has the VM and is not in it, and the lock keeps others out; a
        // `VmHeap` in the list has a live heap.
        unsafe {
            let mut heap = (*vm_heap.heap).api_guard(ApiCall::Tick);
            heap.publish();
            pending.next_us = heap.next_tick_us();
            let left_us = deadline_us.saturating_sub(Kernel.now_us());
            if pending.next_us == Some(0) && left_us > 0 && !vm_heap.collection.is_under_way() {
                heap.tick(left_us as u32);
                pending.next_us = heap.next_tick_us();
            }
        }
        if collect::is_possible_here() {
            // SAFETY: as above.
            match unsafe { collect::due_step(vm_heap, now_us) } {
                Due::Collect | Due::Return => pending.wants_step = true,
                Due::In(us) => {
                    pending.next_us = [pending.next_us, Some(us)].into_iter().flatten().min()
                }
                Due::Never => {}
            }
        }
    }
    lock.unlock();
    pending
}

/// Has the heaps of the VMs that the calling thread used last publish what they hold now. The
/// thread is in none of them.
pub(crate) fn publish() {
    LIST.with(|| {
        each(|vm_heap| {
            let ThreadOwner { thread, lock, .. } = &vm_heap.owner;
            if thread.load(Ordering::Relaxed) == this_thread() && lock.try_lock(order_threads) {
                // SAFETY: this thread has the VM and is not in it, and the lock keeps others out;
                // a `VmHeap` in the list has a live heap.
                unsafe { (*vm_heap.heap).publish() };
                lock.unlock();
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vms_that_want_a_step_take_turns() {
        let order = |last: u64, wanting: &[u64]| {
            let mut turns = Turns::after(last);
            wanting.iter().for_each(|number| turns.add(*number));
            turns.in_order().collect::<Vec<u64>>()
        };
        assert_eq!(order(0, &[]), [0; 0]);
        assert_eq!(order(0, &[3, 9, 5]), [9, 5, 3]);
        assert_eq!(order(9, &[3, 9, 5]), [5, 3, 9]);
        assert_eq!(order(5, &[9, 3, 5]), [3, 9, 5]);
        assert_eq!(order(7, &[8]), [8]);
        let many: Vec<u64> = (1..=40).collect();
        let expected: Vec<u64> = (1..=9).rev().chain(34..=40).collect();
        let mut got = order(10, &many);
        got[9..].reverse();
        assert_eq!(got, expected);
    }
}
