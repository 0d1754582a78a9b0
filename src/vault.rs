//! Memory for secrets. It is wiped when it is freed, and is not in a core dump.
//!
//! What reads a key makes copies of it on the way, here and in crates that wipe nothing: base64, DER,
//! what a cipher has decrypted. So what is a secret is not told by its type, but by when it came to
//! be: all that a thread allocates [`within`] the reading of an identity is in the vault, whoever
//! allocates it, and stays there when it grows or goes to another thread. Besides, the vault has all
//! that aws-lc allocates: keys that sign, and secrets of handshakes.
//!
//! The vault is one range of addresses, so that freeing tells by the address what belongs to it. Where
//! it is full, or the system gives no memory, ordinary memory takes its place: a secret that could be
//! seen in a core dump is better than a process that ends, and leaves one.

mod arena;
#[expect(unsafe_code, reason = "aws-lc's malloc, realloc and free")]
mod crypto;
#[expect(unsafe_code, reason = "mmap and madvise; writing to wipe")]
mod pages;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use self::arena::{Arena, CHUNK};
pub use self::crypto::take_over as take_over_crypto;
use self::pages::{discard, reserve, wipe};

/// The allocator of this library. It costs a comparison with what is never or seldom written, unless
/// a thread is within the reading of an identity.
pub struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Threads that are within.
static WITHIN: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// How deep this thread is within.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Runs `work`, of which everything that it allocates is secret.
pub fn within<T>(work: impl FnOnce() -> T) -> T {
    let _leaving = Within::enter();
    work()
}

struct Within;

impl Within {
    fn enter() -> Self {
        WITHIN.fetch_add(1, Ordering::Relaxed);
        DEPTH.set(DEPTH.get() + 1);
        Self
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
        WITHIN.fetch_sub(1, Ordering::Relaxed);
    }
}

fn is_within() -> bool {
    // In a library that was loaded later, a thread's own variables cost a call.
    WITHIN.load(Ordering::Relaxed) != 0 && DEPTH.get() != 0
}

// SAFETY: what is not the vault's is the system allocator's, by its address.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_within() {
            let taken = take(layout.size(), layout.align());
            if !taken.is_null() {
                return taken;
            }
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_within() {
            // What is free in the vault is zero.
            let taken = take(layout.size(), layout.align());
            if !taken.is_null() {
                return taken;
            }
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_ours(block) {
            // SAFETY: the caller has it from here, and gives it up.
            unsafe { give_back(block) };
            return;
        }
        if is_within() {
            // SAFETY: the block has so many bytes, and is the caller's until it is freed.
            unsafe { wipe(block, layout.size()) };
        }
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let is_ours = is_ours(block);
        if !is_ours && !is_within() {
            // SAFETY: as the caller promises.
            return unsafe { System.realloc(block, layout, size) };
        }
        // A secret that grows outside stays one.
        if is_ours && fits(size, bytes_at(block)) {
            return block;
        }
        let mut new = take(size, layout.align());
        // SAFETY: the caller promises a layout that is one; both blocks have as many bytes as are
        // copied, and they are different ones; the old one is the caller's to give up.
        unsafe {
            if new.is_null() {
                new = System.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            }
            if !new.is_null() {
                ptr::copy_nonoverlapping(block, new, layout.size().min(size));
                self.dealloc(block, layout);
            }
        }
        new
    }
}

/// Whether `size` bytes may stay in a block of so many.
fn fits(size: usize, block: usize) -> bool {
    size <= block && size >= block / 4
}

/// Bytes of the vault: far more than a thousand identities and the handshakes at a time take. It is a
/// range of addresses, not memory.
const SIZE: usize = CHUNKS * CHUNK;
const CHUNKS: usize = 8192;

/// Where the vault begins. While there is none: an address from which no other one is near.
static BEGIN: AtomicUsize = AtomicUsize::new(NOWHERE);
const NOWHERE: usize = 1 << (usize::BITS - 1);

fn is_ours(block: *const u8) -> bool {
    let begin = BEGIN.load(Ordering::Relaxed);
    block.addr().wrapping_sub(begin) < SIZE
}

/// What the lock protects.
struct Vault {
    lock: UnsafeCell<libc::pthread_mutex_t>,
    arena: UnsafeCell<Arena<CHUNKS>>,
    /// Bytes from the beginning that may be used.
    usable: Cell<usize>,
    /// Whether there will never be a vault.
    failed: Cell<bool>,
}

