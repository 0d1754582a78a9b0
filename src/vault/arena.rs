//! Which bytes of a stretch of memory are taken. Arithmetic alone: offsets in, offsets out.
//!
//! The stretch is divided into chunks. A chunk has slots of one size, or is part of a run of chunks
//! for one large allocation.

/// Bytes of a chunk.
pub const CHUNK: usize = 32 * 1024;

/// Bytes of a slot. A larger one would waste the rest of its chunk.
const CLASSES: [usize; 17] = [
    16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192,
];

const SMALLEST: usize = CLASSES[0];
const LARGEST: usize = CLASSES[CLASSES.len() - 1];

/// Words with a bit for each slot of a chunk.
const WORDS: usize = CHUNK / SMALLEST / 64;

/// Chunks that nobody has and that keep their memory, for whoever comes next.
const SPARE: usize = 16;

/// See the module. All of it is zero at first, so that it takes no room in the library's file.
pub struct Arena<const CHUNKS: usize> {
    chunks: [Chunk; CHUNKS],
    taken: [[u64; WORDS]; CHUNKS],
    /// For each class the first chunk that has a free slot.
    open: [Link; CLASSES.len()],
    /// Every chunk below is somebody's.
    first_free: usize,
    spare: usize,
}

#[derive(Clone, Copy)]
struct Chunk {
    is: Kind,
    /// Slots that are taken; of the first chunk of a run, how many chunks it has.
    count: u16,
    /// Neighbours among the chunks of a class that have a free slot.
    next: Link,
    previous: Link,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nobody's, and without memory.
    Fresh,
    /// Nobody's, with memory.
    Spare,
    /// Slots of a class.
    Slots(u8),
    /// The first of a run.
    Run,
    /// Another one of a run.
    Rest,
}

/// A chunk, or none.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Link(u16);

impl Link {
    const NONE: Self = Self(0);

    fn to(index: usize) -> Self {
        // There are fewer chunks than u16 has numbers.
        Self(index as u16 + 1)
    }

    fn index(self) -> Option<usize> {
        usize::from(self.0).checked_sub(1)
    }
}

/// What was given back.
#[derive(Debug, PartialEq, Eq)]
pub struct GivenBack {
    /// Its bytes, which have to be wiped.
    pub size: usize,
    /// Offset and bytes of what can go back to the system.
    pub surplus: Option<(usize, usize)>,
}

impl<const CHUNKS: usize> Arena<CHUNKS> {
    /// With nothing taken.
    pub const fn new() -> Self {
        let chunk = Chunk {
            is: Kind::Fresh,
            count: 0,
            next: Link::NONE,
            previous: Link::NONE,
        };
        Self {
            chunks: [chunk; CHUNKS],
            taken: [[0; WORDS]; CHUNKS],
            open: [Link::NONE; CLASSES.len()],
            first_free: 0,
            spare: 0,
        }
    }

    /// The offset of `size` bytes that nobody has, a multiple of `align`; `None` if there are none.
    pub fn take(&mut self, size: usize, align: usize) -> Option<usize> {
        if size > CHUNKS * CHUNK || align > CHUNK {
            return None;
        }
        // A slot of 2^n bytes is at a multiple of 2^n.
        let size = match align > SMALLEST {
            true => size.max(align).next_power_of_two(),
            false => size,
        };
        match size > LARGEST {
            true => self.take_run(size.div_ceil(CHUNK)),
            false => self.take_slot(class_of(size)),
        }
    }

    /// How many bytes are taken at `offset`; none if [`Arena::take`] did not give it.
    pub fn size_at(&self, offset: usize) -> usize {
        let index = offset / CHUNK;
        match self.chunks[index].is {
            Kind::Slots(class) => {
                let size = CLASSES[usize::from(class)];
                let slot = offset % CHUNK / size;
                let is_taken = self.taken[index][slot / 64] & (1 << (slot % 64)) != 0;
                let is_start = (offset % CHUNK).is_multiple_of(size);
                if is_taken && is_start { size } else { 0 }
            }
            Kind::Run if offset.is_multiple_of(CHUNK) => {
                usize::from(self.chunks[index].count) * CHUNK
            }
            _ => 0,
        }
    }

    /// Takes back what [`Arena::take`] gave. `None` if it did not, or if it was given back already.
    pub fn give_back(&mut self, offset: usize) -> Option<GivenBack> {
        let size = self.size_at(offset);
        if size == 0 {
            return None;
        }
        let index = offset / CHUNK;
        let surplus = match self.chunks[index].is {
            Kind::Slots(class) => {
                self.give_back_slot(usize::from(class), index, offset % CHUNK / size)
            }
            _ => self.free(index, size / CHUNK),
        };
        Some(GivenBack { size, surplus })
    }

