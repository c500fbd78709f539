//! Which thread this is.

/// A number that no other living thread has.
#[inline(always)]
pub(crate) fn this_thread() -> usize {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        let thread: usize;
        // SAFETY: the x86-64 ABI has the thread's own address at fs:0; it is only read.
        unsafe {
            core::arch::asm!("mov {}, fs:0", out(reg) thread,
                options(pure, readonly, nostack, preserves_flags));
        }
        thread
    }
    #[cfg(all(target_arch = "aarch64", target_os = "linux"))]
    {
        let thread: usize;
        // SAFETY: reading the thread pointer has no effect.
        unsafe {
            core::arch::asm!("mrs {}, tpidr_el0", out(reg) thread,
                options(pure, nomem, nostack, preserves_flags));
        }
        thread
    }
    #[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), target_os = "linux")))]
    {
        thread_local! {
            static MARK: u8 = const { 0 };
        }
        MARK.with(|mark| core::ptr::from_ref(mark).addr())
    }
}
