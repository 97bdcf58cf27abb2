//! Frame tags: who may reach each frame of the machine.
//!
//! What SEV-SNP's reverse map table holds (AMD APM vol. 2 §15.36.3: owner, guest
//! frame, page size; 16 bytes a frame), with two changes in meaning: loads are
//! checked too, and in the place of the guest frame, which a walk of one
//! dimension does not know, a *colour* is compared. A frame gets another colour
//! each time it is given to a guest, so that an entry from before does not reach
//! it, not even an entry of the same guest for another of its pages.

use super::array::{COLOURS, Given};
use super::words::Words;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use paging::{Gfn, Hfn, Hpa, PageSize};

/// Bytes of a tag in memory.
pub const TAG_BYTES: u64 = 16;

/// Whom frames can belong to: a VM by its number, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Owner(u16);

impl Owner {
    /// VM number `vm`; none if there are more than tags can tell apart.
    pub const fn vm(vm: u32) -> Option<Owner> {
        if vm < u16::MAX as u32 { Some(Owner(vm as u16 + 1)) } else { None }
    }
}

/// A frame's tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    /// Who may reach it; nobody but the host if none.
    pub owner: Option<Owner>,
    /// The name that entries must use.
    pub colour: u8,
    /// The host's page that it is a part of.
    pub size: PageSize,
    /// The guest frame that it is.
    pub gfn: Gfn,
}

impl Tag {
    // Bits 0-15 owner, 16-22 colour, 23-24 size, 25-63 guest frame.
    const fn pack(self) -> u64 {
        let owner = match self.owner {
            Some(Owner(vm)) => vm as u64,
            None => 0,
        };
        owner | (self.colour as u64) << 16 | ((self.size.level() - 1) as u64) << 23 | self.gfn.number() << 25
    }
    const fn unpack(word: u64) -> Tag {
        let size = match word >> 23 & 3 {
            1 => PageSize::Size2M,
            2 => PageSize::Size1G,
            _ => PageSize::Size4K,
        };
        let owner = match word as u16 {
            0 => None,
            vm => Some(Owner(vm)),
        };
        Tag { owner, colour: (word >> 16 & 0x7f) as u8, size, gfn: Gfn::new(word >> 25) }
    }
}

/// Where the tags are in memory: in pieces, each for 2^`order` frames, as the
/// segmented table of newer CPUs (one piece lies on the node of its frames).
#[derive(Clone, Debug, Default)]
pub struct TagPlaces {
    /// log2 of the frames whose tags are in one piece.
    pub order: u32,
    /// The pieces' first frames, by the frames' numbers.
    pub pieces: Vec<Hfn>,
}

impl TagPlaces {
    /// Frames that hold the tags of 2^`order` frames.
    pub const fn piece_frames(order: u32) -> u64 {
        ((1 << order) * TAG_BYTES).div_ceil(4096)
    }
    /// Bytes of all pieces.
    pub fn bytes(&self) -> u64 {
        // A hole in memory has none.
        self.pieces.iter().filter(|piece| **piece != Hfn::default()).count() as u64
            * Self::piece_frames(self.order)
            * 4096
    }
}

/// The tags of all frames of a machine.
///
/// One word a frame, changed by the host alone, checked by walkers of all CPUs
/// at the same time. Taking a frame back is: [`FrameTags::take`], then a flush of
/// all TLBs and walk caches that may hold it, and only then may the frame be used
/// for something else. A check that came before the first step fills what the
/// second removes.
#[derive(Debug)]
pub struct FrameTags {
    words: Words,
    places: TagPlaces,
    /// How often a frame's colours came round.
    epoch: AtomicU64,
}

impl FrameTags {
    /// For a machine of `frames` frames, nobody's yet.
    pub fn new(frames: u64, places: TagPlaces) -> Self {
        FrameTags { words: Words::new(frames), places, epoch: AtomicU64::new(0) }
    }

    /// Where the tag of a frame is in memory. Beyond memory: the first tag's place, as no tag is there.
    #[inline(always)]
    pub fn address(&self, frame: Hfn) -> Hpa {
        let order = self.places.order;
        let piece = self.places.pieces.get((frame.number() >> order) as usize).copied().unwrap_or_default();
        piece.base().offset((frame.number() & ((1 << order) - 1)) * TAG_BYTES)
    }

    /// A frame's tag.
    #[inline(always)]
    pub fn get(&self, frame: Hfn) -> Tag {
        Tag::unpack(self.words.load(frame.number()))
    }

