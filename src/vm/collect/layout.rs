//! Where a VM keeps whether Lua is active in it: pure conclusions from what was seen of a VM whose
//! activity is known.
//!
//! LuaJIT promises no layout, so none is assumed. Each field must be the only place whose contents
//! fit every activity that was seen: outside of Lua, in a C function of the main thread and of a
//! coroutine, after a yield, in an allocation that the interpreter makes, that compiled code makes,
//! and that the collector makes.

#![forbid(unsafe_code)]

use core::ops::Range;

/// Words of a thread's state that are looked at, and of the state that all threads share.
pub(super) const THREAD: usize = 16;
pub(super) const GLOBAL: usize = 128;

/// Frames of the thread's stack lie no further than this from the function that looks.
const FRAMES: u64 = 64 << 10;

/// What was going on when a VM was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VmActivity {
    /// No Lua function is active.
    NoFunction,
    /// The same, and the coroutine was the last to run.
    Yielded,
    /// The same, and the coroutine is collected.
    Dead,
    /// In a C function that the main thread has called.
    InMain,
    /// In one that the coroutine has called.
    InOther,
    /// In an allocation of the interpreter's, for the main thread.
    Interpreted,
    /// In one of compiled code's.
    Traced,
    /// In a call of the collector's, from outside.
    Collecting,
}

impl VmActivity {
    const ALL: [VmActivity; 8] = [
        VmActivity::NoFunction,
        VmActivity::Yielded,
        VmActivity::Dead,
        VmActivity::InMain,
        VmActivity::InOther,
        VmActivity::Interpreted,
        VmActivity::Traced,
        VmActivity::Collecting,
    ];
}

/// What memory held during one activity.
#[derive(Clone)]
pub(super) struct LuaSnapshot {
    pub(super) activity: VmActivity,
    /// An address on the stack of the function that looked.
    pub(super) stack: u64,
    /// The state of the main thread, and that of the coroutine.
    pub(super) main: [u64; THREAD],
    pub(super) other: [u64; THREAD],
    pub(super) global: [u64; GLOBAL],
}

/// A VM that was seen.
pub(super) struct Seen<'a> {
    pub(super) observations: &'a [LuaSnapshot],
    /// The addresses of the two threads.
    pub(super) main: u64,
    pub(super) other: u64,
    /// All memory of the VM.
    pub(super) memory: Range<u64>,
    /// Words from the main thread's state to the state that all threads share.
    pub(super) distance: usize,
    /// Words of the latter that can be read.
    pub(super) readable: usize,
}

/// The fields, in words; that of the state is one of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LuaLayout {
    /// From the main thread's state to the state that all threads share.
    pub(super) distance: usize,
    /// In a thread's state: its innermost frame on the C stack; null outside of Lua (`cframe`).
    pub(super) frame: usize,
    /// In the state that all share: the thread that ran last (`cur_L`).
    pub(super) current: usize,
    /// Not null while compiled code runs (`jit_base`).
    pub(super) compiled: usize,
    /// What the VM does, in words of 32 bits (`vmstate`).
    pub(super) state: usize,
    /// What stands there in a C function, and in the interpreter. One of these stays behind when
    /// Lua returns.
    pub(super) at_rest: [i32; 2],
}

impl LuaLayout {
    /// The only layout that explains what was seen. The error names the field that has none, or
    /// several.
    pub(super) fn find(seen: &Seen) -> Result<LuaLayout, &'static str> {
        if !VmActivity::ALL.iter().all(|activity| seen.at(*activity).next().is_some()) {
            return Err("not every activity was seen");
        }
        let global = 0..seen.readable.min(GLOBAL);
        let (state, at_rest) = only(global.start..2 * global.end, |at| seen.rests_at(at))
            .ok_or("the VM's state (vmstate) is not found")?;
        Ok(LuaLayout {
            distance: seen.distance,
            frame: only(0..seen.distance.min(THREAD), |at| seen.is_frame(at).then_some(()))
                .ok_or("a thread's frame (cframe) is not found")?
                .0,
            current: only(global.clone(), |at| seen.is_current(at).then_some(()))
                .ok_or("the current thread (cur_L) is not found")?
                .0,
            compiled: only(global, |at| seen.is_compiled(at).then_some(()))
                .ok_or("the mark of compiled code (jit_base) is not found")?
                .0,
            state,
            at_rest,
        })
    }
}

