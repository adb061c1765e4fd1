//! Aligned memory buffers, with huge pages for large ones.

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    ptr::NonNull,
};

const CACHE_LINE: usize = 64;
const HUGE_PAGE: usize = 2 << 20;

/// Bytes behind a buffer that kernels may read, without using them.
const SLACK: usize = 4096;

/// Zeroed bytes, aligned at least to a cache line, with readable slack behind them.
pub(super) struct Buffer {
    start: NonNull<u8>,
    layout: Layout,
    len: usize,
}

// SAFETY: a buffer owns its memory alone, like a Vec.
unsafe impl Send for Buffer {}
// SAFETY: shared references give out only raw pointers; code that writes through them ensures exclusive access.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub fn new(len: usize) -> Buffer {
        let align = if len >= HUGE_PAGE / 8 { HUGE_PAGE } else { CACHE_LINE };
        // Only pages that belong entirely to the buffer can be huge pages.
        let size = if align == HUGE_PAGE { (len + SLACK).next_multiple_of(HUGE_PAGE) } else { len + SLACK };
        let layout = Layout::from_size_align(size, align).expect("the size does not overflow");
        // SAFETY: the size is not zero.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        if align == HUGE_PAGE {
            advise_huge_pages(start, layout.size());
        }
        // Zeroed after the advice, since the first access decides the size of a page.
        // SAFETY: the allocation is this long.
        unsafe { start.write_bytes(0, layout.size()) };
        Buffer { start, layout, len }
    }

    /// Size in bytes, without the slack.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Pointer to a byte.
    pub fn at(&self, byte: usize) -> *mut u8 {
        debug_assert!(byte <= self.len, "{byte} of {}", self.len);
        // SAFETY: within the allocation.
        unsafe { self.start.as_ptr().add(byte) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and owned.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// Requests huge pages, which reduce TLB misses while weights are streamed. A failure has no effect.
fn advise_huge_pages(start: NonNull<u8>, size: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: the range is ours, and the advice changes no content.
    let _ = unsafe { rustix::mm::madvise(start.as_ptr().cast(), size, rustix::mm::Advice::LinuxHugepage) };
    #[cfg(not(target_os = "linux"))]
    let _ = (start, size);
}