    /// The check: the size of the host page around `frame` if it is `owner`'s under
    /// this colour.
    #[inline(always)]
    pub fn admits(&self, owner: Owner, frame: Hfn, colour: u8) -> Option<PageSize> {
        let tag = self.get(frame);
        (tag.owner == Some(owner) && tag.colour == colour).then_some(tag.size)
    }

    /// The host gives the page of `size` at `frame` to `owner` as its guest frames from
    /// `gfn` on. Returns what entries must say. All frames of a page have one colour,
    /// which none of them had before (or, when colours came round, not since the last
    /// [epoch](Self::epoch)).
    pub fn give(&self, owner: Owner, gfn: Gfn, frame: Hfn, size: PageSize) -> Given {
        let frames = (0..size.frames()).map(|n| frame.offset(n));
        let last = frames.map(|f| self.get(f).colour).max().unwrap_or(0);
        let colour = last % COLOURS + 1;
        if last == COLOURS {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        for n in 0..size.frames() {
            let tag = Tag { owner: Some(owner), colour, size, gfn: gfn.offset(n) };
            self.words.swap(frame.number() + n, tag.pack());
        }
        Given::new(frame, colour, size)
    }

    /// The host page around a frame that stays its owner's is of another size now.
    pub fn resize(&self, frame: Hfn, size: PageSize) {
        let tag = Tag { size, ..self.get(frame) };
        self.words.swap(frame.number(), tag.pack());
    }

    /// The host takes a frame back: nobody may reach it. The colour stays, so that
    /// the next owner gets another one.
    pub fn take(&self, frame: Hfn) -> Tag {
        let old = self.get(frame);
        let none = Tag { owner: None, size: PageSize::Size4K, gfn: Gfn::new(0), ..old };
        self.words.swap(frame.number(), none.pack());
        old
    }

    /// How often colours came round. A guest has to look at all its entries before
    /// it runs on them again.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Frames that belong to `owner`, with their tags.
    pub fn owned(&self, owner: Owner) -> impl Iterator<Item = (Hfn, Tag)> + '_ {
        let tags = self.words.range(0..u64::MAX).map(|(frame, word)| (Hfn::new(frame), Tag::unpack(word)));
        tags.filter(move |(_, tag)| tag.owner == Some(owner))
    }

    /// What they take of the machine's memory.
    pub fn bytes(&self) -> u64 {
        self.places.bytes()
    }

    /// Where they are.
    pub fn places(&self) -> &TagPlaces {
        &self.places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_survives_packing() {
        for (owner, colour, size, gfn) in [
            (Owner::vm(0), 1, PageSize::Size4K, 0),
            (None, 127, PageSize::Size2M, (1 << 38) - 1),
            (Owner::vm(u32::from(u16::MAX) - 1), 64, PageSize::Size1G, 512 * 512),
        ] {
            let tag = Tag { owner, colour, size, gfn: Gfn::new(gfn) };
            assert_eq!(Tag::unpack(tag.pack()), tag);
        }
        assert_eq!(Owner::vm(u32::from(u16::MAX)), None);
    }

    #[test]
    fn an_old_name_reaches_nothing_until_colours_come_round() {
        let tags = FrameTags::new(2048, TagPlaces::default());
        let (one, two) = (Owner::vm(0).unwrap(), Owner::vm(1).unwrap());
        let frame = Hfn::new(600);
        let mut names = Vec::new();
        for round in 0..u32::from(COLOURS) {
            let given =
                tags.give(if round % 2 == 0 { one } else { two }, Gfn::new(7), frame, PageSize::Size4K);
            assert!(!names.contains(&given.colour()));
            names.push(given.colour());
            tags.take(frame);
            assert_eq!(tags.admits(one, frame, given.colour()), None);
        }
        assert_eq!(tags.epoch(), 0);
        // The block's colour is new to each of its frames, and that is noticed.
        let block = tags.give(two, Gfn::new(512), Hfn::new(512), PageSize::Size2M);
        assert_eq!(tags.epoch(), 1);
        assert_eq!(tags.admits(two, frame, block.colour()), Some(PageSize::Size2M));
        assert_eq!(tags.admits(one, frame, block.colour()), None);
        assert_eq!(tags.owned(two).count(), 512);
    }

    #[test]
    fn tags_lie_in_their_pieces() {
        let places = TagPlaces { order: 8, pieces: [40, 9].map(Hfn::new).to_vec() };
        assert_eq!((TagPlaces::piece_frames(8), places.bytes()), (1, 8192));
        let tags = FrameTags::new(512, places);
        assert_eq!(tags.address(Hfn::new(255)).raw(), 40 * 4096 + 255 * 16);
        assert_eq!(tags.address(Hfn::new(256)).raw(), 9 * 4096);
        assert_eq!(TagPlaces::piece_frames(17), 512);
    }
}