// SAFETY: whoever uses what is in it has the lock.
unsafe impl Sync for Vault {}

static VAULT: Vault = Vault {
    lock: UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER),
    arena: UnsafeCell::new(Arena::new()),
    usable: Cell::new(0),
    failed: Cell::new(false),
};

/// The vault, for as long as this is there.
struct Opened(&'static Vault);

impl Vault {
    fn open() -> Opened {
        // SAFETY: the mutex is initialised, and its thread never locks it twice: between lock and
        // unlock nothing is allocated or freed.
        unsafe { libc::pthread_mutex_lock(VAULT.lock.get()) };
        Opened(&VAULT)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: this thread has locked it.
        unsafe { libc::pthread_mutex_unlock(self.0.lock.get()) };
    }
}

impl Opened {
    fn arena(&mut self) -> &mut Arena<CHUNKS> {
        // SAFETY: this thread has the lock, and borrows `self` for as long.
        unsafe { &mut *self.0.arena.get() }
    }

    fn take(&mut self, size: usize, align: usize) -> Option<*mut u8> {
        let begin = self.begin()?;
        let offset = self.arena().take(size, align)?;
        let end = offset + self.arena().size_at(offset);
        if end > self.0.usable.get() && !self.make_usable(begin, end) {
            self.arena().give_back(offset);
            return None;
        }
        Some(ptr::with_exposed_provenance_mut(begin + offset))
    }

    /// Where the vault begins. The first one who asks makes it.
    fn begin(&mut self) -> Option<usize> {
        let begin = BEGIN.load(Ordering::Relaxed);
        if begin != NOWHERE {
            return Some(begin);
        }
        if self.0.failed.get() {
            return None;
        }
        match reserve() {
            Some(begin) => BEGIN.store(begin, Ordering::Relaxed),
            None => self.0.failed.set(true),
        }
        self.begin()
    }

    /// Memory is the system's to count, and to refuse, when it is used.
    fn make_usable(&mut self, begin: usize, end: usize) -> bool {
        let end = end.next_multiple_of(STEP).min(SIZE);
        let range = ptr::with_exposed_provenance_mut(begin);
        // SAFETY: the range is the vault's.
        let failed = unsafe { libc::mprotect(range, end, libc::PROT_READ | libc::PROT_WRITE) };
        if failed == 0 {
            self.0.usable.set(end);
        }
        failed == 0
    }
}

/// So much more of the range is made usable at a time.
const STEP: usize = 1024 * 1024;

/// A block of the vault, or null. Its bytes are zero.
fn take(size: usize, align: usize) -> *mut u8 {
    let taken = Vault::open().take(size, align);
    taken.unwrap_or(ptr::null_mut())
}

/// How many bytes a block of the vault has.
fn bytes_at(block: *mut u8) -> usize {
    let offset = block.addr() - BEGIN.load(Ordering::Relaxed);
    Vault::open().arena().size_at(offset)
}

/// Wipes a block of the vault and lets others have it.
///
/// # Safety
///
/// Nobody uses it any more.
unsafe fn give_back(block: *mut u8) {
    let begin = BEGIN.load(Ordering::Relaxed);
    let offset = block.addr() - begin;
    let mut vault = Vault::open();
    let size = vault.arena().size_at(offset);
    if size > CHUNK {
        // It takes a while, in which others need not wait.
        drop(vault);
        // SAFETY: the block has so many bytes, and nobody uses them.
        unsafe { discard(block, size) };
        vault = Vault::open();
    } else {
        // SAFETY: the block has so many bytes, and nobody uses them.
        unsafe { wipe(block, size) };
    }
    if let Some(given_back) = vault.arena().give_back(offset)
        && let Some((offset, size)) = given_back.surplus
        && size <= CHUNK
    {
        // SAFETY: the range is the vault's, has been wiped, and is nobody's.
        unsafe { discard(ptr::with_exposed_provenance_mut(begin + offset), size) };
    }
}

/// To be called once.
fn survive_forks() {
    // SAFETY: the handlers take and release the vault's lock and nothing else. They are never
    // unmapped, the library being linked with `-z nodelete`.
    unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(after_fork)) };
}

/// A child has the memory of its parent, but not the thread that may have the lock at that moment.
extern "C" fn before_fork() {
    std::mem::forget(Vault::open());
}

extern "C" fn after_fork() {
    drop(Opened(&VAULT));
}

#[cfg(test)]
mod tests {
    use super::*;

