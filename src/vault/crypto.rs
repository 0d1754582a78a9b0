//! The memory of aws-lc, which asks for it as C does: keys that sign, secrets of handshakes.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::Once;

use super::pages::wipe;
use super::{bytes_at, fits, give_back, is_ours, survive_forks, take};

/// That of malloc.
const ALIGNMENT: usize = 16;

/// Has aws-lc allocate from the vault. To be called before anything of TLS is, by one thread.
pub fn take_over() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        survive_forks();
        // SAFETY: the functions do what malloc, realloc and free do. aws-lc has allocated nothing
        // yet that they could be asked to free.
        unsafe { aws_lc_sys::CRYPTO_set_mem_functions(Some(malloc), Some(realloc), Some(free)) };
    });
}

/// As malloc.
extern "C" fn malloc(size: usize, _: *const c_char, _: c_int) -> *mut c_void {
    let taken = take(size, ALIGNMENT);
    match taken.is_null() {
        // SAFETY: malloc may be called with any size.
        true => unsafe { libc::malloc(size) },
        false => taken.cast(),
    }
}

/// As realloc. aws-lc never gives a null pointer.
unsafe extern "C" fn realloc(
    block: *mut c_void,
    size: usize,
    file: *const c_char,
    line: c_int,
) -> *mut c_void {
    // SAFETY: aws-lc has the block from `malloc` or from here.
    let before = unsafe { size_of(block) };
    if fits(size, before) {
        return block;
    }
    let new = malloc(size, file, line);
    if !new.is_null() {
        // SAFETY: both have so many bytes, and they are different ones; aws-lc gives up the old one.
        unsafe {
            ptr::copy_nonoverlapping(block.cast::<u8>(), new.cast(), before.min(size));
            free(block, file, line);
        }
    }
    new
}

/// As free. aws-lc never gives a null pointer, and leaves the wiping to us.
unsafe extern "C" fn free(block: *mut c_void, _: *const c_char, _: c_int) {
    match is_ours(block.cast()) {
        // SAFETY: aws-lc has the block from here, and gives it up.
        true => unsafe { give_back(block.cast()) },
        // SAFETY: aws-lc has the block from malloc, with so many bytes, and gives it up.
        false => unsafe {
            wipe(block.cast(), size_of(block));
            libc::free(block);
        },
    }
}

/// How many bytes a block of aws-lc's has.
///
/// # Safety
///
/// It is from `malloc`.
unsafe fn size_of(block: *mut c_void) -> usize {
    match is_ours(block.cast()) {
        true => bytes_at(block.cast()),
        // SAFETY: what is not the vault's is from malloc.
        false => unsafe { libc::malloc_usable_size(block) },
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SECRET, peek};
    use super::*;

    #[test]
    fn memory_of_aws_lc_is_wiped_and_keeps_its_content_when_it_grows() {
        let file = ptr::null();
        let block = malloc(SECRET.len(), file, 0);
        assert!(is_ours(block.cast()));
        // SAFETY: as aws-lc would do it.
        unsafe {
            ptr::copy_nonoverlapping(SECRET.as_ptr(), block.cast(), SECRET.len());
            let moved = realloc(block, 10_000, file, 0);
            assert_eq!(peek(moved.cast(), SECRET.len()), SECRET);
            assert_ne!(peek(block.cast(), SECRET.len()), SECRET);
            free(moved, file, 0);
            assert_ne!(peek(moved.cast(), SECRET.len()), SECRET);
        }
    }
}
