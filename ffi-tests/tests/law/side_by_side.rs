//! Programs that mostly wait, several at once.

use std::sync::Mutex;
use std::thread;

/// Calls `work` for each item, on `at_once` threads. Returns the results in the order of the items.
pub fn side_by_side<T: Sync, R: Send>(
    items: &[T],
    at_once: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = Mutex::new(items.iter().enumerate());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let item = next.lock().expect("no other has failed").next();
                    let Some((place, item)) = item else { return };
                    let result = work(item);
                    done.lock().expect("no other has failed").push((place, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("none has failed");
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}

#[test]
fn each_is_done_once_and_some_at_the_same_time() {
    let meeting = std::sync::Barrier::new(2);
    let items: Vec<u32> = (0..10).collect();
    let doubled = side_by_side(&items, 2, |item| {
        meeting.wait();
        item * 2
    });
    assert_eq!(doubled, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]);
}