    pub const SECRET: &[u8] = b"nobody is to see this, wherever it has been copied to";

    /// What is at the address of a block, which may be another test's by now.
    pub fn peek(block: *const u8, size: usize) -> Vec<u8> {
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        let mut bytes = vec![0; size];
        std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes, block.addr() as u64)
            .unwrap();
        bytes
    }

    #[test]
    fn all_that_is_allocated_within_is_in_the_vault_and_wiped() {
        let (text, boxed) = within(|| (SECRET.to_vec(), Box::new(7_u64)));
        assert!(is_ours(text.as_ptr()));
        assert!(is_ours(ptr::from_ref(&*boxed).cast()));
        assert!(!is_ours(SECRET.to_vec().as_ptr()));
        let place = text.as_ptr();
        assert_eq!(peek(place, SECRET.len()), SECRET);
        drop(text);
        assert_ne!(peek(place, SECRET.len()), SECRET);
    }

    #[test]
    fn what_grows_outside_or_on_another_thread_stays_secret() {
        let mut text = within(|| SECRET.to_vec());
        let places = std::thread::spawn(move || {
            let mut places = vec![text.as_ptr().addr()];
            while text.len() < 1_000_000 {
                text.extend_from_within(..);
                assert!(is_ours(text.as_ptr()));
                if text.as_ptr().addr() != places[places.len() - 1] {
                    places.push(text.as_ptr().addr());
                }
            }
            assert!(text.chunks(SECRET.len()).all(|chunk| chunk == SECRET));
            places
        });
        let places = places.join().unwrap();
        assert!(places.len() > 5);
        for place in places {
            let left = peek(ptr::with_exposed_provenance(place), SECRET.len());
            assert_ne!(left, SECRET);
        }
    }

    #[test]
    fn what_came_from_outside_is_moved_when_it_grows_and_wiped() {
        let mut text = SECRET.to_vec();
        text.shrink_to_fit();
        within(|| text.extend_from_slice(SECRET));
        assert!(is_ours(text.as_ptr()));
        assert_eq!(text, [SECRET, SECRET].concat());
    }

    #[test]
    fn within_ends_with_a_panic() {
        let panicked = std::panic::catch_unwind(|| within(|| panic!("of a test")));
        assert!(panicked.is_err());
        assert!(!is_within());
        assert!(!is_ours(SECRET.to_vec().as_ptr()));
    }

    #[test]
    fn zeroed_memory_is_zero_also_where_a_secret_was() {
        within(|| {
            for size in [1, 20, 500, 5_000, 50_000, 500_000] {
                drop(vec![0xff_u8; size]);
                assert!(vec![0_u8; size].iter().all(|byte| *byte == 0));
            }
        });
    }

    #[test]
    fn ordinary_memory_takes_its_place_where_it_is_full() {
        let vectors = within(|| [(); 3].map(|()| Vec::<u8>::with_capacity(SIZE / 2)));
        let ours = vectors.iter().filter(|vector| is_ours(vector.as_ptr()));
        assert_eq!(ours.count(), 1);
    }

    #[test]
    fn no_core_dump_has_it() {
        let text = within(|| SECRET.to_vec());
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_here = false;
        let mut flags = None;
        for line in maps.lines() {
            let range = line
                .split(' ')
                .next()
                .and_then(|range| range.split_once('-'));
            let address = |text| usize::from_str_radix(text, 16).ok();
            if let Some((Some(begin), Some(end))) =
                range.map(|(begin, end)| (address(begin), address(end)))
            {
                is_here = (begin..end).contains(&text.as_ptr().addr());
            } else if is_here && let Some(found) = line.strip_prefix("VmFlags:") {
                flags = Some(found.to_owned());
            }
        }
        // "dd": core(5), MADV_DONTDUMP.
        assert!(flags.unwrap().split(' ').any(|flag| flag == "dd"));
    }

    #[test]
    fn threads_that_come_and_go_lose_nothing() {
        let threads: Vec<_> = (0..8_u8)
            .map(|number| {
                std::thread::spawn(move || {
                    within(|| {
                        let mut kept = Vec::new();
                        for round in 0..20_000_usize {
                            let vector = vec![number; round * 7 % 3000];
                            kept.push(vector);
                            if kept.len() > 50 {
                                let vector = kept.swap_remove(round % 50);
                                assert!(vector.iter().all(|byte| *byte == number));
                            }
                        }
                    });
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    }
}