/// The one place that fits.
fn only<T>(places: Range<usize>, fits: impl Fn(usize) -> Option<T>) -> Option<(usize, T)> {
    let mut found = places.filter_map(|place| Some((place, fits(place)?)));
    found.next().filter(|_| found.next().is_none())
}

impl Seen<'_> {
    fn at(&self, activity: VmActivity) -> impl Iterator<Item = &LuaSnapshot> {
        self.observations.iter().filter(move |snapshot| snapshot.activity == activity)
    }

    fn is_frame(&self, at: usize) -> bool {
        let is_near =
            |word: u64, snapshot: &LuaSnapshot| word != 0 && word.abs_diff(snapshot.stack) < FRAMES;
        self.observations.iter().all(|snapshot| {
            let (main, other) = (snapshot.main[at], snapshot.other[at]);
            match snapshot.activity {
                VmActivity::InMain | VmActivity::Interpreted | VmActivity::Traced => {
                    is_near(main, snapshot) && other == 0
                }
                VmActivity::InOther => main == 0 && is_near(other, snapshot),
                VmActivity::NoFunction | VmActivity::Yielded | VmActivity::Dead => {
                    main == 0 && other == 0
                }
                // Perhaps in a function of its own.
                VmActivity::Collecting => other == 0,
            }
        })
    }

    fn is_current(&self, at: usize) -> bool {
        self.observations.iter().all(|snapshot| {
            let word = snapshot.global[at];
            match snapshot.activity {
                VmActivity::InMain | VmActivity::Interpreted | VmActivity::Traced => {
                    word == self.main
                }
                VmActivity::InOther => word == self.other,
                VmActivity::Yielded => word == self.other || word == 0,
                VmActivity::NoFunction => word == self.main || word == 0,
                VmActivity::Dead => word != self.other,
                VmActivity::Collecting => true,
            }
        })
    }

    fn is_compiled(&self, at: usize) -> bool {
        self.observations.iter().all(|snapshot| {
            let word = snapshot.global[at];
            match snapshot.activity {
                VmActivity::Traced => self.memory.contains(&word) && word.is_multiple_of(8),
                _ => word == 0,
            }
        })
    }

    /// What the field says in a C function and in the interpreter, if it is that of the state: one
    /// of some small negative numbers, or, in compiled code, the number of the trace.
    fn rests_at(&self, at: usize) -> Option<[i32; 2]> {
        let half = |snapshot: &LuaSnapshot| (snapshot.global[at / 2] >> (32 * (at % 2))) as i32;
        let in_c = half(self.at(VmActivity::InMain).next()?);
        let interpreted = half(self.at(VmActivity::Interpreted).next()?);
        let is_word = |word: i32| (-32..0).contains(&word);
        let fits = self.observations.iter().all(|snapshot| {
            let word = half(snapshot);
            match snapshot.activity {
                VmActivity::InMain | VmActivity::InOther => word == in_c,
                VmActivity::Interpreted => word == interpreted,
                VmActivity::Traced => (1..1 << 16).contains(&word),
                VmActivity::Collecting => is_word(word) && word != in_c && word != interpreted,
                VmActivity::NoFunction | VmActivity::Yielded | VmActivity::Dead => {
                    word == in_c || word == interpreted
                }
            }
        });
        let differ = is_word(in_c) && is_word(interpreted) && in_c != interpreted;
        (fits && differ).then_some([in_c, interpreted])
    }
}

/// What a VM says of its own activity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// The innermost frame of the main thread, and of the thread that ran last.
    pub(super) main_frame: u64,
    pub(super) current_frame: u64,
    pub(super) compiled: u64,
    pub(super) state: i32,
    /// `lua_status` of the main thread.
    pub(super) status: i32,
}

