#!/bin/sh
# Breaks each invariant once and looks whether a test of the library sees it.
#
# Every line of the table names an invariant or a promise, a file, and a sed expression that breaks
# it. The change is made in a copy under target/; the library's tests must fail there, or, for what
# checked heaps promise, the programs with memory bugs. Prints one line for each, with the first
# test that failed, and exits with 1 when a broken library passed or an expression changed nothing.
# `make mutants` works on as many lines at a time as there are processors, or on MUTANTS_JOBS. An
# argument picks the lines that match it; `--check` only looks whether each expression still applies.
set -u
cd "$(dirname "$0")/.." || exit 1
mkdir -p target/mutants

table() {
    cat <<'TABLE'
P1 dirty is free|src/heap/pages/runs/dirty.rs|s/let cleaned = self.dirty_words(range, |word, mask| word.unset(mask, is_watched));/let cleaned = Pages::ZERO;/
P2 nothing above top|src/heap/pages/runs.rs|s/            self.counts.top = range.end;/            self.counts.top = range.end - Pages(range.count().0 \& 1);/
P3 counts are the bits|src/heap/pages/runs.rs|s/self.counts.free += count;/self.counts.free += count + Pages(1);/
P4 where to look for free pages|src/heap/pages/runs.rs|s/range.start.0.saturating_sub(before as u32)).min(\*lowest)/u32::MAX).min(*lowest)/
P4 runs begin before freed pages|src/heap/pages/runs.rs|s/saturating_sub(before as u32)/saturating_sub(0 * before as u32)/
few pages across words|src/heap/pages/runs/search.rs|s/            run = word.leading_ones() as usize;/            run = 0;/
P5 summaries|src/heap/pages/runs.rs|s/                chunk.summary.set(Summary::STALE);//
P5 group summaries|src/heap/pages/runs.rs|s/self.chunks\[at \/ GROUP_CHUNKS \* GROUP_CHUNKS\].group.set(Summary::STALE);//
lowest fit|src/heap/pages/runs/search.rs|s/if before + summary.start as usize >= wanted/if before + summary.start as usize > wanted/
L1 parts fit|src/heap/pages/layout.rs|s/let limit = PageIndex(limit as u32);/let limit = PageIndex(limit as u32 + 40);/
L2 kernel pages|src/heap/pages/layout.rs|s/kernel_page + round_up(pages \* DESCRIPTOR, kernel_page)/kernel_page + round_up(pages * DESCRIPTOR, 64)/
L4 chunks in the tables|src/heap/pages/layout.rs|s/let bytes = chunks.min(self.chunk_count) \* size_of::<PageChunk>();/let bytes = chunks.min(self.chunk_count) * (size_of::<PageChunk>() - 8);/
M1 all that is mapped is given back|src/heap/growth/mapped.rs|s/for part in some(self.mapped()) {/for part in some(self.mapped()).take(1) {/
M1 a place that does not do is given back|src/heap/growth/mapped.rs|s/for mapped in some(parts).take(index) {/for mapped in some(parts).take(0) {/
M2 chunks before pages|src/heap/growth/grow.rs|s/if self.layout.is_planned \&\& !self.commit_tables(pages) {/if false {/
a limit means a plan|src/heap/growth/reserve.rs|s/if address_space >= ADDRESS_LIMIT || sanitizer::is_there() {/if address_space >= 1 << 20 {/
a plan grows in small steps|src/heap/growth/grow.rs|s/(self.layout.bytes \/ PLANNED_STEP.1).min/(self.layout.bytes \/ PLANNED_STEP.1 * 64).min/
the end of a plan goes back|src/heap/growth/mapped.rs|s/if self.runs.top.since(end) < CUT_MIN {/if true {/
what is cut off was returned|src/heap/pages/runs/end.rs|s/let most = top.since(self.dirty_end().min(top));/let most = Pages(u32::MAX);/
K1 sheets that are cut off|src/heap/pages/runs/end.rs|s/        self.occupy_sheets(range);//
tables of what was cut off|src/heap/pages/runs/end.rs|s/self.counts.cut_top = self.counts.reached();//
descriptors of what was cut off|src/heap/growth/mapped.rs|s/        self.cut_descriptors();/        if false { self.cut_descriptors(); }/
pointers to what was cut off|src/heap/growth/mapped.rs|s/|| self.is_cut_off(address.addr().wrapping_sub(self.base.addr()))//
what was cut off is needed again|src/heap/growth/grow.rs|s/self.page_runs().note_refaults(cut_off, now_us);//
what cannot be cut off stays|src/heap/growth/mapped.rs|s/self.page_runs().join(range, is_dirty);/if false { self.page_runs().join(range, is_dirty) }/
a child cuts off no claims|src/heap/growth/mapped.rs|s/        self.mend_after_fork();//
a limit that binds is reported, and no other|src/heap/growth/mapped.rs|s/(used.saturating_add(bytes) > limit)/(used.saturating_add(bytes) > 0)/
addresses of a plan are the heap's when mapped|src/heap/growth/mapped.rs|s/        if self.layout.is_planned {/        if false {/
planned ranges are apart|src/os/plan.rs|s/let fits = word == 0 .* == pages;/let fits = true;/
mapping replaces nothing|src/os/plan.rs|s/let flags = FRESH | libc::MAP_FIXED_NOREPLACE;/let flags = FRESH | libc::MAP_FIXED;/
R1 split mappings apart|src/heap/pages/split_mappings.rs|s/        self.count -= 1;//
R1 split mappings renewed|src/heap/blocks/large.rs|s/        self.merge(range);//
D1 reciprocal 0 outside spans|src/heap/blocks/span.rs|s/self.set_descriptor(first + Pages(page), Descriptor::none());//
no slot past the end|src/heap/slots/class.rs|s/self.pages.bytes() - (self.slots \* self.slot_size) as usize/0/
D2 bits are slots|src/heap/slots/class.rs|s/(1 << (self.slots - first)) - 1/u64::MAX/
D3 countdown|src/heap/blocks/span.rs|s/descriptor.countdown.set((shape.partial_threshold() - free) as u16);/descriptor.countdown.set(0);/
S1 countdown of a partial span|src/heap/blocks/span.rs|s/self.list(class, page, shape.slots - free);/self.list(class, page, shape.slots - free + 1);/
S2 partial when worth it|src/heap/blocks/span.rs|s/} else if free >= shape.partial_threshold() {/} else if free > shape.partial_threshold() {/
S3 a spare is empty|src/heap/blocks/span.rs|s/if free == shape.slots {/if free + 1 >= shape.slots {/
spans are filled from any word on|src/heap/blocks/span.rs|s/(page.0 ^ self.word_seed).wrapping_mul(0x9E37_79B9) >> 16/0/
S4 an active span is not purged|src/heap/blocks/span.rs|s/            self.count_as_resident(first);//
H1 commit before use|src/heap/growth/grow.rs|s/if top.offset() <= self.committed() {/if top.offset() <= self.committed() + 8192 {/
H2 every page has an owner|src/heap/blocks/large.rs|s/start: page + count, end: page + old_count/start: page + count, end: page + count/
H3 an active span is in no list|src/heap/blocks/span.rs|s/            self.unlist(class, chosen);//
H4 live counts|src/heap/blocks/plain.rs|s/(\*bin).freed = (\*bin).freed.wrapping_add(1);//
H4 blocks of an active span|src/heap/blocks/span.rs|s/bin.taken.wrapping_add(freed).wrapping_sub(free.into())/bin.taken.wrapping_sub(free.into())/
H4 countdowns of an active span|src/heap/blocks/span.rs|s/            bin.taken = bin.taken.wrapping_add(NEVER.into());//
one foreign block and no other|src/heap/blocks/foreign.rs|s/only.is_none_or(|only| only == block)/only.is_none_or(|_| true)/
double free|src/heap/slots/free_bit.rs|s/"jbe {rare}"/"je {rare}"/
double free as a countdown ends|src/heap/blocks/plain.rs|s/if !slot_at(descriptor, block).is_some_and(/if (*head).countdown.get() > 0 \&\& !slot_at(descriptor, block).is_some_and(/
bits modulo 64|src/heap/slots/class.rs|s/(product as u64).rotate_left(6)/(product as u64).rotate_left(7)/
large blocks are not counted as small|src/heap/blocks/plain.rs|s/(\*heap).freed_bytes = (\*heap).freed_bytes.wrapping_sub(size as u64);//
old contents kept|src/heap/fast.rs|s/slot_size.min(new_size)/old_size.min(new_size).min(slot_size)/
shrink never fails|src/heap/fast.rs|s/if new_size > slot_size {/if new_size > 0 {/
pages moved whole|src/heap/blocks/large.rs|s/to = to + piece.count();//
no live page purged|src/heap/slots/descriptor.rs|s/page_bytes - slack).div_ceil(shape.slot_size);/page_bytes - slack) \/ shape.slot_size;/
light work is not searched again and again|src/reclaim/policy/holes.rs|s/let is_light = self.idle \&\& filled_us < self.searched_us;/let is_light = false;/
holes found|src/reclaim/purge.rs|s/(room.holes, self.hole_from(from))/(false, self.hole_from(from))/
refused moves are not tried again|src/heap/blocks/large.rs|s/            self.remap_refused = true;//
many ranges at once|src/os/discard.rs|s/    Some(Purged { ranges: done, calls: 1, errno: 0 })/    Some(Purged { ranges: done, calls: 2, errno: 0 })/
another call gives back|src/os/discard.rs|s/        if is_discarded {/        if false {/
refusals are reported at the end|src/reclaim/sweeps.rs|s/        Outcome { refused: progress.refused, ..outcome }/        outcome/
whole kernel pages|src/reclaim/purge.rs|s/let start = range.start.0.next_multiple_of(per_kernel_page);/let start = range.start.0;/
budget kept|src/reclaim/purge.rs|s/Budget::Until(_) => STEP,/Budget::Until(_) => Pages(WINDOW),/
parts add up|src/heap/stats.rs|s/free_resident: free_in_spans + /free_resident: /
reciprocals|src/heap/slots/class.rs|s/(least + (least >> 24)).next_multiple_of(1 << 16)/(1u64 << 58) \/ size \& !0xFFFF/
a deleted heap is remembered|src/heap/lifecycle/deleted.rs|s/entry(heap).swap(heap, AcqRel) == heap/entry(heap).load(Relaxed) == heap/
shares of address space|src/heap/growth/reserve.rs|s/left \/ (2 + 4 \* heaps)/left \/ 2/
a reset heap is as new|src/heap/lifecycle/heap_cache.rs|s/        self.page_runs().clear();//
P6 the end of the dirty pages|src/heap/pages/runs.rs|s/self.counts.dirty_end = self.counts.dirty_end.max(range.end);//
refaults of returned pages are counted|src/heap/growth/grow.rs|s/            self.page_runs().note_refaults(known, now_us);//
too soon is a second|src/heap/pages/refaults.rs|s/units < SOON/units < 4 * SOON/
the growth limit holds|src/heap/growth/grow.rs|s/<= self.growth_limit;/<= self.growth_limit || true;/
the growth limit returns|src/reclaim/scheduler.rs|s/        heap.growth_limit = heap.resting_limit(heap.hooks.clock.now_us);/        heap.growth_limit = heap.hooks.limits.hard;/
room is made at the limit|src/reclaim/limit_reclaim.rs|s/            self.purge_dirty(keep, PurgeReason::Limit, Budget::Unlimited);//
the collector is due near the limit|src/reclaim/limit_reclaim.rs|s/if self.wants_collector(held, now_us) {/if self.wants_collector(held, now_us) \&\& now_us == 1 {/
the collector is due after a refusal|src/heap/growth/refusal.rs|s/        R::allocation_refused(self);/        if size == 1 { R::allocation_refused(self) }/
the collector backs off when it does not help|src/reclaim/emergency.rs|s/now_us + BACKOFF \* took_us/now_us/
the growth limit falls|src/reclaim/emergency.rs|s/\*growth_limit = halfway.min(\*growth_limit);/*growth_limit = halfway.max(*growth_limit);/
a suspended emergency asks again|src/reclaim/emergency.rs|/fn want_emergency/,/^    }/{s/self.take_turn(held);/self.go_on_collecting();/;s/ || self.has_freed_much(held)//}
an emergency ends at a tick|src/reclaim/scheduler.rs|s/        self.suspend_emergency();/        if now_us == 1 { self.suspend_emergency(); }/
a tick is due for an emergency|src/reclaim/scheduler.rs|s/        if self.may_suspend_emergency() {/        if false {/
a tick leaves the VM of another thread alone|src/reclaim/emergency.rs|s/self.collecting \&\& self.may_cancel_collector_due()/self.collecting \&\& (true || self.may_cancel_collector_due())/
an emergency that has helped ends|src/reclaim/emergency.rs|s/if self.has_freed_much(held) {/if held == 1 {/
thrashing lasts|src/reclaim/thrashing.rs|s/if self.against >= SECONDS {/if self.against >= 1 {/
refusals by the kernel are reported|src/heap/growth/refusal.rs|s/            counts.purge_errno = errno;//
no emergency in vain|src/reclaim/limit_reclaim.rs|s/(!found).then_some((self.free_resident(), retry_us));/None.filter(|_: \&(usize, u64)| found);/
an emergency waits for what is lacking|src/reclaim/limit_reclaim.rs|s/saturating_sub(free) < lacking/saturating_sub(free) < 1/
an emergency in vain is not believed for ever|src/reclaim/limit_reclaim.rs|s/ \&\& now_us < retry_us//
emergencies are counted as steps|src/reclaim/limit_reclaim.rs|s/            self.note_step(start_us);//
only a limit makes room|src/reclaim/scheduler.rs|s/if !limits.are_set_as(\&heap.hooks.limits)/if limits.hard > 0/
a search goes on until growth fits|src/reclaim/limit_reclaim.rs|s/while !self.fits(wanted, limit) {/for _ in 0..1 {/
a search stops when growth fits|src/reclaim/limit_reclaim.rs|s/while !self.fits(wanted, limit) {/loop {/
the last search begins anew|src/reclaim/limit_reclaim.rs|s/let mut is_last = self.hooks.hole_sweep.is_none();/let mut is_last = true;/
no search in vain|src/reclaim/limit_reclaim.rs|s/(!found).then_some(now_us)/None.filter(|_: \&u64| found)/
empty spans are no loss|src/heap/blocks/retry.rs|s/                self.retire_all();//
empty spans are no loss at a limit|src/heap/blocks/retry.rs|s/} else if !by_limit \&\& has_spans {/} else if !by_limit \&\& has_spans \&\& !has_room {/
every slot counts at a hard limit|src/heap/blocks/retry.rs|s/.or_else(|| last(self))//
partial spans are unlisted for a slot|src/heap/blocks/last_slots.rs|s/            SpanState::Partial => self.unlist(class, span),/            SpanState::Partial => {}/
only slots on resident pages are handed out|src/heap/slots/descriptor.rs|s/self.free.has(slot) \&\& pages.all(/self.free.has(slot) || pages.all(/
purged pages are used when they may be|src/heap/blocks/last_slots.rs|s/if !self.may_use(span) {/if true {/
G1 unreachable slots|src/heap/blocks/span.rs|s/        self.note_unpurged(first);//
no walk in vain|src/heap/blocks/last_slots.rs|s/if self.free_slots_of(class) <= unreachable \&\& /if /
a walk when there is room|src/heap/blocks/last_slots.rs|s/ \&\& !self.may_grow(pages_needed) {/ {/
history keeps to a limit|src/heap/lifecycle/settings.rs|s/ \&\& !self.has_room_for_history()/ \&\& value > 1/
history counts when it is on|src/reclaim/scheduler.rs|s/            heap.count_history();//
holes alone are news|src/reclaim/scheduler.rs|s/ || emptied >= RECHECK_BYTES;/;/
every call takes a step|src/reclaim/scheduler.rs|s/let stepped = outcome.calls > 0;/let stepped = true;/
a changed option is news|src/reclaim/scheduler.rs|s/heap.hooks.outdated = heap.hooks.clock.shown_us.is_some();//
only what is remapped is in return|src/heap/blocks/large.rs|s/if remap { old_count } else { Pages::ZERO }/old_count/
no memory is thrown away by a move|src/heap/blocks/large.rs|s/self.page_runs().dirty_in(known).bytes() \* 2 <= target.count().bytes()/known.count() <= target.count()/
large blocks are paid for|src/reclaim/limit_reclaim.rs|s/self.purge_dirty(keep, PurgeReason::Limit, Budget::Until(start_us + steps \* step_us));//
S2 links lead back|src/heap/blocks/integrity.rs|s/to == page \&\& back == page/to == page || back == page/
refused requests commit nothing|src/heap/growth/grow.rs|s/if !self.may_grow((returned + fresh).saturating_sub(pages_credited))/if !self.commit(range.end) || !self.may_grow((returned + fresh).saturating_sub(pages_credited))/
fullest spans first|src/heap/blocks/span.rs|s/if free < fewest \&\& self.may_use(page) {/if (free > fewest || fewest == u32::MAX) \&\& self.may_use(page) {/
what is kept is kept|src/reclaim/purge.rs|s/dirty: self.runs.dirty.saturating_sub(sweep.keep),/dirty: self.runs.dirty,/
the slow path looks|src/heap/hooks.rs|s/            R::poll(self);//
auto off is off|src/reclaim/pace.rs|s/        let auto = self.options.get(Key::Auto) == 1;/        let auto = true;/
light work fills no holes|src/reclaim/policy.rs|s/Pages(sparse.0 \/ NEEDED_SHARE)/Pages(sparse.0 \/ NEEDED_SHARE \/ 64)/
light work needs nothing that a swing needed|src/reclaim/policy.rs|s/Pages(needed.0 \/ NEEDED_SHARE)/Pages(needed.0 \/ NEEDED_SHARE \/ 8)/
a search that was begun has its time|src/reclaim/pace.rs|s/!is_searching/(is_searching || !is_searching)/
what comes behind a search is searched again|src/reclaim/policy/holes.rs|s/            churned: self.churned,/            churned: Pages::ZERO,/
a climb back keeps what it needs|src/reclaim/policy/demand.rs|s/filter(|level| level.is_neared(now_us, used))/filter(|level| used > level.level)/
no packing while demand climbs|src/reclaim/policy/demand.rs|s/let goes_on = before > /let goes_on = before < /
packing after a fall|src/reclaim/policy/demand.rs|s/|_| !is_known || goes_on/|_| true/
what is idle goes before its time|src/reclaim/policy/idle.rs|s/            let stays = if goes { kept } else { much\[level\] };/            let stays = much[level];/
what was returned is not idle|src/reclaim/policy/idle.rs|s/            level.before = level.before.saturating_sub(pages);//
what was needed is not idle|src/reclaim/policy/idle.rs|s/            least.least = least.least.min(dirty);/            least.least = dirty;/
less waits for longer|src/reclaim/policy/idle.rs|s/    (settings.decay_us << level) \/ MOMENTS/    settings.decay_us \/ MOMENTS/
a look that took long is not followed by one that takes as long|src/reclaim/pace.rs|s/(since_us.min(2 \* interval_us) /(since_us /
a thread that waits for a processor does not pause for long|src/reclaim/pace.rs|s/took_us.min(OVERRUN \* earned_us)/took_us/
much is left to the background thread|src/reclaim/pace.rs|s/ \&\& (!is_much || self.background_comes_soon())/ \&\& !is_much/
but not for long|src/reclaim/pace.rs|s/now_us < since_us + LEAVE_US/now_us >= *since_us/
a forecast knows what is idle|src/reclaim/policy.rs|s/        let idle = (self.now_us.saturating_add(quiet_us), idle_keep);/        let idle = (u64::MAX, Pages(u32::MAX));/
a forecast knows when the credit is spent|src/reclaim/policy.rs|s/\[Some(idle), spent\]/[Some(idle), spent.filter(|_| false)]/
what large blocks leave has a credit|src/reclaim/policy.rs|s/self.credit.most(dirty, at_us).min(settings.retain_max)/settings.retain_max/
the end of the credit wakes the host|src/reclaim/policy.rs|s/idle_us, spent_us\]/idle_us, spent_us.filter(|_| false)]/
what is extra for too long is remembered|src/reclaim/policy/credit.rs|s/^const SPENT_MAX: u64 = 4 /const SPENT_MAX: u64 = 1 /
what may be retained spends no credit|src/reclaim/policy/credit.rs|s/saturating_sub(small).max(retain)/saturating_sub(small)/
what was returned spends no credit|src/reclaim/policy.rs|s/        self.state.credit.note_returned(pages);//
what small blocks left and went back is forgotten|src/reclaim/policy/credit.rs|s/            self.small_until_us = 0;//
what small blocks needed long ago is forgotten|src/reclaim/policy/credit.rs|s/        } else if now_us < self.small_until_us {/        } else if self.small_until_us > 0 {/
small blocks may swing while large ones have their pages|src/reclaim/policy/credit.rs|s/        } else if now_us < self.small_until_us {/        } else if false {/
a search that returned nothing was not premature|src/reclaim/policy/holes.rs|s/ \&\& self.returned > Pages::ZERO;/;/
a large block is seen between two looks|src/reclaim/pace.rs|s/            self.hooks.policy.note_large(&self.settings(), &observation);/            let _ = observation;/
what is needed again has credit, too|src/reclaim/emptied.rs|s/        needed.min(self.hooks.policy.most(.*/        needed/
a new cap holds for the next large block|src/reclaim/emptied.rs|s/kept.max(retain).min(retain_max)/kept.max(retain)/
pages of blocks of 128 KiB are counted|src/heap/blocks/large.rs|s/        self.counts.mmapped_pages -= mmapped(count);//
much is returned soon though the heap works|src/reclaim/visit.rs|s/if pages >= MUCH \&\& unpaid < UNPAID_MOST {/if pages > Pages(u32::MAX - 1) {/
early visits that do not pay become rare|src/reclaim/visit.rs|s/        watch.set_unpaid_until(until_us.min(now_us + UNPAID_MOST \* UNPAID_US));//
an option reaches a thread that was not called|src/reclaim/scheduler.rs|s/        heap.leave_by_new_options();/        if heap.watch().is_on() { heap.leave_by_new_options() }/
what the other thread has is not stuck|src/reclaim/sweeps.rs|s/let dirty = if self.watch().is_on() {/let dirty = if self.watch().is_on() \&\& false {/
what is free grows old|src/reclaim/policy/decay.rs|s/        self.age_by(ended, epoch_us);//
empty spans are old|src/reclaim/sweeps.rs|s/        self.hooks.policy.note_found(\&settings, self.runs.dirty.saturating_sub(dirty));//
a refusing kernel is left alone|src/reclaim/sweeps.rs|s/lasts_us => (now_us \/ lasts_us + 1) \* lasts_us,/_ => now_us,/
more and more rarely|src/reclaim/sweeps.rs|s/(self.lasts_us \* 2).clamp/self.lasts_us.clamp/
once a minute at least|src/reclaim/sweeps.rs|s/(self.lasts_us \* 2).clamp(REST_US.0, REST_US.1)/(self.lasts_us * 2).max(REST_US.0)/
rests end together|src/reclaim/sweeps.rs|s/lasts_us => (now_us \/ lasts_us + 1) \* lasts_us,/lasts_us => now_us + lasts_us,/
soon again when a part was taken|src/reclaim/sweeps.rs|s/            _ => REST_US.0,/            _ => REST_US.1,/
refused dirty pages are not given up|src/reclaim/sweeps.rs|s/if sweep.refused > 0 || self.runs.dirty/if self.runs.dirty/
refused holes are not given up|src/reclaim/sweeps.rs|s/            self.hooks.holes_backoff.note(self.hooks.clock.now_us, \&progress);//
parts of kernel pages do not spin|src/reclaim/sweeps.rs|s/        self.hooks.unpurgeable = self.left_by(\&progress).saturating_sub(keep);//
a sweep of dirty pages goes on|src/reclaim/sweeps.rs|s/            self.hooks.dirty_sweep = Some(progress);//
the clock may go back|src/reclaim/scheduler.rs|s/self.now_us = self.at(shown_us);/self.now_us = shown_us;/
percentiles|src/reclaim/latency_histogram.rs|s/(all \* percent).div_ceil(100)/all * percent \/ 200/
history is a ring|src/reclaim/history.rs|s/let count = count.min(self.taken).min(SAMPLES);/let count = count.min(self.taken);/
pressure starts at half|src/reclaim/limits.rs|s/let half = limit \/ 2;/let half = limit \/ 4;/
page cache is not used memory|src/cgroup.rs|s/usage.saturating_sub(self.cache().unwrap_or(0))/usage/
a fault of the unwinder ends a backtrace|src/os/fault.rs|s/if is_access \&\& recover(context) {/if false \&\& recover(context) {/
signals that are sent are no accesses|src/os/fault.rs|s/(\*info).si_code > 0/(*info).si_code != i32::MIN/
handlers of before have their masks|src/os/fault.rs|s/libc::pthread_sigmask(libc::SIG_BLOCK, \&mask/libc::pthread_sigmask(libc::SIG_UNBLOCK, \&mask/
nothing is attempted where others handle faults|src/os/fault.rs|s/now.sa_sigaction == ours().sa_sigaction/true/
children attempt nothing of other threads|src/os/fault_probe.rs|s/if place.thread.load(Ordering::Relaxed) != this {/if false {/
calls that are not for a block are seen by other threads|src/heap/checked/call.rs|s/            checking.enter(RecordedCall::to(function));//
an unwinder may fault in a handler|src/os/fault_probe.rs|s/        libc::pthread_sigmask(libc::SIG_UNBLOCK, .*//
Q1 a slot in use has a checksum|src/heap/checked/block.rs|s/            checksum if checksum == !live => HeaderState::Freed,/            _ if self.number_and_size > 0 => HeaderState::Freed,/
wrong sizes are reported|src/heap/checked.rs|s/ \&\& live.size != old_size {/ \&\& false {/
closures that were not finished are no bugs|src/heap/checked/block.rs|s/    fits \&\& upvalues.is_multiple_of(UPVALUE)/    false \&\& fits \&\& upvalues.is_multiple_of(UPVALUE)/
only closures of Lua are allowed|src/heap/checked/block.rs|s/ \&\& kind() == KIND//
blocks freed twice are reported|src/heap/checked/verify.rs|s/== HeaderState::Live {/!= HeaderState::Broken {/
writes past the end are reported|src/heap/checked/verify.rs|s/if unsafe { body.zone_is_whole(live.size) }/if true || unsafe { body.zone_is_whole(live.size) }/
writes into freed blocks are reported|src/heap/checked/release.rs|s/if unsafe { body.is_all(FREE_FILL) }/if true || unsafe { body.is_all(FREE_FILL) }/
freed blocks are held back|src/heap/checked/release.rs|s/if !self.state.quarantine.push(entry) {/{/
large blocks lie between guards|src/heap/checked/large.rs|s/let may = self.state.may_guard \&\& /let may = false \&\& /
guards are paid for|src/heap/checked/large.rs|s/let affords = self.left >= GUARD_COST;/let affords = true;/;s/self.left -= GUARD_COST;//
guards take a share of the mappings|src/heap/checked/fault_registry.rs|s/let fits = /let fits = true || /
large blocks are protected when freed|src/heap/checked/large.rs|s/let is_protected = guarded \&\& /let is_protected = false \&\& /
guarded slots are protected when freed|src/heap/checked/guarded_pool.rs|s/            os.protect(start, bytes);//
some blocks get a guarded slot|src/heap/checked/sample.rs|s/        if self.state.countdown > 0 {/        if true {/
who allocated is known|src/heap/checked/guarded_pool.rs|s/backtrace: Backtrace::here() }/backtrace: Backtrace::NONE }/
two threads are reported|src/heap/checked/call.rs|s/            if now != this {/            if false {/;s/        if other != 0 {/        if false {/
faults find their heap|src/heap/checked/fault_registry.rs|s/unsafe { (registered.report_fault)(registered.heap, address, access) };//
the last lines go to a log|src/log.rs|s/ || is_log(libc::STDERR_FILENO))/)/
the last lines go to no other file|src/log.rs|s/is_log(libc::STDERR_FILENO))/true)/
lines do not wait for ever|src/log.rs|s/Patience::of_ms(100)/Patience::of_ms(1_000_000)/
a database of before the first use has no lines|src/log.rs|s/file.filter(|_| !may_be_database())/file/
pages that cannot come back are mapped over|src/os/discard.rs|s/map_over(moved.cast(), bytes) \&\& is_whole/is_whole \&\& (true || map_over(moved.cast(), bytes))/
shared VMs: calls wait for their turn|src/vm/lock.rs|s/        while self.is_inside.load(Acquire) {/        while false {/
shared VMs: the owner sees that the lock is taken|src/vm/lock.rs|s/        keep_order();/        let _ = keep_order;/
shared VMs: others have the threads ordered|src/vm/lock.rs|s/if !order_threads() {/let _ = order_threads; if false {/
shared VMs: the owner sees what others did|src/vm/lock.rs|s/is_open.load(Acquire)/is_open.load(Relaxed)/
shared VMs: others see what the owner did|src/vm/lock.rs|s/Free => self.is_inside.store(false, Release)/Free => self.is_inside.store(false, Relaxed)/
shared VMs: allocations wait for their turn|src/vm/owner.rs|s/        let entry = lock.enter();/        let entry = super::lock::Entry::Free;/
shared VMs: a fork finds heaps whole|src/vm/owner.rs|s/    each_shared(.lock. lock.lock(order_threads));//
shared VMs: a child waits for no owner|src/vm/lock.rs|s/        self.is_inside.store(false, Relaxed);//
shared VMs: the end is reported|src/vm.rs|s/            function(context);//
pages that a kernel refused are still free|src/vm/previous.rs|s/                self.freed += Self::LEAST;//
passes over the previous allocator have a share of the time|src/vm/previous.rs|s/(took_us \* Self::SHARE).min/(0 * took_us).min/
a damaged record leads to known memory only|src/builtin/mappings.rs|s/    memory\[\.\.behind\]\.last()?\.part(at, bytes)/    memory[..behind].last().map(|_| Memory { start: at, end: at.wrapping_add(bytes) })/
a damaged record leads to what is still mapped|src/builtin/known.rs|s/(answer != Err(libc::ENOMEM))/(answer.is_ok() || bytes > 0)/
records that go around end|src/builtin/known.rs|s/        self.segments.len()$/        1 << 16/
a heap that has grown is recognised anew|src/builtin/known.rs|s/may_read_list => HeapView::read(os, self.state)/may_read_list => Err(Error::Unknown)/
growth is told from damage|src/builtin/segments.rs|s/            .inspect_err(|_| mappings.note_way_out())?/            .inspect_err(|_| ())?/
the end of a heap believes notes|src/builtin/segment_records.rs|s/find_in(self.noted, at, bytes).is_some() =>/find_in(self.noted, at, bytes).is_some() \&\& bytes == 0 =>/
the end of a heap believes nothing else|src/builtin/segment_records.rs|s/find_in(self.noted, at, bytes).is_some() =>/find_in(self.noted, at, bytes).is_some() || bytes > 0 =>/
a refused question is no damage|src/builtin/segment_records.rs|s/Err(libc::ENOMEM) => return false/Err(_) if bytes > 0 => return false/
the end of a heap opens no file|src/builtin/known.rs|s/let (released, kept) = match view {/let (released, kept) = match view.or_else(|_| HeapView::read(os, self.state)) {/
the newest segment ends with the top|src/builtin/segment_records.rs|s/1 => state.check_top(&segment),/1 => Ok(()),/
the other segments end with fenceposts|src/builtin/segment_records.rs|s/2..=CAPACITY => segment.check_end(),/2..=CAPACITY => Ok(()),/
a record is read where memory is accessible|src/builtin/segment_records.rs|s/ != Err(libc::EFAULT)/ != Err(libc::EFAULT) || at > 0/
what cannot be read is known|src/os/kernel.rs|s/                errno => Err(errno),/                _ => Ok(()),/
a pass by itself opens no file|src/builtin/known.rs|s/ leads_out \&\& may_read_list => HeapView/ leads_out => HeapView/
notes are believed where the kernel does not answer|src/builtin/known.rs|s/answer != Err(libc::ENOMEM)/told.is_ok()/
nothing from outside goes before it is due|src/reclaim/foreign.rs|s/self.foreign_next_us() == Some(0)/self.foreign_next_us().is_some()/
pages from outside wait for what is left of the budget|src/reclaim/foreign.rs|s/ || !is_spent())/ || before.calls > 0)/
a reclaim of both keeps its budget|src/reclaim/foreign.rs|/fn reclaim_foreign/,/^    }/s/if before.more {/if false {/
a sweep without a deadline is whole|src/builtin/sweep.rs|s/    if deadline_us.is_none() {/    if false {/
a VM is quiet for a second|src/vm/collect/schedule.rs|s/        if bytes.abs_diff(self.quiet_bytes) > noise(self.quiet_bytes) {/        if bytes == u64::MAX {/
a field is the only place that fits|src/vm/collect/layout.rs|s/found.next().filter(|_| found.next().is_none())/found.next()/
any sign of activity counts|src/vm/collect/layout.rs|s/            \&\& current_frame == 0//
a wait that Lua called is left alone|src/vm/collect.rs|s/Callers::of_this(self.object)/Callers::of_this(self.object + 1)/
a VM of two threads is left alone|src/vm/owner.rs|s/        vm_heap.collection.note_handover();//
a VM with a host is left alone|src/vm/collect.rs|s/            \&\& vm_heap.closed.is_none()//
an event waits for one step|src/vm/collect.rs|s/Kernel.now_us() + budget_us;/Kernel.now_us() + 1000 * budget_us;/
the background thread returns free pages|src/heap/pages/watch/returning.rs|s/let highest = self.watch.highest(dirty.get(), wanted.0);/let highest = 0;/
a kernel page that is claimed in part stays|src/heap/pages/watch/returning.rs|s/claim.choose(self.watch.whole_kernel_pages(claim.pages()));//
it returns holes|src/heap/pages/watch/returning.rs|s/                batch.add_span(page);//
it leaves active spans alone|src/heap/blocks/span.rs|s/            self.page_runs().disturb(page);//
a span that was searched rests again|src/heap/pages/batch.rs|s/        if !self.is_span {/        {/
a span of several holes is released once|src/heap/pages/batch.rs|s/                    note(claim, \*range);/                    note(claim, *range); claim.end();/
a span of several holes is released once, in a race|src/heap/pages/batch.rs|s/                    note(claim, \*range);/                    note(claim, *range); claim.end();/
what it returned is counted|src/heap/pages/watch/returning.rs|s/            done.pages.fetch_add(range.count().0, Relaxed);//
claims of sheets end|src/heap/pages/watch/sheets.rs|s/        if !vanishes() {/        if false \&\& !vanishes() {/
claims of runs end|src/heap/pages/watch/closing.rs|s/        if !vanishes() {/        if false \&\& !vanishes() {/
larger kernel pages are not searched|src/reclaim/background.rs|s/        if !self.watch().can_return_holes() {/        if false {/
what the kernel refused stays dirty|src/heap/pages/batch.rs|s/            self.word.put_back(self.stays);//
the end of dirty pages is above those|src/heap/pages/runs/dirty.rs|s/if is_sure { end }/if true { end }/
a host that ticks is left alone|src/reclaim/visit.rs|s/    if now_us < forecast.not_before_us {/    if false {/
it comes again for what fades|src/reclaim/visit.rs|s/    Some(due_us.max(forecast.not_before_us).max(rested_us).max(now_us + VISIT_AGAIN_US))/    (due_us == 1).then_some(rested_us)/
K1 a sheet becomes vacant|src/heap/pages/runs.rs|s/        self.vacate_sheets(range);/        self.vacate_sheets(PageRange { end: range.start, ..range });/
K2 a sheet in use is not a returned one|src/heap/pages/sheet.rs|s/            self.set_returned(false);//
K3 what the background thread returned is counted|src/heap/pages/runs.rs|s/        self.counts.sheets.note_returned(returns.sheets);//
K3 sheets are counted anew|src/heap/pages/runs/vacancy.rs|s/        self.counts.sheets.recounted(held, closed)/        self.counts.sheets.recounted(held + 1, closed)/
descriptors go back|src/reclaim/purge.rs|s/            self.return_sheets(cursor, \&mut clock, budget, \&mut outcome);/            if budget.is_spent(0) { self.return_sheets(cursor, \&mut clock, budget, \&mut outcome); }/
a kernel that refuses descriptors is left alone|src/reclaim/sheets.rs|s/            if is_refused \&\& /            if false \&\& /
a sweep goes on below returned descriptors|src/reclaim/sheets.rs|s/cursor.leave_sheets(within.end)/cursor.leave_sheets(cursor.sheets_left().end)/
and comes back to those of pages that it returns|src/reclaim/purge.rs|s/self.sheets_end.max(self.window.end)/self.sheets_end.max(self.window.start)/
runs that no budget was left for are closed|src/reclaim/purge.rs|s/(sweep.holes || self.runs.may_close)/sweep.holes/
a host ticks for descriptors, too|src/reclaim/scheduler.rs|s/if self.hooks.dirty_sweep.is_some()$/if false/
the background thread returns them|src/reclaim/visit.rs|s/    if !watch.return_sheets(\&purge, is_listed) {/    if false \&\& !watch.return_sheets(\&purge, is_listed) {/
they wait for their pages|src/heap/pages/watch/sheets.rs|s/firsts.all(|first| is_good(self.word(PageIndex(first)).dirty))/firsts.all(|first| is_good(self.word(PageIndex(first)).dirty) || true)/
refused descriptors are held|src/heap/pages/watch/sheets.rs|s/        while index < self.count {/        while index < self.count { self.sheets(index, self.count).for_each(|sheet| sheet.set_returned(true));/
they count again|src/heap/growth/grow.rs|s/        again + Pages/        Pages/
checked heaps keep descriptors|src/reclaim/sheets.rs|s/if self.is_checked() || /if /
K4 a closed sheet is opened before use|src/heap/growth/grow.rs|s/        if !self.open_sheets(known) {/        if returned == known.count() \&\& range.count() > Pages(1 << 20) \&\& !self.open_sheets(known) {/
only long runs are closed|src/heap/pages/watch/closing.rs|s/        bytes >= LEAST || /        bytes > 0 || /
what is opened leaves no short run|src/heap/pages/runs/opening.rs|s/        let below = self.less_below(closed, withheld);/        let below = self.less_below(closed, withheld); let below = PageRange { start: below.end, ..below };/
a refused opening lets go|src/heap/pages/runs/opening.rs|s/                self.let_claim(vacant);/                self.let_claim(PageRange { end: vacant.start, ..vacant });/
more is opened than is needed|src/heap/pages/runs/opening.rs|s/        let above = self.more_above(closed, withheld);/        let above = PageRange { start: closed.end, end: closed.end.max(self.more_above(closed, withheld).start) };/
a refused closing leaves sheets open|src/heap/pages/watch/closing.rs|s/sheet.set_closed(false)/sheet.set_closed(true)/
the background thread closes runs|src/reclaim/visit.rs|s/    watch.close_runs(\&decommit, is_listed);/    watch.close_runs(\&decommit, \&|| false);/
pages above the top are given up|src/reclaim/sheets.rs|s/        self.close_tail();/        if self.growth_limit == 1 { self.close_tail(); }/
the heap waits for a claim|src/heap/pages/claim.rs|s/            if free == pages {/            if free == free {/
pages that are claimed in part are let go of|src/heap/pages/claim.rs|s/            self.release(free);//
what was claimed in vain is let go of|src/heap/pages/claim.rs|s/            self.release(free \& !mine);//
only dirty pages are claimed|src/heap/pages/claim.rs|s/let mine = self.bits.fetch_and(!free, AcqRel) \& free;/self.bits.fetch_and(!free, AcqRel); let mine = free;/
a page that is set releases what was done|src/heap/pages/claim.rs|s/fetch_or(pages, Release)/fetch_or(pages, Relaxed)/
a claim acquires that|src/heap/pages/claim.rs|s/self.bits.fetch_and(!free, AcqRel)/self.bits.fetch_and(!free, Relaxed)/
the end of a claim releases its purge|src/heap/pages/claim.rs|s/self.claimed.fetch_and(!pages, Release)/self.claimed.fetch_and(!pages, Relaxed)/
pages that may be put back are seen|src/heap/pages/claim.rs|s/        set | !mine/        set | mine \& 0/
pages put back leave others alone|src/heap/pages/claim.rs|s/self.bits.fetch_or(pages, Relaxed);/self.bits.store(self.get() | pages, Relaxed);/
retained memory stays below a limit in use|src/options.rs|s/        changed.check_order(Options::name)/        Ok(())/
and below the soft one|src/options.rs|/(Key::Retain, Key::LimitSoft/s/Key::LimitSoft/Key::LimitHard/
a child of a fork does not wait|src/heap/pages/watch.rs|s/            self.end_stale(word, pages, u64::MAX);//
a child of a fork ends all claims|src/heap/pages/runs/stale.rs|s/            self.watch.end_stale(&chunk.dirty\[word\], u64::MAX, may_be_dirty);//
and those of spans|src/heap/pages/mend.rs|s/        self.end_stale_spans();//
but pages in use are not dirty|src/heap/pages/runs/stale.rs|s/let may_be_dirty = .*/let may_be_dirty = u64::MAX;/
and sheets in use not vacant|src/heap/pages/runs/stale.rs|s/let is_vacant = self.is_vacant(pages);/let is_vacant = true;/
and active spans do not rest|src/heap/pages/mend.rs|s/            \&\& descriptor.span_state() != SpanState::Active//
half a count is not left for later|src/heap/pages/mend.rs|s/self.watch().take_left()/self.watch().take_background_returns().unwrap_or_default()/
before it takes pages|src/heap/growth/grow.rs|s/        self.mend_after_fork();//
before it takes a span|src/heap/blocks/span.rs|s/            self.mend_after_fork();//
before it looks|src/reclaim/background.rs|s/        self.mend_after_fork();//
it counts free pages anew|src/heap/pages/mend.rs|s/            (self.runs.dirty, self.runs.sheets) = (dirty, sheets);/            self.runs.sheets = sheets;/
and what was returned of spans|src/heap/pages/mend.rs|s/            (self.counts.purged, self.counts.slack) = (purged, slack);//
ranges that the kernel refuses are passed over|src/heap/pages/batch.rs|s/let end = index + purge(index);/let end = index + if refused > 0 { 0 } else { purge(index) };/
a heap at work is visited every 1.1 s|src/reclaim/visit.rs|s/(at_work_us + VISIT_APART_US).next_multiple_of(VISIT_EVERY_US)/at_work_us/
and not earlier|src/reclaim/visit.rs|s/    if now_us < watch.again_us() {/    if false {/
a heap that ends gives back where munmap is refused|src/os/kernel.rs|s/ \&\& !map_over(start, bytes) {/ \&\& false {/
functions of a LuaJIT are looked up once|src/vm/emergency.rs|s/if known.setallocf == setallocf as usize {/if false {/
a VM has the functions of its own LuaJIT|src/vm/emergency.rs|s/if known.setallocf == setallocf as usize {/if true {/
the background thread does not spin where futex is refused|src/os/background.rs|s/        if is_refused \&\& /        if false \&\& /
where nanosleep is, too|src/os/background.rs|s/        if libc::nanosleep(\&nap, ptr::null_mut()) != 0 {/        if libc::nanosleep(\&nap, ptr::null_mut()) > 0 {/
the background thread does not outlive the program|src/os/background.rs|s/            if is_last() {/            if false {/
TABLE
}

# A worker has a folder: the copy of the sources, what is built of them, its part of the table and
# the output of its last tests.
fresh_copy() {
    rm -rf "$folder/source"
    mkdir -p "$folder/source"
    git ls-files -z | xargs -0 cp -P --parents -t "$folder/source"
}

# Runs the tests that see what is broken in a file, by a line of a name, up to the first that fails.
run_tests() {
    case $1:${2:-} in
    *:*closures*) tests=--lib ;;
    src/vm/emergency.rs:* | src/vm/previous.rs:*) tests=--lib ;;
    src/os/background.rs:*) tests="--package ebbtide-ffi-tests --test programs background -- --include-ignored" ;;
    *:*where\ munmap\ is\ refused) tests="--package ebbtide-ffi-tests --test programs purge_refused -- --include-ignored" ;;
    *:pages\ that\ cannot\ come\ back*) tests="--package ebbtide-ffi-tests --test failures memory_that_was_moved" ;;
    src/log.rs:*) tests="--package ebbtide-ffi-tests --test programs standard_error -- --include-ignored" ;;
    *:*in\ a\ race) tests="--package ebbtide-models" ;;
    src/heap/pages/claim.rs:* | src/vm/lock.rs:*) tests="--package ebbtide-models" ;;
    src/heap/checked* | src/os/fault.rs:*) tests="--package ebbtide-ffi-tests --test checked -- --include-ignored" ;;
    src/vm/collect/schedule.rs:* | src/vm/collect/layout.rs:*) tests=--lib ;;
    src/vm/collect* | *:a\ VM\ of\ two\ threads*) tests="--package ebbtide-ffi-tests --test preload collecting -- --include-ignored" ;;
    src/vm*) tests="--package ebbtide-ffi-tests --test doors threads_share -- --include-ignored" ;;
    *) tests=--lib ;;
    esac
    # shellcheck disable=SC2086
    (cd "$folder/source" && CARGO_TARGET_DIR=../build RUSTFLAGS=--cap-lints=allow PROPTEST_MAX_SHRINK_ITERS=0 \
        timeout 500 cargo test $tests 2>&1 </dev/null) | sed '/ \.\.\. FAILED$/q' >"$folder/log"
    grep -q '^test result: ok\. [1-9]' "$folder/log"
}

# Prints the entries whose expression changes nothing in its file; fails if there is one.
check_table() {
    table | {
        stale=0
        while IFS='|' read -r name file expression; do
            if sed "$expression" "$file" | cmp -s - "$file"; then
                echo "UNCHANGED  $name: the expression no longer applies to $file"
                stale=1
            fi
        done
        return $stale
    }
}

if [ "${1:-}" = --check ]; then
    check_table
    exit
fi

# Prints what became of an entry; fails if no test saw it.
try_entry() {
    name=$1 file=$2 expression=$3
    sed -i "$expression" "$folder/source/$file"
    if cmp -s "$file" "$folder/source/$file"; then
        echo "UNCHANGED  $name: the expression no longer applies to $file"
        return 1
    fi
    if run_tests "$file" "$name"; then
        echo "SURVIVED   $name"
        return 1
    fi
    if grep -q '^error: could not compile' "$folder/log"; then
        echo "NOT BUILT  $name: $(grep -m 1 '^error' "$folder/log")"
        return 1
    fi
    seen=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$folder/log")
    echo "caught     $name: ${seen:-the process stopped}"
}

# Tries the entries of a worker's part, one after the other; fails if one was not caught.
work() {
    folder=target/mutants/$1
    fresh_copy
    for unbroken in $(cut -d'|' -f2 "$folder/table" | grep -o 'src/\(heap/checked\|vm\|log.rs\)\?' | sort -u); do
        if ! run_tests "$unbroken"; then
            echo "The tests fail, or cannot be built, though nothing is broken: see $folder/log"
            return 1
        fi
    done
    survivors=0
    while IFS='|' read -r name file expression; do
        try_entry "$name" "$file" "$expression" || survivors=$((survivors + 1))
        # Newer than what was built of the broken one.
        cp "$file" "$folder/source/$file"
    done <"$folder/table"
    [ "$survivors" -eq 0 ]
}

jobs=${MUTANTS_JOBS:-$(nproc)}
if ! table | grep -e "${1:-}" >target/mutants/table; then
    echo "No line of the table matches $1"
    exit 1
fi
workers=
for index in $(seq 1 "$jobs"); do
    mkdir -p "target/mutants/$index"
    awk "NR % $jobs == $index % $jobs" target/mutants/table >"target/mutants/$index/table"
    work "$index" &
    workers="$workers $!"
done
failed=0
for worker in $workers; do
    wait "$worker" || failed=1
done
exit $failed
