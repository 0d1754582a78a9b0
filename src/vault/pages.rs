//! Pages of the system: to reserve, and to wipe.

use std::ptr;

use super::SIZE;
use super::arena::CHUNK;

/// A range of addresses that no core dump has. A process that forks hands that on.
pub fn reserve() -> Option<usize> {
    if !leaves_room(limit_of_addresses()) {
        return None;
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: nothing is mapped there yet; what is asked of the new range takes nothing from anybody.
    unsafe {
        let range = libc::mmap(ptr::null_mut(), SIZE + CHUNK, libc::PROT_NONE, flags, -1, 0);
        if range == libc::MAP_FAILED {
            return None;
        }
        if libc::madvise(range, SIZE + CHUNK, libc::MADV_DONTDUMP) != 0 {
            libc::munmap(range, SIZE + CHUNK);
            return None;
        }
        // A page of 2 MiB for a key of 2 KiB is what this would be for.
        libc::madvise(range, SIZE + CHUNK, libc::MADV_NOHUGEPAGE);
        Some(range.expose_provenance().next_multiple_of(CHUNK))
    }
}

/// The bound on a process' addresses (`ulimit -v`), with the highest number for none.
fn limit_of_addresses() -> libc::rlim_t {
    let mut limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: it is written there. Failure leaves what is there.
    unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) };
    limit.rlim_cur
}

/// Whether a range that counts as memory in use leaves enough to others.
fn leaves_room(limit: libc::rlim_t) -> bool {
    limit >= 16 * SIZE as libc::rlim_t
}

/// Wipes memory, pages by giving them back to the system: they are zero when they are used next.
///
/// # Safety
///
/// The range is the vault's, and nobody uses it.
pub unsafe fn discard(block: *mut u8, size: usize) {
    // SAFETY: as the caller promises. The system would take the rest of a last page as well, which is
    // somebody else's: a page may be larger than a chunk (64 KiB, with some kernels for aarch64).
    unsafe {
        let is_discarded =
            is_pages(block, size) && libc::madvise(block.cast(), size, libc::MADV_DONTNEED) == 0;
        if !is_discarded {
            wipe(block, size);
        }
    }
}

/// Whether a range is whole pages.
fn is_pages(block: *const u8, size: usize) -> bool {
    // SAFETY: it only asks.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(page)
        .is_ok_and(|page| block.addr().is_multiple_of(page) && size.is_multiple_of(page))
}

/// Overwrites memory, also such that the compiler knows nobody will read.
///
/// # Safety
///
/// So many bytes may be written there.
pub unsafe fn wipe(block: *mut u8, size: usize) {
    // SAFETY: as the caller promises. The instruction is none: it says that it might read memory.
    unsafe {
        ptr::write_bytes(block, 0, size);
        std::arch::asm!("/* {0} */", in(reg) block, options(nostack, preserves_flags, readonly));
    }
}

#[cfg(test)]
mod tests {
    use super::super::within;
    use super::*;

    #[test]
    fn what_is_no_whole_page_is_discarded_without_what_is_beside_it() {
        let mut pages = within(|| vec![1_u8; 2 * CHUNK]);
        for (begin, size) in [(0, 100), (CHUNK, CHUNK / 2 + 1), (CHUNK / 2 + 16, 32)] {
            pages.fill(1);
            // SAFETY: the range is in the vector, and is read again when it has been discarded.
            unsafe { discard(pages.as_mut_ptr().add(begin), size) };
            let is_discarded = |at: usize| at.wrapping_sub(begin) < size;
            for (at, byte) in pages.iter().enumerate() {
                assert_eq!(*byte, u8::from(!is_discarded(at)), "{begin} {size} {at}");
            }
        }
    }

    #[test]
    fn a_narrow_limit_of_addresses_is_left_to_others() {
        assert!(leaves_room(libc::RLIM_INFINITY));
        assert!(leaves_room(limit_of_addresses()));
        assert!(leaves_room(1 << 32));
        assert!(!leaves_room((1 << 32) - 1));
    }
}