impl LuaLayout {
    /// Whether no Lua function is active in a VM that says so.
    pub(super) fn is_idle(&self, reading: &Reading) -> bool {
        let Reading { main_frame, current_frame, compiled, state, status } = *reading;
        main_frame == 0
            && current_frame == 0
            && compiled == 0
            && status == 0
            && self.at_rest.contains(&state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: u64 = 0x10_0000;
    const OTHER: u64 = 0x10_8000;
    const STACK: u64 = 0x7fff_0000_8000;
    const LAYOUT: LuaLayout = LuaLayout {
        distance: 12,
        frame: 10,
        current: 51,
        compiled: 52,
        state: 41,
        at_rest: [-2, -1],
    };

    /// As LuaJIT would have it with [`LAYOUT`].
    fn snapshot(activity: VmActivity) -> LuaSnapshot {
        let mut snapshot = LuaSnapshot {
            activity,
            stack: STACK,
            main: [9; THREAD],
            other: [7; THREAD],
            global: [5; GLOBAL],
        };
        let frame = STACK + 320;
        let (main, other, current, state, compiled) = match activity {
            VmActivity::NoFunction => (0, 0, MAIN, -2, 0),
            VmActivity::Yielded => (0, 0, OTHER, -1, 0),
            VmActivity::Dead => (0, 0, 0, -2, 0),
            VmActivity::InMain => (frame, 0, MAIN, -2, 0),
            VmActivity::InOther => (0, frame, OTHER, -2, 0),
            VmActivity::Interpreted => (frame, 0, MAIN, -1, 0),
            VmActivity::Traced => (frame, 0, MAIN, 1, MAIN + 0x4000),
            VmActivity::Collecting => (0, 0, OTHER, -3, 0),
        };
        snapshot.main[10] = main;
        snapshot.other[10] = other;
        snapshot.global[51] = current;
        snapshot.global[50] = MAIN;
        snapshot.global[52] = compiled;
        snapshot.global[20] = u64::from(state as u32) << 32;
        snapshot
    }

    fn all() -> Vec<LuaSnapshot> {
        VmActivity::ALL.map(snapshot).into()
    }

    fn find(observations: &[LuaSnapshot]) -> Result<LuaLayout, &'static str> {
        let memory = MAIN..MAIN + (1 << 20);
        let (main, other) = (MAIN, OTHER);
        LuaLayout::find(&Seen { observations, main, other, memory, distance: 12, readable: 90 })
    }

    #[test]
    fn the_only_places_that_fit_are_the_fields() {
        assert_eq!(find(&all()), Ok(LAYOUT));
    }

    #[test]
    fn a_second_place_that_fits_leaves_the_field_unknown() {
        let doubled = |change: fn(&mut LuaSnapshot)| {
            let mut observations = all();
            observations.iter_mut().for_each(change);
            find(&observations).expect_err("two places")
        };
        assert!(
            doubled(|s| (s.main[3], s.other[3]) = (s.main[10], s.other[10])).contains("cframe")
        );
        assert!(doubled(|s| s.global[3] = s.global[51]).contains("cur_L"));
        assert!(doubled(|s| s.global[3] = s.global[52]).contains("jit_base"));
        assert!(doubled(|s| s.global[3] = s.global[20]).contains("vmstate"));
    }

    #[test]
    fn one_activity_that_does_not_fit_leaves_the_field_unknown() {
        let wrong = |activity: VmActivity, change: fn(&mut LuaSnapshot)| {
            let mut observations = all();
            observations.iter_mut().filter(|s| s.activity == activity).for_each(change);
            find(&observations).is_err()
        };
        assert!(wrong(VmActivity::NoFunction, |s| s.main[10] = STACK));
        assert!(wrong(VmActivity::InOther, |s| s.other[10] = 0));
        assert!(wrong(VmActivity::InMain, |s| s.main[10] = STACK + (1 << 20)));
        assert!(wrong(VmActivity::Dead, |s| s.global[51] = OTHER));
        assert!(wrong(VmActivity::Traced, |s| s.global[52] = 0));
        assert!(wrong(VmActivity::Traced, |s| s.global[20] = u64::from(-1i32 as u32) << 32));
        assert!(wrong(VmActivity::Collecting, |s| s.global[20] = u64::from(-2i32 as u32) << 32));
    }

    #[test]
    fn every_activity_must_be_seen() {
        for lacking in VmActivity::ALL {
            let observations: Vec<LuaSnapshot> =
                all().into_iter().filter(|s| s.activity != lacking).collect();
            assert_eq!(find(&observations), Err("not every activity was seen"), "{lacking:?}");
        }
    }

    #[test]
    fn any_sign_of_activity_counts() {
        let idle = Reading { main_frame: 0, current_frame: 0, compiled: 0, state: -2, status: 0 };
        assert!(LAYOUT.is_idle(&idle) && LAYOUT.is_idle(&Reading { state: -1, ..idle }));
        for active in [
            Reading { main_frame: STACK, ..idle },
            Reading { current_frame: STACK, ..idle },
            Reading { compiled: MAIN, ..idle },
            Reading { state: -3, ..idle },
            Reading { state: 1, ..idle },
            Reading { status: 1, ..idle },
        ] {
            assert!(!LAYOUT.is_idle(&active), "{active:?}");
        }
    }
}