    fn take_slot(&mut self, class: usize) -> Option<usize> {
        let size = CLASSES[class];
        let index = match self.open[class].index() {
            Some(index) => index,
            None => {
                let index = self.take_run(1)? / CHUNK;
                self.chunks[index].is = Kind::Slots(class as u8);
                self.chunks[index].count = 0;
                self.link(class, index);
                index
            }
        };
        let words = &mut self.taken[index];
        let (at, word) = words
            .iter_mut()
            .enumerate()
            .find(|(_, word)| **word != !0)?;
        let bit = word.trailing_ones() as usize;
        *word |= 1 << bit;
        let chunk = &mut self.chunks[index];
        chunk.count += 1;
        if usize::from(chunk.count) == CHUNK / size {
            self.unlink(class, index);
        }
        Some(index * CHUNK + (at * 64 + bit) * size)
    }

    fn give_back_slot(
        &mut self,
        class: usize,
        index: usize,
        slot: usize,
    ) -> Option<(usize, usize)> {
        self.taken[index][slot / 64] &= !(1 << (slot % 64));
        let chunk = &mut self.chunks[index];
        if usize::from(chunk.count) == CHUNK / CLASSES[class] {
            self.link(class, index);
        }
        let chunk = &mut self.chunks[index];
        chunk.count -= 1;
        // The last one of its class stays: whoever takes and gives back one slot gets it again.
        let is_last = chunk.next == Link::NONE && chunk.previous == Link::NONE;
        if chunk.count > 0 || is_last {
            return None;
        }
        self.unlink(class, index);
        self.free(index, 1)
    }

    fn take_run(&mut self, count: usize) -> Option<usize> {
        let mut found = 0;
        let mut free = self.first_free..CHUNKS;
        let last = free.find(|&index| {
            let is_free = matches!(self.chunks[index].is, Kind::Fresh | Kind::Spare);
            found = if is_free { found + 1 } else { 0 };
            found == count
        })?;
        let first = last + 1 - count;
        if first == self.first_free {
            self.first_free = last + 1;
        }
        for chunk in &mut self.chunks[first..=last] {
            self.spare -= usize::from(chunk.is == Kind::Spare);
            chunk.is = Kind::Rest;
        }
        self.chunks[first].is = Kind::Run;
        self.chunks[first].count = count as u16;
        Some(first * CHUNK)
    }

    fn free(&mut self, first: usize, count: usize) -> Option<(usize, usize)> {
        self.first_free = self.first_free.min(first);
        let is_spare = self.spare + count <= SPARE;
        self.spare += if is_spare { count } else { 0 };
        for chunk in &mut self.chunks[first..first + count] {
            chunk.is = if is_spare { Kind::Spare } else { Kind::Fresh };
        }
        (!is_spare).then_some((first * CHUNK, count * CHUNK))
    }

    fn link(&mut self, class: usize, index: usize) {
        let next = std::mem::replace(&mut self.open[class], Link::to(index));
        self.chunks[index].next = next;
        self.chunks[index].previous = Link::NONE;
        if let Some(next) = next.index() {
            self.chunks[next].previous = Link::to(index);
        }
    }

    fn unlink(&mut self, class: usize, index: usize) {
        let Chunk { next, previous, .. } = self.chunks[index];
        match previous.index() {
            Some(previous) => self.chunks[previous].next = next,
            None => self.open[class] = next,
        }
        if let Some(next) = next.index() {
            self.chunks[next].previous = previous;
        }
    }
}

