//! Memory that goes back: when it is asked for, in ticks, and by the background thread.

use std::ffi::c_int;

use ebbtide::capi::*;

use super::{Model, PAGE};
use crate::kernel::{self, Company, calling};

impl Model {
    /// Whether the background thread returns memory: never, always, or unless the host ticks.
    pub(crate) fn set_background(&mut self, value: i64) {
        // SAFETY: a C string.
        let code = calling(|| unsafe { ebb_set(self.heap, c"background".as_ptr(), value) });
        assert_eq!(code, EBB_OK, "set background");
    }

    /// Whether a figure is the one before, or lower by what went back beside.
    fn is_or_fell(&self, now: u64, before: u64) -> bool {
        now == before || self.company != Company::Alone && now < before
    }

    fn check_code(&self, code: c_int, budget_us: u32, refused: u64) {
        match code {
            EBB_OK => {}
            EBB_MORE => assert!(budget_us > 0, "more to do without a budget"),
            EBB_ERR_SYSTEM => {
                // What was refused before is reported at the end of the pass.
                assert!(kernel::refused() > 0 || refused > 0, "refused by nobody");
            }
            code => panic!("reclaim or tick says {code}"),
        }
    }

    /// Reclaims, in microseconds or at once, and checks that nothing more can go.
    pub(crate) fn reclaim(&mut self, budget_us: u32) {
        let options = ebb_reclaim_options { size: size_of::<ebb_reclaim_options>(), budget_us };
        // SAFETY: all-zero bytes are a valid report.
        let mut report: ebb_reclaim_report = unsafe { std::mem::zeroed() };
        report.size = size_of::<ebb_reclaim_report>();
        let refused = kernel::refused();
        let before = self.read_stats(0);
        // SAFETY: both are whole.
        let code = calling(|| unsafe { ebb_reclaim(self.heap, &options, &mut report) });
        self.check_code(code, budget_us, refused);
        let returned = before.returned_total + report.returned;
        let mut after = self.read_stats(0);
        let all = after.returned_total;
        assert!(self.is_or_fell(returned, all), "reclaim: {returned} returned of {all}");
        let resident = after.resident;
        assert!(self.is_or_fell(resident, report.resident), "reclaim: {resident} are resident");
        assert_eq!(report.live, after.live, "reclaim");
        if code == EBB_OK && budget_us == 0 && self.is_tidy() {
            if self.company == Company::ByTurns {
                kernel::end_visit();
                after = self.read_stats(0);
            }
            if self.company == Company::AtOnce || kernel::refused() > refused {
                return;
            }
            let most = (self.pages(|block| self.extent(block)) * PAGE) as u64 + after.metadata;
            let resident = after.resident;
            assert!(resident <= most, "reclaim: {resident} are resident, {most} can be");
        }
    }

    /// Ticks, in microseconds or without end.
    pub(crate) fn tick(&mut self, budget_us: u32) {
        let refused = kernel::refused();
        // SAFETY: one thread.
        let code = calling(|| unsafe { ebb_tick(self.heap, budget_us) });
        self.check_code(code, budget_us, refused);
    }

    /// Asks what can be asked.
    pub(crate) fn ask(&mut self) {
        // SAFETY: one thread.
        let (next, pressure) =
            calling(|| unsafe { (ebb_next_tick(self.heap), ebb_pressure(self.heap)) });
        assert!(next >= 0, "next tick in {next} ms");
        assert!((0..=100).contains(&pressure), "pressure {pressure}");
        let stats = self.read_stats(0);
        assert!(self.is_or_fell(stats.pressure, pressure as u64), "pressure");
        let has_limit = stats.limit_soft > 0 || stats.limit_hard > 0;
        assert!(pressure == 0 || has_limit, "pressure {pressure} without a limit");
    }
}