/// The class of so many bytes, at most [`LARGEST`].
fn class_of(size: usize) -> usize {
    const STEPS: usize = LARGEST / SMALLEST + 1;
    const BY_STEP: [u8; STEPS] = {
        let mut classes = [0; STEPS];
        let (mut step, mut class) = (0, 0);
        while step < STEPS {
            if step * SMALLEST > CLASSES[class] {
                class += 1;
            }
            classes[step] = class as u8;
            step += 1;
        }
        classes
    };
    usize::from(BY_STEP[size.div_ceil(SMALLEST)])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const CHUNKS: usize = 1024;
    const SIZE: usize = CHUNKS * CHUNK;

    fn arena() -> Box<Arena<CHUNKS>> {
        Box::new(Arena::new())
    }

    #[test]
    fn a_slot_is_as_large_as_asked_for_and_not_much_larger() {
        let mut arena = arena();
        for size in 0..=LARGEST {
            let offset = arena.take(size, 1).unwrap();
            let taken = arena.size_at(offset);
            assert!(taken >= size && taken <= (size * 2).max(SMALLEST), "{size}");
            assert_eq!(offset % SMALLEST, 0);
            assert_eq!(arena.give_back(offset).unwrap().size, taken);
        }
    }

    #[test]
    fn alignment_is_kept() {
        let mut arena = arena();
        for align in (0..=15).map(|n| 1 << n) {
            for size in [1, align - 1, align, align + 1, 3 * align] {
                let offset = arena.take(size, align).unwrap();
                assert_eq!(offset % align, 0, "{size} at {align}");
                assert!(arena.size_at(offset) >= size);
            }
        }
        assert_eq!(arena.take(1, CHUNK * 2), None);
    }

    /// Some thousand allocations that come and go in an order that a small generator makes.
    #[test]
    fn no_byte_is_anybody_elses() {
        let mut arena = arena();
        let mut taken = BTreeMap::new();
        let mut random = 1_u64;
        let mut next = |bound: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) as usize % bound
        };
        for _ in 0..50_000 {
            if taken.len() < 300 && next(5) < 3 {
                let (bits, align) = (next(18), next(7));
                let offset = arena.take(next(1 << bits), 1 << align).unwrap();
                let size = arena.size_at(offset);
                let before = taken.range(..=offset).next_back();
                assert!(before.is_none_or(|(at, size)| at + size <= offset));
                let behind = taken.range(offset..).next();
                assert!(behind.is_none_or(|(at, _)| offset + size <= *at));
                taken.insert(offset, size);
            } else if let Some((&offset, &size)) = taken.iter().nth(next(taken.len().max(1))) {
                assert_eq!(arena.give_back(offset).unwrap().size, size);
                taken.remove(&offset);
            }
        }
        for (offset, _) in taken {
            arena.give_back(offset).unwrap();
        }
        // Of each class one chunk stays.
        let is_free = |chunk: &&Chunk| matches!(chunk.is, Kind::Fresh | Kind::Spare);
        assert!(arena.chunks.iter().filter(is_free).count() >= CHUNKS - CLASSES.len());
        assert!(arena.spare <= SPARE);
        assert!(arena.take(SIZE / 2, 1).is_some());
    }

    #[test]
    fn what_nobody_has_cannot_be_given_back() {
        let mut arena = arena();
        let (small, large) = (
            arena.take(100, 1).unwrap(),
            arena.take(CHUNK * 3, 1).unwrap(),
        );
        assert_eq!(arena.give_back(small + 1), None);
        assert_eq!(arena.give_back(small + 128), None);
        assert_eq!(arena.give_back(large + CHUNK), None);
        assert_eq!(arena.give_back(large + 16), None);
        assert_eq!(arena.give_back(CHUNK * 100), None);
        assert!(arena.give_back(small).is_some());
        assert!(arena.give_back(large).is_some());
        assert_eq!(arena.give_back(small), None);
        assert_eq!(arena.give_back(large), None);
    }

    #[test]
    fn it_is_full_when_it_is_full_and_not_later() {
        let mut arena = arena();
        assert_eq!(arena.take(SIZE + 1, 1), None);
        assert_eq!(arena.take(usize::MAX, 1), None);
        let all = arena.take(SIZE, 1).unwrap();
        assert_eq!(arena.take(1, 1), None);
        assert_eq!(arena.give_back(all).unwrap().surplus, Some((0, SIZE)));
        let slots: Vec<_> = (0..).map_while(|_| arena.take(8192, 1)).collect();
        assert_eq!(slots.len(), SIZE / 8192);
        assert!(slots.iter().all(|slot| arena.give_back(*slot).is_some()));
        assert!(arena.take(SIZE - CHUNK, 1).is_some());
    }

    #[test]
    fn all_but_some_memory_goes_back() {
        let mut arena = arena();
        let slots: Vec<_> = (0..2 * 2048)
            .map(|_| arena.take(4096, 1).unwrap())
            .collect();
        let surplus = slots
            .iter()
            .filter_map(|slot| arena.give_back(*slot)?.surplus);
        let surplus: usize = surplus.map(|(_, size)| size).sum();
        assert_eq!(surplus, slots.len() * 4096 - (SPARE + 1) * CHUNK);
    }
}
